"""Where the planes of an image lie on the page: which axis runs down, which to the right, how long each voxel is.

Convention: a picture is a matrix, rows downwards and columns to the right. "matrix" shows arrays as they lie in memory,
the first axis of a plane downwards. "world" shows images as radiologists look at them, whatever the order of their axes
in memory: left to the right, anterior or superior upwards (axial and coronal planes), anterior to the right (sagittal
planes). Images without a physical space come out with columns to the right and rows downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from torch import Tensor

from warpzoo.images.content import centre_of

LETTERS = ("RL", "PA", "IS")
NAMES = ("sagittal", "coronal", "axial")
ORIENTATIONS = ("matrix", "world")


@dataclass(frozen=True)
class Plane:
    """One plane of an image (*spatial), cut across an axis of a volume at a voxel, and how it lies on the page."""

    name: str
    cut: int | None
    """The axis of a volume that the plane lies across."""
    index: int
    """The voxel of that axis."""
    axes: tuple[int, int]
    """The spatial axes along the picture's rows (downwards) and columns (to the right)."""
    reverse: tuple[bool, bool]
    """Whether these axes run upwards and to the left instead."""
    shape: tuple[int, int]
    """Rows and columns, in voxels."""
    spacing: tuple[float, float]
    """Height and width of a voxel."""
    letters: str = ""
    """Four letters: what lies at the top, right, bottom and left of a picture of a body."""

    @property
    def size(self) -> tuple[float, float]:
        """Height and width of the picture, in the unit of the spacing."""
        return self.shape[0] * self.spacing[0], self.shape[1] * self.spacing[1]

    def of(self, image: Tensor) -> Tensor:
        """The plane of an image (*any, *spatial): (*any, rows, columns)."""
        if self.cut is not None:
            image = image.select(image.dim() - 3 + self.cut, self.index)
        return self.lay(image)

    def slab(self, image: Tensor) -> tuple[Tensor, int]:
        """The plane and its neighbours on both sides (if there), (*any, *spatial), and its place among them."""
        if self.cut is None:
            return image, 0
        axis = image.dim() - 3 + self.cut
        start = max(0, self.index - 1)
        return image.narrow(axis, start, min(image.shape[axis], self.index + 2) - start), self.index - start

    def lay(self, image: Tensor) -> Tensor:
        """A plane with its axes in the volume's order, (*any, axis, axis), as a picture (*any, rows, columns)."""
        if self.axes[0] > self.axes[1]:
            image = image.transpose(-1, -2)
        return image.flip([axis for axis, reverse in zip((-2, -1), self.reverse, strict=True) if reverse])

    def moved(self, displacement: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Where x ↦ x + displacement(x) takes the plane's voxels: (rows, columns) of rows and of columns.

        The displacement (dims, *spatial) is in voxels; its component across the plane does not show.
        """
        steps = self.of(displacement).float().cpu().numpy()
        down, right = (
            -steps[axis] if reverse else steps[axis] for axis, reverse in zip(self.axes, self.reverse, strict=True)
        )
        rows, columns = np.mgrid[: self.shape[0], : self.shape[1]]
        return rows + down, columns + right


def planes_of(
    image: Tensor, affine: Tensor | np.ndarray | None = None, orientation: str | None = None, body: bool = True
) -> list[Plane]:
    """The planes through the middle of what an image (*spatial) shows: one in 2-D; axial, coronal, sagittal in 3-D.

    Args:
        image: decides the shape, and where volumes are cut: at the centre of its intensities.
        affine: voxel → RAS world, (dims + 1, dims + 1). Without, voxels are cubes, and in the "world" the first axis
            runs to the right, the second one upwards.
        orientation: "matrix" or "world"; without, "matrix" for 2-D images that have no affine, "world" for all others.
        body: whether the affine's world is a body's: planes get their anatomical names and letters at their sides.
    """
    dims = image.dim()
    if dims not in (2, 3):
        raise ValueError(f"image must have 2 or 3 spatial axes and no others, got shape {tuple(image.shape)}.")
    if orientation not in (None, *ORIENTATIONS):
        raise ValueError(f"orientation must be one of {', '.join(ORIENTATIONS)}, got {orientation!r}.")
    if orientation is None:
        orientation = "matrix" if dims == 2 and affine is None else "world"
    body = body and affine is not None
    world = np.diag([-1.0] + [1.0] * dims) if affine is None else np.asarray(affine, dtype=float)
    spacing = np.linalg.norm(world[:dims, :dims], axis=0).tolist()
    centre = centre_of(image)

    def plane(
        cut: int | None, axes: tuple[int, int], reverse: tuple[bool, bool], name: str = "", letters: str = ""
    ) -> Plane:
        if cut is not None and not name:
            name = f"across axis {cut + 1}"
        return Plane(
            name=name,
            cut=cut,
            index=0 if cut is None else centre[cut],
            axes=axes,
            reverse=reverse,
            shape=(image.shape[axes[0]], image.shape[axes[1]]),
            spacing=(spacing[axes[0]], spacing[axes[1]]),
            letters=letters,
        )

    if orientation == "matrix":
        if dims == 2:
            return [plane(None, (0, 1), (False, False))]
        return [plane(cut, axes, (False, False)) for cut, axes in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1)))]

    of_world, backwards = nearest_axes(world)

    def world_plane(cut: int | None, up: int, right: int) -> Plane:
        axes = (of_world[up], of_world[right])
        reverse = (not backwards[up], backwards[right] != (right == 0))
        if cut is None or not body:
            return plane(None if cut is None else of_world[cut], axes, reverse)
        letters = LETTERS[up][1] + LETTERS[right][1] + LETTERS[up][0] + LETTERS[right][0]
        return plane(of_world[cut], axes, reverse, NAMES[cut], letters)

    if dims == 2:
        return [world_plane(None, up=1, right=0)]
    return [world_plane(2, up=1, right=0), world_plane(1, up=2, right=0), world_plane(0, up=2, right=1)]


def nearest_axes(affine: np.ndarray) -> tuple[list[int], list[bool]]:
    """For every world axis the voxel axis that is closest to it, and whether that one runs against it."""
    dims = len(affine) - 1
    directions = affine[:dims, :dims] / np.linalg.norm(affine[:dims, :dims], axis=0)
    best = max(permutations(range(dims)), key=lambda order: sum(abs(directions[w, v]) for w, v in enumerate(order)))
    return list(best), [bool(directions[w, v] < 0) for w, v in enumerate(best)]
