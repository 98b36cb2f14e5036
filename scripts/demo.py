"""The warp layers at work, as a picture: a phantom and its checkerboard carried by four kinds of transform.

python scripts/demo.py [FOLDER]          writes FOLDER/warps.png (demo/)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from torch import Tensor

from warpzoo.geometry.affine import affine_field, compose_affine
from warpzoo.geometry.bspline import bspline_field, control_shape
from warpzoo.geometry.jacobian import jacobian_determinant
from warpzoo.geometry.sampling import voxel_coordinates, warp
from warpzoo.geometry.velocity import compose, integrate_velocity
from warpzoo.metrics import folding

SHAPE = [160, 128]
SPACING = [32, 32]
ELLIPSES = [  # centre and half axes in parts of the sides, brightness added
    (0.50, 0.50, 0.42, 0.40, 0.75),
    (0.50, 0.50, 0.37, 0.34, -0.45),
    (0.40, 0.36, 0.13, 0.09, 0.35),
    (0.42, 0.66, 0.16, 0.08, -0.20),
    (0.68, 0.52, 0.09, 0.16, 0.25),
]


def phantom() -> Tensor:
    """(1, 1, *SHAPE) between 0 and 1."""
    rows, columns = voxel_coordinates(SHAPE, torch.float32, torch.device("cpu"))
    image = torch.zeros(SHAPE)
    for row, column, height, width, brightness in ELLIPSES:
        distance = ((rows / SHAPE[0] - row) / height) ** 2 + ((columns / SHAPE[1] - column) / width) ** 2
        image += brightness * torch.sigmoid(25 * (1 - distance))
    return image[None, None]


def checkerboard(side: int = 8) -> Tensor:
    rows, columns = voxel_coordinates(SHAPE, torch.float32, torch.device("cpu")).long() // side
    return ((rows + columns) % 2).float()[None, None]


def transforms() -> dict[str, Tensor]:
    """Displacements (1, 2, *SHAPE); the same control points make a B-spline that folds and a flow that cannot."""
    points = 20 * torch.randn(1, 2, *control_shape(SHAPE, SPACING), generator=torch.Generator().manual_seed(4))
    matrix = compose_affine(
        shear=torch.tensor([[0.10]]),
        scale=torch.tensor([[1.15, 0.90]]).log(),
        rotation=torch.tensor([[0.30]]),
        translation=torch.tensor([[0.05, -0.05]]),
    )
    affine = affine_field(matrix, SHAPE)
    spline = bspline_field(points, SHAPE, SPACING)
    flow = integrate_velocity(spline)
    return {
        "identity": torch.zeros_like(affine),
        "affine": affine,
        "cubic B-spline": spline,
        "the same as a velocity": flow,
        "velocity, then affine": compose(flow, affine),
    }


def draw_jacobian(axes: Axes, displacement: Tensor, determinant: Tensor, step: int = 8) -> QuadMesh:
    """The fixed grid where the transform takes it, coloured by how much larger its cells become."""
    rows, columns = voxel_coordinates(SHAPE, torch.float32, torch.device("cpu")) + displacement
    mesh = axes.pcolormesh(columns, rows, determinant, cmap="RdBu", vmin=0, vmax=2, shading="gouraud")
    lines = [[*range(0, size, step), size - 1] for size in SHAPE]
    axes.plot(columns[lines[0]].T, rows[lines[0]].T, color="black", linewidth=0.4)
    axes.plot(columns[:, lines[1]], rows[:, lines[1]], color="black", linewidth=0.4)
    axes.plot(columns[determinant <= 0], rows[determinant <= 0], ".", color="gold", markersize=1.5)
    axes.set(xlim=(-25, SHAPE[1] + 24), ylim=(SHAPE[0] + 30, -31), aspect="equal")
    return mesh


def main(folder: Path) -> None:
    moving, board = phantom(), checkerboard()
    columns = transforms()
    figure = Figure(figsize=(2.6 * len(columns), 9.4), layout="constrained")
    panels = figure.subplots(3, len(columns))
    print(f"{'transform':32}{'Jacobian determinant':>22}{'folded':>9}")
    for (name, displacement), (top, middle, bottom) in zip(columns.items(), panels.T, strict=True):
        determinant = jacobian_determinant(displacement)
        span = f"{determinant.min().item():.2f} to {determinant.max().item():.2f}"
        folded = f"{folding(displacement).forward.item():.1%}"
        print(f"{name:32}{span:>22}{folded:>9}")

        top.imshow(warp(moving, displacement)[0, 0], cmap="gray", vmin=0, vmax=1)
        top.set_title(name)
        middle.imshow(warp(board, displacement)[0, 0], cmap="gray", vmin=0, vmax=1)
        mesh = draw_jacobian(bottom, displacement[0], determinant[0, 0])
        bottom.set_xlabel(f"{span}\nfolded: {folded}")
    for panel, label in zip(panels[:, 0], ("image", "checkerboard", "grid, Jacobian determinant"), strict=True):
        panel.set_ylabel(label)
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
    figure.colorbar(mesh, ax=panels, shrink=0.3, anchor=(0, 0.05), label="determinant (gold: folded)")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "warps.png", dpi=100)
    print(f"\nThe picture: {folder / 'warps.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "demo")
