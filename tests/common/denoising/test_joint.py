"""The objective of denoising and registration together: what it sums, in which units, and over which pixels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from warpzoo.denoising.joint import JointObjective, distance
from warpzoo.denoising.masking import BlindSpotMask
from warpzoo.geometry.affine import affine_field
from warpzoo.geometry.sampling import warp_points
from warpzoo.losses import BlindSpotLoss


class Copies(nn.Module):
    """Denoises by doing nothing, and places every image by one matrix, which is learnt."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)
        self.factor = 1

    def head(self, seen, shape, factors):
        return seen[0].flatten(1)[:, :1]

    def standardise(self, image):
        return image

    def factors(self, image):
        return [self.factor] * (image.dim() - 2)

    def at_working_size(self, image):
        return image if self.factor == 1 else nn.functional.avg_pool2d(image, self.factor)

    def encode(self, image):
        return [image]

    def decode(self, image, seen):
        return image

    def placed(self, moving, there, here):
        return [self.matrix[None].expand(len(moving), -1, -1)]


def test_it_is_the_paper_s_equation_4():
    image = torch.rand(3, 2, 24, 30)
    network = Copies(torch.eye(2, 3))
    objective = JointObjective(network, BlindSpotMask(0.1), BlindSpotLoss("l1", "voxel"), weight=2.0)
    torch.manual_seed(1)
    terms = objective(image)
    torch.manual_seed(1)
    both = torch.cat([image[:, :1], image[:, 1:]])
    masked, mask = BlindSpotMask(0.1)(both)
    of_moving, of_fixed = ((masked - both).abs() * mask).chunk(2)
    reconstruction = 0.5 * (of_moving.mean() + of_fixed.mean())
    torch.testing.assert_close(terms["reconstruction"], reconstruction)
    assert float(terms["difference"]) > 0
    torch.testing.assert_close(terms["loss"].detach(), reconstruction + 2 * terms["difference"])
    same = image[:, :1].expand(-1, 2, -1, -1)
    assert float(JointObjective(network, BlindSpotMask(0.01), weight=1.0)(same)["difference"]) < 0.01


def test_points_are_brought_onto_those_of_the_other_image_in_both_directions():
    matrix = torch.eye(2, 3) + 0.1 * torch.rand(2, 3)
    points, shape = 20 * torch.rand(2, 5, 2), [24, 30]
    reached = warp_points(points, affine_field(matrix[None], shape).expand(2, -1, -1, -1))
    torch.testing.assert_close(distance(matrix[None], points, reached + 3.0, shape), torch.tensor(18.0).sqrt())
    assert float(distance(matrix[None], points, reached, shape)) < 2e-3
    objective = JointObjective(Copies(torch.eye(2, 3)))
    terms = objective(torch.rand(2, 2, 24, 30), points, points + 3.0)
    torch.testing.assert_close(terms["error"], torch.tensor(18.0).sqrt())
    assert float(terms["loss"]) == pytest.approx(
        float(terms["reconstruction"] + terms["difference"] + 0.1 * terms["error"]), rel=1e-5
    )


def test_augmented_pairs_do_not_count_in_the_reconstruction():
    class Ruined(nn.Module):
        def forward(self, image):
            return 1e6 * torch.rand_like(image)

    image = torch.rand(8, 2, 24, 24)
    torch.manual_seed(0)
    objective = JointObjective(Copies(torch.eye(2, 3)), augmentation=Ruined(), augmented=0.5)
    terms = objective.train()(image)
    assert float(terms["reconstruction"]) < 1 < float(terms["difference"])
    assert float(objective.eval()(image)["difference"]) < 1


def test_large_images_are_denoised_in_their_own_pixels_as_well():
    image = torch.rand(1, 2, 64, 64)
    network = Copies(torch.eye(2, 3))
    network.factor = 2
    shapes = []
    encode = network.encode
    network.encode = lambda seen: shapes.append(tuple(seen.shape)) or encode(seen)
    JointObjective(network, patch=40)(image)
    assert shapes == [(2, 1, 32, 32), (2, 1, 40, 40)]
