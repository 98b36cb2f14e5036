"""No method mixes devices: each is run on a second device, which the tests emulate, and finds what it finds on the CPU;
what comes back is on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from warpzoo.geometry.bspline import control_shape
from warpzoo.geometry.composition import composed
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, BSpline, Transform, Velocity
from warpzoo.images.conversion import as_image
from warpzoo.images.image import Image
from warpzoo.networks import save_weights
from warpzoo.registration import NetworkMethod, register_pair
from warpzoo.registration.budget import Budget
from warpzoo.registration.optimisation import Optimisation, Refinement
from warpzoo.registration.pair import Method

from .conftest import smooth
from .other_device import Elsewhere, other_device

ROOT = Path(__file__).parents[3]
SHAPE = (24, 22, 20)
BUDGET = Budget(6)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "dirnet": ("DIRNet", {"channels": 4, "spacing": 4, "convolutions": 3, "refinement_steps": 1}),
    "fcn_multires": ("WarpingPyramid", {"channels": [4, 4], "estimators": [4, 4]}),
    "voxelmorph_dense": ("VoxelMorphDense", {"channels": [4, 4], "features": 4, "passes": 2}),
}


def pair(dims: int) -> tuple[Image, Image]:
    """The same blurred noise on two grids, the moving one shifted."""
    values = torch.from_numpy(smooth(SHAPE[:dims])).float()[None]
    moved = np.diag([1.1] * dims + [1.0])
    moved[:-1, -1] = 1.5
    fixed = Image.in_memory(values, Grid(SHAPE[:dims]), "fixed")
    return fixed, Image.in_memory(values.roll(1, 1), Grid(SHAPE[:dims], moved), "moving")


def slight(dims: int) -> Affine:
    """A matrix near the identity, to start from."""
    return Affine(torch.eye(dims, dims + 1)[None] + 0.02 * torch.randn(1, dims, dims + 1), Grid(SHAPE[:dims]))


def check(dims: int, methods_on: Callable[[str], list[Method]], start: Transform | None = None) -> Transform:
    """The methods find on the other device what they find on the CPU, and all that comes of it is on the CPU."""
    fixed, moving = pair(dims)
    expected = register_pair(fixed, moving, methods_on("cpu"), start)
    with other_device() as device:
        torch.manual_seed(0)
        found = register_pair(fixed, moving, methods_on(device), start)
        state = found.transform.state_dict()
        assert all(value.device.type == "cpu" for value in (*state.values(), found.warped.array))
        assert found.metrics["ncc"] == pytest.approx(expected.metrics["ncc"], abs=1e-4)
    assert not any(isinstance(value, Elsewhere) for value in state.values())
    # losses sum in chunks of another size there than on the CPU: the round-off grows with the iterations
    torch.testing.assert_close(state, expected.transform.state_dict(), atol=1e-2, rtol=1e-4)
    assert float(found.displacement.displacement.abs().max()) > 0.01
    return found.transform


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("chain", ["rigid", "affine", "ffd", "svf", "affine,svf"])
def test_optimisation(dims: int, chain: str) -> None:
    check(dims, lambda device: [Optimisation(name, budget=BUDGET, device=device) for name in chain.split(",")])


@pytest.mark.parametrize("similarity", ["ncc", "lncc", "mse", "mi", "mind"])
def test_similarities(similarity: str) -> None:
    check(2, lambda device: [Optimisation(name, similarity, BUDGET, device) for name in ("affine", "svf")])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["matrix", "spline", "velocity", "composition"])
def test_refinement(dims: int, kind: str) -> None:
    shape = SHAPE[:dims]
    grid = Grid(shape)
    matrix = slight(dims)
    spline = BSpline(torch.randn(1, dims, *control_shape(list(shape), [6] * dims)), grid, 6)
    start = {
        "matrix": matrix,
        "spline": spline,
        "velocity": Velocity(torch.randn(1, dims, *shape), grid),
        "composition": composed(spline, matrix),
    }[kind]
    found = check(dims, lambda device: [Refinement(BUDGET, device=device)], start)
    assert found is not start


def network_of(name: str, dims: int) -> nn.Module:
    """A small network of a bundle whose prediction is not zero."""
    kind, options = NETWORKS[name]
    network: nn.Module = getattr(import_module(f"{name}.network"), kind)(dims, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def test_weights_are_saved_for_the_processor(tmp_path: Path) -> None:
    network = network_of("voxelmorph_dense", 2)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    with other_device() as device:
        save_weights(tmp_path / "model.pt", network.to(device), {})
    saved = torch.load(tmp_path / "model.pt")
    assert not any(isinstance(value, Elsewhere) for value in saved.values())
    torch.testing.assert_close(dict(saved), expected)


@pytest.mark.parametrize(
    ("name", "dims", "spacing", "adapt"),
    [
        ("dirnet", 3, None, 0),
        ("dirnet", 2, 0.4, 3),  # its loss needs 51 voxels a side
        ("fcn_multires", 3, 1.3, 0),
        ("fcn_multires", 2, 0.7, 3),
        ("voxelmorph_dense", 2, 1.3, 0),
        ("voxelmorph_dense", 3, None, 3),
    ],
)
def test_networks(
    name: str, dims: int, spacing: float | None, adapt: int, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    root, weights = bundle(name), tmp_path / "model.pt"
    torch.save(network_of(name, dims).state_dict(), weights)

    def methods_on(device: str) -> list[Method]:
        return [NetworkMethod(network_of(name, dims), root, weights, device, dims, spacing, adapt)]

    check(dims, methods_on, start=slight(dims))


def test_a_tensor_comes_back_where_it_was() -> None:
    with other_device() as device:
        image, back = as_image(torch.rand(24, 22).to(device))
        assert image.array.device.type == "cpu"
        assert back(image).device.type == device


def test_what_mixes_devices_is_refused() -> None:
    """As on a GPU, and what a GPU takes is computed."""
    with other_device() as device:
        here, there = torch.arange(6.0).view(2, 3), torch.arange(6.0, device=device).view(2, 3)
        for mixed in (
            lambda: here + there,
            lambda: there @ here.T,
            lambda: torch.cat([here, there]),
            lambda: torch.stack([here[0, 0], there[0, 0]]),
            lambda: here.add_(there.sum()),
            lambda: here[there.long()],
            lambda: torch.where(there > 1, there, here),
            lambda: torch.rand(2, device=device, generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError, match="device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        assert (there + torch.tensor(1.0)).device == there.device
        assert there[torch.tensor([1])].tolist() == [[3.0, 4.0, 5.0]]
        assert there.to(here).equal(here)
        assert torch.tensor([1, 2], device=device).device == there.new_zeros(2).device == there.device
        weight = nn.Linear(3, 1).to(device).weight
        (there @ weight.T).sum().backward()
        assert weight.grad is not None
        assert weight.grad.tolist() == [[3.0, 5.0, 7.0]]
