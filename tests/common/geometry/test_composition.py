"""What lies between two transforms, against scipy's rotations and by hand."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation, Slerp

from warpzoo.geometry.composition import between
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, DisplacementField

GRID = Grid((8, 9, 10))


def affine(linear: np.ndarray, shift: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Affine:
    return Affine.from_world(torch.from_numpy(np.column_stack([linear, shift]))[None], GRID)


def test_between_rotations_lies_the_rotation_of_the_shortest_way() -> None:
    ends = Rotation.from_rotvec([[0.2, -0.4, 1.0], [-1.0, 0.7, 0.3]])
    found = between(*(affine(one) for one in ends.as_matrix()), 0.3, GRID)
    assert isinstance(found, Affine)
    expected = Slerp([0, 1], ends)(0.3).as_matrix()
    np.testing.assert_allclose(found.world_matrix()[0, :, :3].numpy(), expected, atol=1e-5)


def test_between_a_matrix_and_its_mirror_image_lies_their_mean() -> None:
    """No matrix leads from the one to the other step by step."""
    found = between(affine(np.eye(3)), affine(np.diag([-1.0, 1, 1]), (4.0, 0, 0)), 0.25, GRID)
    expected = np.column_stack([np.diag([0.5, 1, 1]), [1.0, 0, 0]])
    np.testing.assert_allclose(found.world_matrix()[0].numpy(), expected, atol=1e-5)  # type: ignore[operator]


def test_between_deformations_displacements_are_weighted() -> None:
    fields = torch.randn(2, 1, 3, 8, 9, 10)
    found = between(*(DisplacementField(one, GRID) for one in fields), 0.25, GRID)
    torch.testing.assert_close(found.field(GRID), 0.75 * fields[0] + 0.25 * fields[1])
