"""Every layer as TorchScript and as ONNX, each run on another size than the one it was exported with."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from warpzoo.geometry.affine import AffineField, compose_affine
from warpzoo.geometry.bspline import BSplineField
from warpzoo.geometry.sampling import sample, warp, warp_points
from warpzoo.geometry.thin_plate_spline import ThinPlateField
from warpzoo.geometry.velocity import VelocityField, compose

EXPORTED = {2: (14, 11), 3: (7, 9, 8)}
RUN = {2: (9, 17), 3: (10, 7, 12)}
SPACING = 4


class Warp(nn.Module):
    def __init__(self, mode: str, padding: str) -> None:
        super().__init__()
        self.mode, self.padding = mode, padding

    def forward(self, image: Tensor, displacement: Tensor) -> Tensor:
        warped = warp(image, displacement, self.mode, self.padding, 0.5)
        # displacements, shrunk to coordinates around the first voxel: some lie outside
        return warped + sample(image, displacement, self.mode, self.padding, 0.5)


class Points(nn.Module):
    def forward(self, points: Tensor, displacement: Tensor) -> Tensor:
        return warp_points(points, displacement)


class Compose(nn.Module):
    def forward(self, displacement: Tensor, other: Tensor) -> Tensor:
        return compose(displacement, other)


class Parts(nn.Module):
    def forward(self, shear: Tensor, scale: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
        return compose_affine(shear, scale, rotation, translation)


LAYERS = {
    "warp": (lambda dims: Warp("linear", "border"), ["image", "displacement"]),
    "warp_constant": (lambda dims: Warp("linear", "constant"), ["image", "displacement"]),
    "warp_nearest": (lambda dims: Warp("nearest", "constant"), ["image", "displacement"]),
    "points": (lambda dims: Points(), ["points", "displacement"]),
    "compose": (lambda dims: Compose(), ["displacement", "other"]),
    "affine": (lambda dims: AffineField(), ["matrix", "image"]),
    "parts": (lambda dims: Parts(), ["shear", "scale", "rotation", "translation"]),
    "cubic": (lambda dims: BSplineField(SPACING, 3, dims), ["control_points", "image"]),
    "quadratic": (lambda dims: BSplineField(SPACING, 2, dims), ["control_points", "image"]),
    "velocity": (lambda dims: VelocityField(squarings=2), ["velocity"]),
    "thin_plate": (lambda dims: ThinPlateField(SPACING, dims), ["control_points", "image"]),
}


def inputs(names: list[str], batch: int, shape: tuple[int, ...]) -> dict[str, Tensor]:
    torch.manual_seed(len(shape))
    dims, turns = len(shape), 1 if len(shape) == 2 else 3
    control = [-(-size // SPACING) for size in shape]
    shapes = {
        "image": [1, *shape],
        "control_points": [dims, *control],
        "matrix": [dims, dims + 1],
        "points": [batch + 4, dims],
        "shear": [turns],
        "rotation": [turns],
        "scale": [dims],
        "translation": [dims],
    }
    return {name: 1.5 * torch.randn(batch, *shapes.get(name, [dims, *shape])) for name in names}


def dynamic_axes(name: str, layer: str, rank: int) -> list[int]:
    if layer == "thin_plate" or name in ("matrix", "shear", "rotation", "scale", "translation"):
        return [0]
    return [0, 1] if name == "points" else [0, *range(2, rank)]


class Together(nn.Module):
    """Several layers in one graph: the exporter's start takes longer than any of them."""

    def __init__(self, layers: dict[str, nn.Module], names: dict[str, list[str]]) -> None:
        super().__init__()
        self.layers, self.names = nn.ModuleDict(layers), names

    def forward(self, arguments: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: layer(*[arguments[name] for name in self.names[key]]) for key, layer in self.layers.items()}


def run_onnx(path: Path, arguments: dict[str, Tensor]) -> list[Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = {entry.name for entry in session.get_inputs()}  # what does not bear on the result is left out
    found = session.run(None, {key: tensor.numpy() for key, tensor in arguments.items() if key in wanted})
    return [torch.from_numpy(result) for result in found]


def sizes(layer: str, dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The one it is exported with, and the one it is run on."""
    return EXPORTED[dims], EXPORTED[dims] if layer == "thin_plate" else RUN[dims]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_torchscript(name: str, dims: int, tmp_path: Path) -> None:
    make, names = LAYERS[name]
    layer = make(dims)
    torch.jit.script(layer).save(tmp_path / "layer.ts")
    scripted = torch.jit.load(tmp_path / "layer.ts")
    for batch, shape in enumerate([EXPORTED[dims], RUN[dims]], start=2):
        arguments = inputs(names, batch, shape)
        expected = layer(**arguments)
        torch.testing.assert_close(scripted(**arguments), expected, rtol=0, atol=2e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(scripted(**arguments), expected, rtol=0, atol=2e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_onnx_by_tracing(name: str, dims: int, tmp_path: Path) -> None:
    make, names = LAYERS[name]
    layer = make(dims).eval()
    first, second = (inputs(names, batch, shape) for batch, shape in enumerate(sizes(name, dims), start=2))
    expected = layer(**second)
    axes = {key: dynamic_axes(key, name, tensor.dim()) for key, tensor in first.items()}
    torch.onnx.export(
        layer,
        tuple(first.values()),
        str(tmp_path / "layer.onnx"),
        input_names=names,
        opset_version=20,
        dynamo=False,
        dynamic_axes={key: {axis: f"{key}{axis}" for axis in found} for key, found in axes.items()},
    )
    torch.testing.assert_close(run_onnx(tmp_path / "layer.onnx", second)[0], expected, rtol=0, atol=2e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "chosen", [[name for name in LAYERS if name != "thin_plate"], ["thin_plate"]], ids=["any_size", "thin_plate"]
)
def test_onnx_by_dynamo(chosen: list[str], dims: int, tmp_path: Path) -> None:
    together = Together({name: LAYERS[name][0](dims) for name in chosen}, {name: LAYERS[name][1] for name in chosen})
    names = list(dict.fromkeys(name for key in chosen for name in together.names[key]))
    first, second = (inputs(names, batch, shape) for batch, shape in enumerate(sizes(chosen[0], dims), start=2))
    expected = together(second)
    axes = {key: dynamic_axes(key, chosen[0], tensor.dim()) for key, tensor in first.items()}
    torch.onnx.export(
        together.eval(),
        (),
        tmp_path / "layers.onnx",
        kwargs={"arguments": first},
        input_names=names,
        opset_version=20,
        dynamo=True,
        dynamic_shapes={"arguments": {key: dict.fromkeys(found, Dim.DYNAMIC) for key, found in axes.items()}},
        verbose=False,
    )
    found = dict(zip(chosen, run_onnx(tmp_path / "layers.onnx", second), strict=True))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_thin_plate_spline_says_what_its_export_needs(tmp_path: Path) -> None:
    arguments = tuple(inputs(["control_points", "image"], 1, EXPORTED[2]).values())
    with pytest.raises(ValueError, match="run the layer once on that size first"):
        torch.onnx.export(ThinPlateField(SPACING).eval(), arguments, str(tmp_path / "layer.onnx"), dynamo=False)
