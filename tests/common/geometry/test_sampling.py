"""Warping of images, labels and points, against scipy and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torch import Tensor

from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import (
    displacement_at,
    sample,
    sample_labels,
    voxel_coordinates,
    warp,
    warp_labels,
    warp_points,
)
from warpzoo.geometry.transforms import Affine, resample

SHAPES = [(9, 14), (6, 9, 7)]
DOUBLE = {"dtype": torch.float64}


def random_pair(shape: tuple[int, ...], channels: int = 2, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(2, channels, *shape, **DOUBLE), spread * torch.randn(2, len(shape), *shape, **DOUBLE)


def scipy_sample(image: Tensor, coordinates: Tensor, order: int) -> Tensor:
    """Every channel of every item at its coordinates, the edge repeated."""
    found = [
        [map_coordinates(channel, at, order=order, mode="nearest") for channel in item]
        for item, at in zip(image.numpy(), coordinates.numpy(), strict=True)
    ]
    return torch.tensor(np.array(found))


def outside(coordinates: Tensor, shape: tuple[int, ...]) -> Tensor:
    size = torch.tensor(shape).reshape(1, -1, *[1] * len(shape))
    return ((coordinates < -0.5) | (coordinates >= size - 0.5)).any(dim=1, keepdim=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("mode", "order"), [("linear", 1), ("nearest", 0)])
@pytest.mark.parametrize("padding", ["border", "constant"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_warp_and_sample_agree_with_scipy(
    shape: tuple[int, ...], mode: str, order: int, padding: str, dtype: torch.dtype, tolerance: float
) -> None:
    moving, displacement = random_pair(shape)
    coordinates = voxel_coordinates(list(shape), torch.float64, torch.device("cpu")) + displacement
    expected = scipy_sample(moving, coordinates, order)
    if padding == "constant":
        assert outside(coordinates, shape).any()
        expected = expected.masked_fill(outside(coordinates, shape), -7.0)
    moving, displacement, coordinates = (tensor.to(dtype) for tensor in (moving, displacement, coordinates))
    for found in (
        warp(moving, displacement, mode, padding, -7.0),
        sample(moving, coordinates, mode, padding, -7.0),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


def test_one_large_image_is_read_in_parts_with_the_same_value_and_gradient() -> None:
    torch.manual_seed(0)
    shape = (32, 36, 40)
    moving, displacement = torch.rand(1, 2, *shape, **DOUBLE), torch.randn(1, 3, *shape, **DOUBLE)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            leaves = [moving.clone().requires_grad_(), displacement.clone().requires_grad_()]
            warped = warp(leaves[0], leaves[1])
            (warped * torch.linspace(0, 1, warped.numel(), **DOUBLE).view_as(warped)).sum().backward()
            results.append([warped.detach(), *[leaf.grad for leaf in leaves]])
    finally:
        torch.set_num_threads(threads)
    for alone, shared in zip(*results, strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(64, 32), (16, 8, 32)])
def test_no_displacement_is_exactly_the_identity_on_sides_that_are_powers_of_two(shape: tuple[int, ...]) -> None:
    moving = torch.rand(2, 1, *shape)
    assert torch.equal(warp(moving, torch.zeros(2, len(shape), *shape)), moving)
    assert torch.equal(torch.jit.script(warp)(moving, torch.zeros(2, len(shape), *shape)), moving)


@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(2, 60), min_size=2, max_size=3), seed=st.integers(0, 100))
def test_no_displacement_is_the_identity_to_float32(shape: list[int], seed: int) -> None:
    """Positions are rounded when they are divided by a side that is no power of two, by about 1e-7 · side voxels."""
    moving = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(warp(moving, torch.zeros(1, len(shape), *shape)), moving, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_direction_of_a_known_shift(dims: int) -> None:
    """warped(x) = moving(x + u): a displacement of +2 along axis 0 fetches what lies two voxels further."""
    moving = torch.zeros(1, 1, *[8] * dims)
    moving[(0, 0, 5, *[3] * (dims - 1))] = 1
    displacement = torch.zeros(1, dims, *[8] * dims)
    displacement[:, 0] = 2
    assert torch.nonzero(warp(moving, displacement))[0].tolist() == [0, 0, 3, *[3] * (dims - 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_half_precision_images_keep_the_positions(shape: tuple[int, ...]) -> None:
    shape = (300, *shape[1:])
    moving, displacement = (tensor.bfloat16() for tensor in random_pair(shape, spread=2.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        warped = warp(moving, displacement)
    assert warped.dtype == torch.bfloat16
    exact = warp(moving.double(), displacement.double())
    # one rounding of the result: 8 bits
    torch.testing.assert_close(warped.double(), exact, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", ["border", "constant"])
def test_gradients(shape: tuple[int, ...], padding: str) -> None:
    shape = tuple(size // 3 for size in shape)
    moving, displacement = random_pair(shape, spread=1.0)
    coordinates = 1 + displacement
    points = torch.rand(2, 3, len(shape), **DOUBLE) * 3 - 0.5
    leaves = [tensor.requires_grad_() for tensor in (moving, displacement, coordinates.detach(), points)]
    moving, displacement, coordinates, points = leaves
    assert torch.autograd.gradcheck(lambda a, b: warp(a, b, "linear", padding), (moving, displacement))
    assert torch.autograd.gradcheck(lambda a, b: sample(a, b, "linear", padding), (moving, coordinates))
    assert torch.autograd.gradcheck(warp_points, (points, displacement))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.bool])
def test_labels_stay_what_they_are(shape: tuple[int, ...], mode: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    chosen = torch.tensor([0, 3, 17, 200 if dtype == torch.uint8 else 1035])
    labels = chosen[torch.randint(0, 4, (2, 1, *shape))].to(dtype)
    carried = warp_labels(labels, torch.randn(2, len(shape), *shape) * 2, mode)
    assert carried.dtype == dtype
    assert set(carried.unique().tolist()) <= {0, *labels.unique().tolist()}
    assert torch.equal(warp_labels(labels, torch.zeros(2, len(shape), *shape), mode), labels)


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 22)])
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32, torch.float64])
def test_halfway_between_two_voxels_the_nearest_is_simpleitks(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """On a grid of half the sides every centre lies halfway between voxels of the fine one."""
    dims, coarse = len(shape), [size // 2 for size in shape]
    labels = torch.arange(np.prod(shape)).reshape(1, 1, *shape).to(dtype)
    image = sitk.GetImageFromArray(labels[0, 0].numpy().T)
    transform = sitk.Transform(dims, sitk.sitkIdentity)
    found = sitk.Resample(image, coarse, transform, sitk.sitkNearestNeighbor, [0.5] * dims, [2.0] * dims)
    expected = torch.from_numpy(sitk.GetArrayFromImage(found).T)[None, None]

    grid, double = Grid(shape), voxel_coordinates(coarse, torch.float64, torch.device("cpu"))[None]
    identity = Affine(torch.eye(dims, dims + 1)[None], grid)
    assert torch.equal(resample(labels, grid, identity, grid.resized(coarse), "nearest"), expected)
    assert torch.equal(sample_labels(labels, 2 * double + 0.5), expected)
    # the same positions as a displacement on the fine grid, in its first corner
    corner = (0, 0, *[slice(size) for size in coarse])
    displacement = torch.zeros(1, dims, *shape)
    displacement[(slice(None), slice(None), *corner[2:])] = (double + 0.5).float()
    assert torch.equal(warp_labels(labels, displacement)[corner], expected[0, 0])
    if dtype.is_floating_point:
        for coordinates in (double, double.float()):
            assert torch.equal(sample(labels, 2 * coordinates + 0.5, mode="nearest"), expected)
        assert torch.equal(warp(labels, displacement, mode="nearest")[corner], expected[0, 0])


def test_large_labels_keep_every_digit() -> None:
    labels = torch.tensor([[[[2**31 + 1, 2**24 + 1], [2**40 + 3, 7]]]])
    assert torch.equal(warp_labels(labels, torch.full((1, 2, 2, 2), 0.2)), labels)


def test_linear_labels_take_the_label_with_the_strongest_membership() -> None:
    """Between 1, 2 and 2 around a point nearest to 1, the two voxels of label 2 outweigh the one of label 1."""
    labels = torch.tensor([[[[1, 2], [2, 2]]]])
    at = torch.tensor([0.4, 0.4]).reshape(1, 2, 1, 1)
    assert sample_labels(labels, at, "nearest").item() == 1
    assert sample_labels(labels, at, "linear").item() == 2  # 0.64 against 0.36
    # the strongest needs no majority: 0.3 for 1, 0.3 for 2, 0.4 for 3
    at = torch.tensor([0.5, 0.4]).reshape(1, 2, 1, 1)
    assert sample_labels(torch.tensor([[[[1, 3], [2, 3]]]]), at, "linear").item() == 3


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_labels_from_outside(mode: str) -> None:
    labels = torch.full((1, 1, 4, 4), 5)
    displacement = torch.full((1, 2, 4, 4), 2.0)
    carried = warp_labels(labels, displacement, mode, outside=9)
    assert carried[0, 0].tolist() == [[5, 5, 9, 9], [5, 5, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]]
    coordinates = voxel_coordinates([4, 4], torch.float32, torch.device("cpu"))[None] + displacement
    assert (sample_labels(labels, coordinates, mode, "border") == 5).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_points_go_where_the_field_says(shape: tuple[int, ...]) -> None:
    _, displacement = random_pair(shape)
    points = torch.rand(2, 11, len(shape), **DOUBLE) * 8 - 1  # some outside: they move with the border
    expected = scipy_sample(displacement, points.movedim(-1, 1), 1).movedim(1, -1)
    torch.testing.assert_close(displacement_at(displacement, points), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(warp_points(points, displacement), points + expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moving": torch.rand(8, 8)}, r"moving must be .* got shape \(8, 8\)"),
        ({"moving": torch.rand(1, 1, 8, 9)}, "must have the same batch and spatial shape"),
        (
            {"moving": torch.ones(1, 1, 8, 8, dtype=torch.int64)},
            "image must be floating point for linear interpolation, got torch.int64",
        ),
        ({"moving": torch.full((1, 1, 8, 8), torch.nan)}, "moving must be finite, got 64 values"),
        ({"displacement": torch.zeros(1, 3, 8, 8)}, "displacement must have one component per spatial axis, got 3"),
        ({"displacement": torch.full((1, 2, 8, 8), torch.inf)}, "displacement must be finite, got 128 values"),
        ({"displacement": torch.zeros(2, 2, 8, 8)}, "must have the same batch"),
        ({"displacement": torch.zeros(1, 2, 8, 8, device="meta")}, "must be on the same device"),
        ({"mode": "cubic"}, "mode must be one of .* got 'cubic'"),
        ({"padding": "zeros"}, "padding must be one of .* got 'zeros'"),
    ],
)
def test_what_warp_refuses(change: dict, message: str) -> None:
    arguments = {"moving": torch.rand(1, 1, 8, 8), "displacement": torch.zeros(1, 2, 8, 8)} | change
    with pytest.raises(ValueError, match=message):
        warp(**arguments)


def test_what_the_others_refuse() -> None:
    image, displacement = torch.rand(1, 1, 8, 8), torch.zeros(1, 2, 8, 8)
    with pytest.raises(ValueError, match="coordinates must be"):
        sample(image, torch.zeros(2, 2, 8, 8))
    with pytest.raises(ValueError, match="labels must hold whole numbers only"):
        warp_labels(image, displacement)
    with pytest.raises(ValueError, match="labels must have 1 channel, got 2"):
        warp_labels(torch.ones(1, 2, 8, 8), displacement)
    with pytest.raises(ValueError, match="points must be"):
        warp_points(torch.zeros(1, 4, 3), displacement)
