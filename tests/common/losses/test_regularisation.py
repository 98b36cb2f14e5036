"""Regularisers against numpy, analytic fields and a determinant per corner; the fields that fool weaker versions."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from warpzoo.geometry import chunks
from warpzoo.losses import BendingEnergy, Diffusion, FoldingPenalty, InverseConsistency, TotalVariation

SHAPES = [(7, 9), (5, 6, 7)]
REGULARISERS = [TotalVariation(), Diffusion(), BendingEnergy(), FoldingPenalty()]


def name(loss: nn.Module) -> str:
    return type(loss).__name__


def random_field(shape: tuple[int, ...], batch: int = 2, scale: float = 1.0, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(scale * rng.normal(size=(batch, len(shape), *shape)))


def positions(shape: tuple[int, ...]) -> np.ndarray:
    return np.indices(shape).astype(float)


def linear_field(shape: tuple[int, ...], matrix: np.ndarray) -> Tensor:
    """u(x) = matrix (x - centre)"""
    centred = positions(shape) - (np.array(shape).reshape(-1, *[1] * len(shape)) - 1) / 2
    return torch.from_numpy(np.einsum("ij,j...->i...", matrix, centred))[None]


@pytest.mark.parametrize("shape", SHAPES)
def test_total_variation_and_diffusion_are_numpys_differences(shape: tuple[int, ...]) -> None:
    field = random_field(shape)
    differences = [np.diff(field.numpy(), axis=axis) for axis in range(2, field.dim())]
    assert TotalVariation()(field).item() == pytest.approx(sum(np.abs(d).mean() for d in differences), rel=1e-12)
    assert Diffusion()(field).item() == pytest.approx(sum((d**2).mean() for d in differences), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_smoothness_of_a_linear_field_is_its_gradient(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    matrix = np.random.default_rng(1).normal(size=(dims, dims))
    field = linear_field(shape, matrix) + 5.0
    assert TotalVariation()(field).item() == pytest.approx(np.abs(matrix).sum() / dims, rel=1e-10)
    assert Diffusion()(field).item() == pytest.approx((matrix**2).sum() / dims, rel=1e-10)
    assert BendingEnergy()(field).item() == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_energy_of_a_quadratic_field_is_its_hessians_norm(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    hessians = np.random.default_rng(2).normal(size=(dims, dims, dims))
    hessians = hessians + hessians.transpose(0, 2, 1)
    x = positions(shape)
    field = torch.from_numpy(np.einsum("kij,i...,j...->k...", hessians / 2, x, x))[None]
    assert BendingEnergy()(field).item() == pytest.approx((hessians**2).sum() / dims, rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_energy_is_numpys_second_differences(shape: tuple[int, ...]) -> None:
    field = random_field(shape)
    expected = sum(
        (1 if i == j else 2) * (np.diff(np.diff(field.numpy(), axis=i), axis=j) ** 2).mean()
        for i, j in combinations_with_replacement(range(2, field.dim()), 2)
    )
    assert BendingEnergy()(field).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_energy_does_not_depend_on_the_chunks(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def value_and_gradient() -> list[Tensor]:
        field = random_field(shape, batch=5).requires_grad_()
        value = BendingEnergy()(field)
        value.backward()
        return [value.detach(), field.grad]

    whole = value_and_gradient()
    for items in (1, 2):
        monkeypatch.setitem(chunks.CHUNK_VOXELS, "cpu", items * math.prod(shape))
        for ours, expected in zip(value_and_gradient(), whole, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkerboard_costs(shape: tuple[int, ...]) -> None:
    """Alternating +-1: every forward difference is +-2, every central one 0."""
    dims = len(shape)
    board = 1.0 - 2.0 * (positions(shape).sum(axis=0) % 2)
    field = torch.from_numpy(np.broadcast_to(board, (1, dims, *shape)).copy())
    assert TotalVariation()(field).item() == pytest.approx(2.0 * dims)
    assert Diffusion()(field).item() == pytest.approx(4.0 * dims)
    assert BendingEnergy()(field).item() == pytest.approx(16.0 * dims**2)


def brute_force_folding(field: np.ndarray) -> float:
    """One numpy determinant per corner of every cell, from the three (two) edges that meet there."""
    dims, *shape = field.shape
    mapped = field + positions(tuple(shape))
    penalties = []
    for cell in product(*(range(n - 1) for n in shape)):
        for corner in product((0, 1), repeat=dims):
            jacobian = np.empty((dims, dims))
            for axis in range(dims):
                start = np.add(cell, corner)
                start[axis] = cell[axis]
                low, high = tuple(start), tuple(start + np.eye(dims, dtype=int)[axis])
                jacobian[:, axis] = mapped[(slice(None), *high)] - mapped[(slice(None), *low)]
            penalties.append(max(0.0, -np.linalg.det(jacobian)))
    return float(np.mean(penalties))


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 3)])
def test_folding_penalty_is_brute_force(shape: tuple[int, ...]) -> None:
    field = random_field(shape)
    expected = np.mean([brute_force_folding(item.numpy()) for item in field])
    assert expected > 0.01
    assert FoldingPenalty()(field).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_folding_penalty_of_a_linear_field_is_its_determinant(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    mirror = np.diag([-2.5] + [0.2] * (dims - 1))
    expected = -np.linalg.det(np.eye(dims) + mirror)
    assert FoldingPenalty()(linear_field(shape, mirror)).item() == pytest.approx(expected, rel=1e-10)
    assert FoldingPenalty()(linear_field(shape, -mirror / 3)).item() == 0.0


@pytest.mark.parametrize("shape", [(12, 10), (8, 9, 7)])
def test_a_saw_tooth_is_penalised_though_central_differences_see_no_fold(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    field = np.zeros((dims, *shape))
    field[0] = 0.6 * (-1.0) ** positions(shape)[0]
    central = np.stack([np.stack(np.gradient(component)) for component in field], axis=0)
    jacobian = np.moveaxis(central, (0, 1), (-2, -1)) + np.eye(dims)
    assert (np.linalg.det(jacobian)[1:-1] > 0).all()
    assert FoldingPenalty()(torch.from_numpy(field)[None]).item() > 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_inverse_consistency_is_scipys_sampling(shape: tuple[int, ...]) -> None:
    forward, backward = random_field(shape, scale=1.5), random_field(shape, scale=1.5, seed=1)
    expected = []
    for u, v in zip(forward.numpy(), backward.numpy(), strict=True):
        moved = u + positions(shape)
        residual = u + np.stack([map_coordinates(c, moved, order=1, mode="nearest") for c in v])
        expected.append((residual**2).sum(axis=0).mean())
    assert InverseConsistency()(forward, backward).item() == pytest.approx(np.mean(expected), rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_map_and_its_inverse_are_consistent(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    matrix = 0.6 * np.eye(dims) + 0.05 * np.random.default_rng(0).normal(size=(dims, dims))  # stays in the image
    forward = linear_field(shape, matrix - np.eye(dims))
    backward = linear_field(shape, np.linalg.inv(matrix) - np.eye(dims))
    assert InverseConsistency()(forward, backward).item() < 1e-20
    assert InverseConsistency()(forward, forward).item() > 0.1


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)])
def test_gradients(shape: tuple[int, ...]) -> None:
    field = random_field(shape).requires_grad_()
    for loss in REGULARISERS:
        torch.autograd.gradcheck(loss, (field,))
    inverse = random_field(shape, seed=1).requires_grad_()
    torch.autograd.gradcheck(InverseConsistency(), (field, inverse))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_fields_are_reckoned_in_float32(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    field = (100 * random_field(shape)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = [loss(field) for loss in REGULARISERS] + [InverseConsistency()(field, -field)]
    full = field.detach().float()
    expected = [loss(full) for loss in REGULARISERS] + [InverseConsistency()(full, -full)]
    torch.testing.assert_close(torch.stack(values), torch.stack(expected))
    torch.stack([value.log() for value in values]).sum().backward()
    assert bool(field.grad.isfinite().all())


@pytest.mark.parametrize("loss", REGULARISERS, ids=name)
def test_bad_fields_are_named(loss: nn.Module) -> None:
    with pytest.raises(ValueError, match="displacement must have one component per spatial axis, got 3"):
        loss(torch.zeros(1, 3, 6, 6))
    with pytest.raises(ValueError, match="displacement must be"):
        loss(torch.zeros(2, 6, 6))
    with pytest.raises(ValueError, match="NaN"):
        loss(torch.full((1, 2, 6, 6), torch.nan))
    with pytest.raises(ValueError, match="[23] voxels or more"):
        loss(torch.zeros(1, 2, 6, 1))


def test_fields_of_different_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="same shape"):
        InverseConsistency()(torch.zeros(1, 2, 6, 6), torch.zeros(1, 2, 6, 7))
    with pytest.raises(ValueError, match="inverse_displacement must have one component per spatial axis, got 3"):
        InverseConsistency()(torch.zeros(1, 2, 6, 6), torch.zeros(1, 3, 6, 6))
