"""Transforms optimised for a pair: the truth is made by SimpleITK, in the world, on grids that share nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn import functional as F

from warpzoo.geometry import chunks
from warpzoo.geometry.composition import composed
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.transforms import Affine, Composition, DisplacementField, Transform, resample
from warpzoo.images.image import Image, read_image
from warpzoo.losses import LNCCLoss, local_normalised_cross_correlation
from warpzoo.metrics import folding
from warpzoo.registration import deformation
from warpzoo.registration.budget import Budget
from warpzoo.registration.deformation import FreeFormModel, VelocityModel, lattice_of
from warpzoo.registration.descent import Descent
from warpzoo.registration.network import adapted
from warpzoo.registration.optimisation import optimise
from warpzoo.registration.placement import turns
from warpzoo.registration.pyramid import ImagePyramid, coarser, pyramid, shrink
from warpzoo.training.objectives import RegistrationObjective

from .conftest import oblique, save, smooth

GRIDS = {2: (np.diag([-1.5, -1.2, 1.0]), (72, 60)), 3: (oblique([1.5, 1.2, 2.0], [-30, -25, -20], 12), (40, 44, 30))}
OTHERS = {
    2: (np.diag([-1.8, -2.0, 1.0]), (96, 64)),
    3: (oblique([1.8, 2.4, 2.1], [48, -39, -40], -8, True), (46, 40, 42)),
}


def content(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Blobs in the middle of an empty field, large ones and small ones: no turn of it looks like it."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    noise = sum(scale * gaussian_filter(random.normal(size=shape), scale) for scale in (2, 4, 8))
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    window = np.exp(-(((place / 0.55) ** 2).sum(0) ** 2))
    return (1000 * window * (noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def pair_of(folder: Path, dims: int, truth: sitk.Transform) -> tuple[Image, Image]:
    """A fixed image, and a moving one on another grid whose points the truth takes to the fixed one."""
    (affine, shape), (other, other_shape) = GRIDS[dims], OTHERS[dims]
    if dims == 2:
        affine, other = (
            np.block([[m[:2, :2], np.zeros((2, 2))], [np.zeros((2, 2)), np.eye(2)]]) for m in (affine, other)
        )
        other[:2, 3] = [30.0, 24.0]
    fixed = save(folder / "fixed.nii.gz", content(shape), affine)
    like = save(folder / "moving.nii.gz", np.zeros(other_shape, np.float32), other)
    moved = sitk.Resample(sitk.ReadImage(str(fixed)), sitk.ReadImage(str(like)), truth, sitk.sitkLinear, 0.0)
    sitk.WriteImage(moved, str(like))
    return read_image(fixed), read_image(like)


def lps(points: Tensor) -> Tensor:
    return points * torch.tensor([-1.0, -1.0, 1.0], dtype=points.dtype)[: points.shape[-1]]


def miss(found: Transform, truth: sitk.Transform, fixed: Image) -> Tensor:
    """How far points where there is something miss themselves on the way there by ours and back by SimpleITK's, mm."""
    there_is = fixed.array.flatten() > 200
    world = fixed.grid.to_world(fixed.grid.coordinates(torch.float64)[there_is][::7])
    there = lps(found.world(world)[0]).tolist()
    back = torch.tensor([truth.TransformPoint(point) for point in there], dtype=torch.float64)
    return (back - lps(world)).norm(dim=1)


def turned(dims: int, degrees: float, shift: list[float], stretch: float = 1.0) -> sitk.Transform:
    truth = sitk.AffineTransform(dims)
    if dims == 2:
        truth.Rotate(0, 1, np.deg2rad(degrees))
    else:
        truth.Rotate(0, 2, np.deg2rad(degrees))
        truth.Rotate(0, 1, np.deg2rad(0.3 * degrees))
    truth.Scale(stretch)
    affine, shape = GRIDS[dims]
    middle = np.diag([-1, -1, 1][:dims]) @ (affine[:dims, :dims] @ (0.5 * (np.array(shape) - 1)) + (affine[:dims, -1]))
    truth.SetCenter(middle.tolist())
    truth.SetTranslation(shift)
    return truth


def go(method: str, fixed: Image, moving: Image, **options: object) -> Transform:
    return optimise(method, fixed.array[None], fixed.grid, moving.array[None], moving.grid, **options)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("degrees", "part"), [(8.0, 0.05), (90.0, 0.1), (-60.0, 0.5)])
def test_large_misplacements_are_found(tmp_path: Path, dims: int, degrees: float, part: float) -> None:
    """Turned by up to 90° and shifted by up to half the field, as SimpleITK does it."""
    side = max(np.array(GRIDS[dims][1]) * np.linalg.norm(GRIDS[dims][0][:dims, :dims], axis=0))
    truth = turned(dims, degrees, [part * side, -0.3 * part * side, 4.0][:dims])
    fixed, moving = pair_of(tmp_path, dims, truth)
    found = go("rigid", fixed, moving)
    assert isinstance(found, Affine)
    assert miss(found, truth, fixed).mean() < 0.5
    linear = found.world_matrix()[0, :, :-1]
    torch.testing.assert_close(linear @ linear.T, torch.eye(dims).double(), atol=1e-5, rtol=0)


def test_scale_and_shear_are_found(tmp_path: Path) -> None:
    truth = turned(3, 20.0, [5.0, -4.0, 3.0], stretch=1.15)
    truth.Shear(0, 1, 0.1)
    fixed, moving = pair_of(tmp_path, 3, truth)
    assert miss(go("affine", fixed, moving), truth, fixed).mean() < 0.5


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", ["ffd", "svf"])
def test_smooth_deformations_are_found(tmp_path: Path, dims: int, method: str) -> None:
    affine, shape = GRIDS[dims]
    truth = sitk.BSplineTransform(dims, 3)
    corner = np.diag([-1, -1, 1][:dims]) @ affine[:dims, -1]
    truth.SetTransformDomainOrigin(corner.tolist())
    truth.SetTransformDomainDirection(
        (np.diag([-1, -1, 1][:dims]) @ affine[:dims, :dims] / np.linalg.norm(affine[:dims, :dims], axis=0))
        .ravel()
        .tolist()
    )
    truth.SetTransformDomainPhysicalDimensions((np.linalg.norm(affine[:dims, :dims], axis=0) * shape).tolist())
    truth.SetTransformDomainMeshSize([3] * dims)
    truth.SetParameters(np.random.default_rng(1).normal(0, 5, len(truth.GetParameters())).tolist())
    fixed, moving = pair_of(tmp_path, dims, truth)
    found = go(method, fixed, moving, budget=Budget(120))
    still = Affine(torch.eye(dims, dims + 1)[None], fixed.grid)
    assert miss(found, truth, fixed).mean() < 0.25 * miss(still, truth, fixed).mean()
    assert float(folding(found.field(fixed.grid)).forward) == 0


def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large steps, and nothing that keeps the way smooth."""
    monkeypatch.setattr("warpzoo.registration.deformation.SMOOTHNESS", 0.0)
    monkeypatch.setattr("warpzoo.registration.deformation.LEARNING_RATE", 2.0)


@pytest.mark.parametrize("method", ["ffd", "svf"])
def test_nothing_folds_where_nothing_fits(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise onto other noise; a spline is kept from folding whatever the settings."""
    if method == "ffd":
        careless(monkeypatch)
    grid = Grid((40, 36))
    fixed, moving = (torch.rand(1, 1, *grid.shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = optimise(method, fixed, grid, moving, grid, budget=Budget(60))
    assert float(folding(found.field(grid)).forward) == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_never_worse_than_the_start(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is the truth, but light falls otherwise: coarse levels lead away from it, the answer does not."""
    from scipy.ndimage import gaussian_filter

    careless(monkeypatch)
    grid = Grid((40, 36))
    moving = torch.from_numpy(smooth(grid.shape, seed)).float()[None, None]
    truth = torch.stack(torch.meshgrid(*[torch.arange(n).mul(0.2).sin() for n in grid.shape], indexing="ij"))[None]
    light = gaussian_filter(np.random.default_rng(seed).normal(size=grid.shape), 8.0)
    fixed = warp(moving, truth) + 2000 * torch.from_numpy(light / light.std()).float()
    start = Composition(DisplacementField(truth, grid), Affine(torch.eye(2, 3)[None], grid))

    def likeness(transform: Transform) -> float:
        return float(
            local_normalised_cross_correlation(fixed, resample(moving, grid, transform, grid, padding="border"))
        )

    found = optimise("svf", fixed, grid, moving, grid, start=start, budget=Budget(3))
    assert likeness(found) >= likeness(start) - 1e-4


@pytest.mark.parametrize("similarity", ["ncc", "lncc", "mse", "mi", "mind"])
def test_similarities(similarity: str) -> None:
    """Each finds a shift of three voxels; information and descriptors even where bright is dark."""
    grid = Grid((48, 44))
    fixed = torch.from_numpy(content(grid.shape))[None, None]
    moving = fixed.roll(3, 2)
    if similarity in ("mi", "mind"):
        moving = 1000 - moving
    found = optimise("svf", fixed, grid, moving, grid, similarity=similarity).field(grid)
    bright = fixed[0, 0] > 150
    assert float((found[0, 0][bright] - 3).abs().mean()) < 0.5


def test_unknown_names() -> None:
    image, grid = torch.rand(1, 1, 20, 20), Grid((20, 20))
    with pytest.raises(ValueError, match="similarity must be one of ncc, lncc, mse, mi, mind, got 'ssim'"):
        optimise("svf", image, grid, image, grid, similarity="ssim")
    with pytest.raises(ValueError, match="method must be one of rigid, .*got 'syn'"):
        optimise("syn", image, grid, image, grid)


def test_affine_maps_become_one() -> None:
    here, there = Grid((20, 30)), Grid((24, 18), np.diag([2.0, 1.0, 1.0]))
    maps = [Affine(torch.eye(2, 3)[None] + 0.1 * torch.rand(1, 2, 3), grid) for grid in (here, there, here)]
    one = composed(maps[0], Composition(*maps[1:]))
    assert isinstance(one, Affine)
    points = 20 * torch.rand(1, 5, 2)
    torch.testing.assert_close(one.world(points).float(), Composition(*maps).world(points), atol=1e-3, rtol=0)


def test_the_pyramid_halves_what_is_fine() -> None:
    assert pyramid(Grid((64, 48)), 10**6) == [[8, 4], [4, 4], [2, 2], [1, 1]]
    assert pyramid(Grid((128, 128, 12), np.diag([1.0, 1, 4, 1])), 10**6)[-3:] == [[4, 4, 1], [2, 2, 1], [1, 1, 1]]


def test_the_finest_level_depends_smoothly_on_the_size() -> None:
    most, grids = 10**6, [Grid([size] * 3) for size in range(80, 240, 5)]
    counts = [math.prod(coarser(grid, pyramid(grid, most)[-1]).shape) for grid in grids]
    assert counts[:5] == [math.prod(grid.shape) for grid in grids[:5]]
    assert all(0.94 * most < count <= most for count in counts[5:])


@pytest.mark.parametrize("kind", [VelocityModel, FreeFormModel])
@pytest.mark.parametrize("shape", [(90, 70), (40, 36, 44)])
def test_a_model_warps_in_slabs_and_says_where_to_go(kind: type, shape: tuple[int, ...], monkeypatch) -> None:
    monkeypatch.setitem(chunks.CHUNK_VOXELS, "cpu", 5 * math.prod(shape[1:]))
    torch.manual_seed(0)
    grid, coarse = Grid(shape), [size // 6 for size in shape]
    images = [F.interpolate(torch.rand(1, 1, *coarse), shape, mode="bilinear" if len(shape) == 2 else "trilinear")] * 2
    level = ImagePyramid(images[0], grid, images[1] + 0.1 * images[0] ** 2, grid).level([1.0] * len(shape))
    lattice = lattice_of(grid, [kind.spacing] * len(shape))
    model = kind(lattice, level)
    coefficients = (0.3 * torch.randn(1, len(shape), *lattice.shape)).requires_grad_(True)
    warped = model.warped(coefficients)
    places = np.indices(shape) + model(coefficients).detach()[0].numpy()
    expected = ndimage.map_coordinates(level.moving[0, 0].numpy(), places, order=1, mode="nearest")
    np.testing.assert_allclose(warped.detach()[0, 0], expected, atol=1e-4)
    target = level.fixed
    found = torch.autograd.grad((warped - target).square().sum(), coefficients)[0]
    exact = torch.autograd.grad((level.warped(model(coefficients)) - target).square().sum(), coefficients)[0]
    assert float(F.cosine_similarity(found.flatten(), exact.flatten(), dim=0)) > 0.7


@pytest.mark.parametrize(("budget", "large", "whole"), [("200", False, True), ("200", True, False), ("9s", True, True)])
def test_iterations_that_coarse_levels_leave(
    budget: str, large: bool, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is to be done they end early: a large finest level, whose iterations are slow, has its own share;
    a small one, and one that has the time, all that is left."""
    image, grid = torch.from_numpy(smooth((40, 40))).float()[None, None], Grid((40, 40))
    ends: list[float] = []
    descend = deformation.descend

    def noted(*arguments: Any) -> None:
        ends.append(arguments[-1])
        descend(*arguments)

    monkeypatch.setattr(deformation, "descend", noted)
    if large:
        monkeypatch.setattr(deformation, "SMALL", 1)
    optimise("svf", image, grid, image, grid, budget=Budget.read("budget", budget))
    assert (ends[-1] == 1) == whole


def test_shrinking_takes_means() -> None:
    from skimage.transform import downscale_local_mean

    image = torch.rand(1, 1, 12, 8, 20)
    expected = downscale_local_mean(image[0, 0].numpy(), (3, 2, 4))
    np.testing.assert_allclose(shrink(image, [4, 4, 5])[0, 0], expected, atol=1e-6)
    assert shrink(image, [5, 3, 7]).mean() == pytest.approx(float(image.mean()), abs=1e-6)


class Shift(nn.Module):
    """Moves by what its weight says; the batch-norm would change in training."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.norm = nn.Parameter(torch.zeros(2)), nn.BatchNorm2d(1)

    def forward(self, image: Tensor) -> Tensor:
        field = self.shift.view(1, 2, 1, 1).expand(1, 2, *image.shape[2:])
        return torch.cat([warp(self.norm(image[:, :1]), field), field], 1)


def test_adaptation_leaves_the_network_as_it_was() -> None:
    image = torch.from_numpy(np.stack([smooth((40, 36)), np.roll(smooth((40, 36)), -1, 0)])).float()[None]
    network = Shift().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with Descent(Budget(20), "adapt") as descent:
        other = adapted(network, lambda copy: RegistrationObjective(copy, LNCCLoss()), image, descent)
    assert float(other.shift.detach()[0].abs()) > 1e-3
    torch.testing.assert_close(dict(other.named_buffers()), dict(network.named_buffers()))
    assert not torch.equal(other(image), network(image))
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_any_turn_is_near_one_that_is_begun_with() -> None:
    """From there an optimisation finds the way."""
    beginnings = Rotation.from_matrix(turns(3).numpy())
    random = Rotation.random(2000, random_state=0)
    nearest = np.array([np.degrees((beginnings * one.inv()).magnitude().min()) for one in random])
    assert nearest.max() < 40
    assert np.median(nearest) < 22
