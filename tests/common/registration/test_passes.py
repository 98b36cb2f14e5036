"""Several passes of one network are one stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor, nn

from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, DisplacementField, Transform
from warpzoo.registration import find_methods
from warpzoo.registration.network import NetworkMethod, in_passes

SHAPE = (24, 20)
GRID = Grid(SHAPE, np.diag([2.0, 0.5, 1.0]))


class Uphill(nn.Module):
    """Goes half a slope up the moving image as it is warped so far: every pass predicts something else."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image[0, 0])
        slope = torch.stack(torch.gradient(image[:, 0], dim=(1, 2)), 1)
        return torch.cat([image[:, :1], 0.5 * slope], 1)


class Turning(Uphill):
    """A matrix: half a voxel along the first axis, and a little larger."""

    def transform(self, image: Tensor, grid: Grid) -> Transform:
        self.seen.append(image[0, 0])
        return Affine.from_parts(
            grid, scale=torch.full((1, 2), 0.1).double(), translation=torch.tensor([[0.1, 0.0]]).double()
        )


def pair() -> Tensor:
    random = np.random.default_rng(0)
    noise = gaussian_filter(random.standard_normal((2, *SHAPE)), (0, 2, 2))
    return torch.from_numpy(10 * noise / noise.std()).float()[None]


def warped(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    places = np.indices(image.shape) + displacement
    ends = np.array(image.shape).reshape(2, 1, 1) - 1
    return map_coordinates(image, places.clip(0, ends), order=1)


def test_each_pass_sees_what_the_ones_before_have_warped_and_the_whole_is_composed() -> None:
    network, image = Uphill(), pair()
    found = in_passes(network, image, GRID, 3)
    assert isinstance(found, DisplacementField)
    moving = image[0, 0].numpy()
    whole = np.zeros((2, *SHAPE))
    for seen in network.seen:
        np.testing.assert_allclose(seen.numpy(), warped(moving, whole), atol=1e-4)
        step = 0.5 * np.stack(np.gradient(seen.numpy()))
        whole = step + np.stack([warped(one, step) for one in whole])  # first the new step, then what was known
    np.testing.assert_allclose(found.field(GRID)[0].numpy(), whole, atol=1e-4)
    assert len(network.seen) == 3
    assert np.abs(whole).max() > 1


def test_matrices_stay_a_matrix() -> None:
    network = Turning()
    once, thrice = (in_passes(network, pair(), GRID, passes) for passes in (1, 3))
    assert isinstance(thrice, Affine)
    expected = np.linalg.matrix_power(np.vstack([once.world_matrix()[0].numpy(), [0, 0, 1]]), 3)
    np.testing.assert_allclose(thrice.world_matrix()[0].numpy(), expected[:2], atol=1e-6)


def test_a_network_named_several_times_in_a_row_is_one_stage(make_bundle: Callable[..., Path]) -> None:
    make_bundle("flat", [0.0, 0.0])
    chain = find_methods("affine,flat,flat,affine,flat", device="cpu")
    assert [method.name for method in chain] == ["affine", "flat,flat", "affine", "flat"]
    assert [method.passes for method in chain if isinstance(method, NetworkMethod)] == [2, 1]


@pytest.mark.parametrize("passes", [0, -1, 1.5, True, "2"])
def test_a_number_of_passes_that_is_none(make_bundle: Callable[..., Path], passes: object) -> None:
    root = make_bundle("flat", [0.0, 0.0])
    with pytest.raises(ValueError, match="passes must be a whole number, 1 or more, got"):
        NetworkMethod(nn.Identity(), root, root / "models/model.pt", passes=passes)  # type: ignore[arg-type]
