"""Nothing mixes devices: all that computes on tensors is run on the meta device, on which a tensor that was made on the
CPU by mistake is an error, as it would be on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from warpzoo import losses, metrics
from warpzoo.geometry.affine import affine_field, compose_affine, invert_affine
from warpzoo.geometry.bspline import BSplineField, bspline_at, control_shape
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.jacobian import corner_determinants, jacobian_determinant
from warpzoo.geometry.sampling import sample, warp, warp_labels, warp_points
from warpzoo.geometry.thin_plate_spline import ThinPlateField
from warpzoo.geometry.transforms import (
    Affine,
    BSpline,
    Composition,
    DisplacementField,
    ThinPlateSpline,
    Transform,
    Velocity,
    resample,
)
from warpzoo.geometry.velocity import compose, integrate_velocity

META = torch.device("meta")
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class OneDevice(TorchDispatchMode):
    """An error for every operation on tensors of two devices; single numbers may come from the CPU, as on a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        devices = {
            one.device.type for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.dim()
        }
        assert len(devices) < 2 or func in MOVES, f"{func} mixes {devices}"
        return func(*args, **kwargs)


def tensor(*shape: int) -> Tensor:
    return torch.rand(*shape, device=META, requires_grad=True)


def shape(dims: int) -> list[int]:
    return [12, 10, 11][:dims]


def transforms(dims: int) -> dict[str, Transform]:
    grid = Grid(shape(dims))
    turns = 1 if dims == 2 else 3
    affine = Affine.from_parts(grid, rotation=tensor(1, turns), translation=tensor(1, dims))
    field = DisplacementField(tensor(1, dims, *grid.shape), grid)
    return {
        "affine": affine,
        "cubic": BSpline(tensor(1, dims, *control_shape(shape(dims), [4] * dims)), grid, 4),
        "thin_plate": ThinPlateSpline(tensor(1, 9, dims), tensor(1, 9, dims), grid),
        "dense": field,
        "velocity": Velocity(tensor(1, dims, *grid.shape), grid),
        "composition": Composition(affine, field),
    }


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has none."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def check(run: Callable[[], Tensor]) -> None:
    with OneDevice():
        result = run()
        assert result.device.type == "meta"
        if result.requires_grad:
            result.sum().backward(retain_graph=True)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", list(transforms(2)))
def test_transforms(dims: int, kind: str) -> None:
    own = shape(dims)
    affine = torch.eye(dims + 1)
    affine[0, 1] = 0.1
    other = Grid([9, 14, 8][:dims], affine)
    points, moving = tensor(1, 5, dims), tensor(1, 1, *other.shape)
    with OneDevice():
        transform = transforms(dims)[kind]
    check(lambda: transform(points))
    check(lambda: transform.world(points))
    check(transform.field)
    check(lambda: transform.field(other))
    check(lambda: transform.jacobian_determinant(other))
    check(lambda: resample(moving, other, transform, Grid(own)))
    check(lambda: resample(moving.detach().long(), other, transform, Grid(own), mode="nearest"))
    if kind in ("affine", "velocity"):
        check(lambda: transform.inverse()(points))
    if kind == "affine":
        check(lambda: Affine.from_world(transform.world_matrix(), other).field())


@pytest.mark.parametrize("dims", [2, 3])
def test_geometry(dims: int) -> None:
    size = shape(dims)
    image, field = tensor(2, 3, *size), tensor(2, dims, *size)
    control, points = tensor(2, dims, *control_shape(size, [4] * dims)), tensor(2, 7, dims)
    for mode in ("linear", "nearest"):
        check(lambda mode=mode: warp(image, field, mode, padding="constant"))
        check(lambda mode=mode: sample(image, field, mode, padding="constant"))
    check(lambda: warp_labels(image[:, :1].detach().long(), field))
    check(lambda: warp_points(points, field))
    check(lambda: integrate_velocity(field))
    check(lambda: compose(field, field))
    check(lambda: jacobian_determinant(field))
    check(lambda: corner_determinants(field))
    check(lambda: BSplineField(4, spatial_dims=dims)(control, image))
    check(lambda: bspline_at(control, points, [4] * dims))
    check(lambda: ThinPlateField(4, dims)(control, image))
    turns = 1 if dims == 2 else 3
    check(lambda: affine_field(compose_affine(tensor(2, turns), tensor(2, dims), tensor(2, turns)), size))
    check(lambda: invert_affine(tensor(2, dims, dims + 1)))


SIMILARITIES = [losses.MSELoss(), losses.NCCLoss(), losses.LNCCLoss(5), losses.MutualInformationLoss(12)]
REGULARISERS = [losses.TotalVariation(), losses.Diffusion(), losses.BendingEnergy(), losses.FoldingPenalty()]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", SIMILARITIES, ids=lambda loss: type(loss).__name__)
def test_similarities(dims: int, masked: bool, loss: nn.Module) -> None:
    fixed, warped = tensor(2, 1, *shape(dims)), tensor(2, 1, *shape(dims))
    mask = torch.ones(2, 1, *shape(dims), device=META) if masked else None
    check(lambda: loss(fixed, warped, mask))


@pytest.mark.parametrize("dims", [2, 3])
def test_other_losses(dims: int) -> None:
    fixed, warped, field = tensor(2, 1, *shape(dims)), tensor(2, 1, *shape(dims)), tensor(2, dims, *shape(dims))
    for regulariser in REGULARISERS:
        check(lambda regulariser=regulariser: regulariser(field))
    check(lambda: losses.InverseConsistency()(field, field))
    check(lambda: losses.Agreement()(fixed, warped, field))
    check(lambda: losses.BlindSpotLoss()(fixed, warped, torch.ones(2, 1, *shape(dims), device=META)))
    check(lambda: losses.Positivity()(fixed))
    multi = losses.MultiResolutionLoss(losses.NCCLoss(), losses.Diffusion(), weights=[1.0])
    check(lambda: multi([(fixed, warped, field)]))


@pytest.mark.parametrize("dims", [2, 3])
def test_metrics(dims: int) -> None:
    image, field, points = tensor(2, 1, *shape(dims)), tensor(2, dims, *shape(dims)), tensor(2, 7, dims)
    for metric in (metrics.snr, metrics.psnr, metrics.scale_invariant_psnr):
        check(lambda metric=metric: metric(image, image))
    labels = image.detach().long()
    check(lambda: metrics.dice(labels, labels, [1, 2]))
    check(lambda: metrics.folding(field).forward)
    check(lambda: metrics.target_registration_error(points, points, [1.0] * dims))


def test_what_mixes_devices_is_seen() -> None:
    matrix = torch.eye(3, device=META)
    with OneDevice(), pytest.raises(AssertionError, match="mixes"):
        matrix @ torch.eye(3)
