"""Simulated nuclei: key points are where the image shows them, the motion is as large as asked, noise is as strong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from warpzoo.data.cells import BACKGROUND, NUCLEUS, PRESETS, cell_sequence, noisy
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine

SMALL = {"shape": (96, 112), "frames": 8}


def affine_residuals(sequence):
    """The least squares of numpy between the first frame's points and each other's."""
    first = np.c_[sequence.points[0].numpy(), np.ones(len(sequence.points[0]))]
    for later in sequence.points[1:].numpy():
        yield later - first @ np.linalg.lstsq(first, later, rcond=None)[0]


@pytest.mark.parametrize("preset", ["A2", "B1"])
def test_the_motion_is_as_large_as_the_preset_says(preset):
    published = PRESETS[preset]
    sequence = cell_sequence(preset, **SMALL, snr=None)
    moved = (sequence.points[1:] - sequence.points[:1]).square().sum(2).sqrt().mean()
    assert float(moved) == pytest.approx(published.motion * 96 / min(published.shape), rel=0.15)
    residual = np.mean([np.linalg.norm(one, axis=1).mean() for one in affine_residuals(sequence)])
    assert 0.05 * float(moved) < residual < 0.25 * float(moved)


def test_the_matrices_are_the_affine_part_of_the_motion():
    sequence = cell_sequence("B1", **SMALL, snr=None, elastic=0.0)
    grid = Grid(SMALL["shape"])
    for frame in (0, 4, 7):
        transform = Affine.from_world(sequence.matrices[frame : frame + 1], grid)
        np.testing.assert_allclose(transform(sequence.points[0])[0], sequence.points[frame], atol=1e-3)
    sequence = cell_sequence("B1", **SMALL, snr=None, elastic=0.3)
    moved = sequence.points[-1] - sequence.points[0]
    best = np.linalg.norm(list(affine_residuals(sequence))[-1], axis=1).mean()
    taken = torch.einsum("ij,cj->ci", sequence.matrices[-1, :, :2], sequence.points[0]) + sequence.matrices[-1, :, 2]
    given = float((taken - sequence.points[-1]).square().sum(1).sqrt().mean())
    assert given < best + 0.05 * float(moved.square().sum(1).sqrt().mean())


@pytest.mark.parametrize("elastic", [0.0, 0.25])
def test_contour_points_lie_on_the_edge_and_inner_ones_inside(elastic):
    sequence = cell_sequence("A1", **SMALL, snr=None, elastic=elastic, bleaching=0, flicker=0, focus=0, seed=2)
    for image, points in zip(sequence.clean.numpy(), sequence.points.numpy(), strict=True):
        shown = ndimage.binary_fill_holes(image > BACKGROUND + 0.4 * NUCLEUS)
        shown = ndimage.binary_opening(shown, iterations=2)
        signed = ndimage.distance_transform_edt(shown) - ndimage.distance_transform_edt(~shown)
        at = ndimage.map_coordinates(signed, points.T, order=1, mode="nearest")
        assert np.median(np.abs(at[sequence.contour])) < 1.5  # the threshold follows the texture
        assert (at[~sequence.contour] > -2).all()
    unmoved = ndimage.map_coordinates(signed, sequence.points[0].T.numpy(), order=1, mode="nearest")
    assert np.median(np.abs(unmoved[sequence.contour])) > 2.5


def test_structures_inside_move_with_the_inner_points():
    sequence = cell_sequence("B1", **SMALL, snr=None, turnover=0.0, bleaching=0, flicker=0, focus=0, seed=1)
    inner = sequence.points[:, ~sequence.contour].numpy()
    values = [
        ndimage.map_coordinates(image, at.T, order=1) for image, at in zip(sequence.clean.numpy(), inner, strict=True)
    ]
    still = ndimage.map_coordinates(sequence.clean[-1].numpy(), inner[0].T, order=1)
    assert np.corrcoef(values[0], values[-1])[0, 1] > 0.8 > np.corrcoef(values[0], still)[0, 1] + 0.1


def test_noise_is_as_strong_as_asked():
    clean = torch.full((4, 128, 128), BACKGROUND + NUCLEUS)
    for snr in (3.0, 0.5):
        noise = noisy(clean, snr) - clean
        assert float(noise.std()) == pytest.approx(NUCLEUS / snr, rel=0.02)
        assert abs(float(noise.mean())) < 0.02 * NUCLEUS / snr
    correlated = noisy(clean, 1.0, correlation=1.0) - clean
    assert float(correlated.std()) == pytest.approx(NUCLEUS, rel=0.05)
    neighbours = np.corrcoef(correlated[:, :, 1:].flatten(), correlated[:, :, :-1].flatten())[0, 1]
    assert neighbours == pytest.approx(np.exp(-0.25), abs=0.03)  # of a Gaussian's autocorrelation


def test_bleaching_and_turnover():
    sequence = cell_sequence("B2", **SMALL, motion=0.01, snr=None, bleaching=0.5, flicker=0, focus=0, turnover=0.0)
    assert float(sequence.clean[-1].mean() / sequence.clean[0].mean()) == pytest.approx(0.5, abs=0.02)
    alike = []
    for turnover in (0.0, 0.3, 0.9):
        clean = cell_sequence("B2", **SMALL, motion=0.01, snr=None, turnover=turnover, seed=4).clean
        inside = clean[0] > BACKGROUND + 0.5 * NUCLEUS
        alike.append(np.corrcoef(clean[0][inside], clean[-1][inside])[0, 1])
    assert alike[0] > alike[1] > alike[2]


def test_cells_that_leave_and_divide():
    leaves = cell_sequence("B1", **SMALL, snr=None, leaves=True)
    assert float(leaves.clean[-1].max()) < BACKGROUND < float(leaves.clean[0].max())
    assert float(leaves.points[-1, :, 1].min()) > SMALL["shape"][1]
    counts, objects = {}, {}
    for fate in ("stays", "divides", "leaves"):
        sequence = cell_sequence("B1", **SMALL, motion=1.0, snr=None, neighbour=fate)
        filled = [ndimage.gaussian_filter(sequence.clean[at].numpy(), 2) for at in (0, -1)]
        objects[fate] = [ndimage.label(image > BACKGROUND + 0.2 * NUCLEUS)[1] for image in filled]
        counts[fate] = [float((image > BACKGROUND + 0.3 * NUCLEUS).sum()) for image in sequence.clean]
    assert counts["leaves"][-1] < counts["leaves"][0]
    assert objects["divides"] == [2, 3]
    assert objects["stays"] == [2, 2]


def test_volumes():
    sequence = cell_sequence("C", shape=(12, 48, 56), frames=3, snr=2.0, neighbour="stays")
    assert sequence.noisy.shape == (3, 12, 48, 56)
    assert sequence.points.shape[2] == 3
    assert sequence.matrices.shape == (3, 3, 4)
    apart = (sequence.points[1:] - sequence.points[:1]).abs().mean((0, 1))
    assert apart[0] < apart[1:].min()


def test_sequences_repeat_with_their_seed():
    one, same, other = (cell_sequence("B3", **SMALL, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.noisy, same.noisy)
    assert torch.equal(one.points, same.points)
    assert not torch.equal(one.points, other.points)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"preset": "D"}, "preset must be one of A1, A2"),
        ({"shape": (20, 20)}, "at least 32 pixels"),
        ({"frames": 0}, "frames must be 1 or more, got 0"),
        ({"neighbour": "sings"}, "neighbour must be one of"),
        ({"snr": 0.0, "shape": (32, 32), "frames": 2}, "snr must be above 0"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        cell_sequence(**arguments)
