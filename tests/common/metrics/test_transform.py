from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from warpzoo.geometry import chunks
from warpzoo.metrics import folding, target_registration_error


@pytest.mark.parametrize("dims", [2, 3])
def test_registration_error_is_a_length_in_world_units(dims):
    rng = np.random.default_rng(0)
    points, reference = rng.normal(size=(2, 3, 11, dims)) * 20
    spacing = (0.3, 1.7, 4.0)[:dims]
    expected = np.linalg.norm((points - reference) * spacing, axis=-1)
    ours = target_registration_error(torch.from_numpy(points), torch.from_numpy(reference), spacing)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)
    # without a batch, whole-numbered, in voxels
    ours = target_registration_error(torch.tensor([[3, 4, 0][:dims]]), torch.zeros(1, dims))
    assert ours.tolist() == [5.0]


@pytest.mark.parametrize(
    ("points", "reference", "spacing", "message"),
    [
        (torch.zeros(5, 4), torch.zeros(5, 4), 1.0, r"points must be .* got shape \(5, 4\)"),
        (torch.zeros(5, 2), torch.zeros(4, 2), 1.0, r"points and reference must have the same shape, got .* \(4, 2\)"),
        (torch.full((5, 2), torch.nan), torch.zeros(5, 2), 1.0, "points must be finite, got 10 values"),
        (torch.zeros(5, 2), torch.zeros(5, 2), (1.0, 1.0, 1.0), "spacing must be"),
    ],
)
def test_bad_points_are_named(points, reference, spacing, message):
    with pytest.raises(ValueError, match=message):
        target_registration_error(points, reference, spacing)


@pytest.mark.parametrize("shape", [(16, 12), (16, 9, 7)])
def test_saw_tooth_folds_53_percent_and_central_differences_see_none_of_it(shape):
    # Along the first axis the steps between neighbours are −0.5, 2.5, −0.5, …: 8 of 15 go backwards.
    saw_tooth = torch.zeros(1, len(shape), *shape)
    saw_tooth[:, 0, 0::2] = 0.75
    saw_tooth[:, 0, 1::2] = -0.75
    result = folding(saw_tooth)
    assert result.central.item() == 0
    assert result.forward.item() == pytest.approx(8 / 15)


@pytest.mark.parametrize("shape", [(7, 8), (7, 8, 6)])
def test_any_corner_of_a_cell_counts(shape):
    # One voxel pushed along a diagonal past the line (plane) through its neighbours ahead. Only the cell ahead is
    # folded, and only at that voxel's own corner, where all its edges are shortened: det(1 − 0.7 · ones) < 0.
    diagonals = torch.tensor(list(product((-0.7, 0.7), repeat=len(shape))))
    field = torch.zeros(len(diagonals), len(shape), *shape)
    field[(..., *[size // 2 for size in shape])] = diagonals
    result = folding(field)
    assert result.central.tolist() == [0] * len(diagonals)
    cells = np.prod([size - 1 for size in shape])
    np.testing.assert_allclose(result.forward * cells, 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(17, 12), (16, 9, 7)])
@pytest.mark.parametrize("planes", [1, 2, 5])
def test_folds_do_not_depend_on_the_chunks(shape, planes, monkeypatch):
    field = torch.randn(2, len(shape), *shape, generator=torch.Generator().manual_seed(0)) / 2
    whole = folding(field)
    assert 0 < float(whole.central.min()) < float(whole.forward.min()) < 1
    monkeypatch.setitem(chunks.CHUNK_VOXELS, "cpu", planes * int(np.prod(shape[1:])))
    for part, expected in zip(folding(field), whole, strict=True):
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("shape", [(9, 8), (6, 7, 8)])
def test_items_are_counted_apart_and_the_identity_does_not_fold(shape):
    turned = torch.meshgrid(*[-2.0 * torch.arange(size) for size in shape], indexing="ij")
    mirrored = torch.zeros(len(shape), *shape)
    mirrored[0] = turned[0]
    collapsed = torch.zeros(len(shape), *shape)
    collapsed[0] = 0.5 * turned[0]
    result = folding(torch.stack([torch.zeros(len(shape), *shape), mirrored, collapsed]))
    assert result.central.tolist() == [0, 1, 1]
    assert result.forward.tolist() == [0, 1, 1]


def test_fold_in_part_of_the_image_is_counted_by_voxels():
    field = torch.zeros(1, 2, 12, 10)
    field[:, 0, 6:] = -3.0  # rows 5 and 6: central 1 − 1.5 < 0; the step between them 1 − 3 < 0
    result = folding(field)
    assert result.central.item() == pytest.approx(2 / 10)
    assert result.forward.item() == pytest.approx(1 / 11)


@pytest.mark.parametrize(("shape", "message"), [((1, 2, 2, 5), "three voxels"), ((1, 3, 5, 5), "3 components")])
def test_bad_displacements_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        folding(torch.zeros(shape))
