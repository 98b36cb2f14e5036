"""Pairs of images with a known affine map between them: what affine registration is tested on and learns from.

Convention: images (*shape); a truth (1, dims, dims + 1) is a matrix as in `geometry.affine`, from the fixed to the
moving image. Everything is drawn from torch's generator, or from a seed where one is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from warpzoo.data.appearance import flow, smooth_noise, uniform
from warpzoo.geometry.affine import affine_field, compose_affine, invert_affine, rotation_about
from warpzoo.geometry.sampling import voxel_coordinates, warp, warp_labels

KINDS = ("rotated", "translated", "both")


class PlacedPair(NamedTuple):
    """Two images, what they show, and where it went."""

    fixed: Tensor
    moving: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor
    truth: Tensor


def random_placement(
    dims: int, rotation: float, scale: float = 1.0, shear: float = 0.0, shift: float = 0.0, least: float = 0.0
) -> Tensor:
    """A matrix (1, dims, dims + 1): `least` to `rotation` degrees about any axis, scales from 1 / `scale` to `scale`
    along each axis, shears, and a shift up to that part of the longest side along each axis."""

    def some(limit: float, count: int) -> Tensor:
        return limit * (2 * torch.rand(1, count) - 1)

    angle = math.radians(uniform(least, rotation))
    if dims == 2:
        turn = compose_affine(rotation=torch.tensor([[angle if uniform(0, 1) < 0.5 else -angle]]))[:, :, :2]
    else:
        turn = rotation_about(F.normalize(torch.randn(3), dim=0), angle)[None]
    stretched = compose_affine(some(shear, dims * (dims - 1) // 2), some(math.log(scale), dims))[:, :, :dims]
    return torch.cat([turn @ stretched, some(2 * shift, dims)[:, :, None]], 2)


def placed(image: Tensor, labels: Tensor, truth: Tensor) -> PlacedPair:
    """An image and a copy of it to which the truth takes its points; beyond the image its lowest value."""
    back = affine_field(invert_affine(truth), list(image.shape))
    moving = warp(image[None, None], back, padding="constant", value=float(image.min()))[0, 0]
    return PlacedPair(image, moving, labels, warp_labels(labels[None, None], back)[0, 0], truth)


def cracked_cubes(shape: Sequence[int] = (64, 64, 64), seed: int = 0) -> PlacedPair:
    """A bright box with cracks and holes, labelled 1, and the same box elsewhere: turned up to 30° about any axis, 0.8
    to 1.25 times as large, shifted by up to a tenth of the side."""
    shape = list(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        voxels = voxel_coordinates(shape, torch.float32, torch.device("cpu"))
        unit = min(shape)
        centre = torch.tensor([0.5 * (size - 1) for size in shape]).view(-1, *[1] * len(shape))
        position = (voxels - centre) / unit
        sides = torch.tensor([uniform(0.2, 0.28) for _ in shape]).view_as(centre)
        inside = (position.abs() < sides).all(0)
        image = inside.float()
        for _ in range(6):  # cracks: thin slabs that end somewhere
            normal = F.normalize(torch.randn(len(shape)), dim=0).view_as(centre)
            across = ((position - 0.2 * (2 * torch.rand_like(centre) - 1)) * normal).sum(0)
            end = (position * F.normalize(torch.randn(len(shape)), dim=0).view_as(centre)).sum(0) > uniform(-0.1, 0.1)
            image[(across.abs() < 1.0 / unit) & end] *= 0.3
        for _ in range(8):  # holes
            at = 0.22 * (2 * torch.rand_like(centre) - 1)
            image[(position - at).square().sum(0).sqrt() < uniform(0.02, 0.06)] = 0.1
        image = image * (1 + 0.05 * smooth_noise(shape, unit / 8)[0])
        truth = random_placement(len(shape), 30.0, 1.25, 0.0, 0.1)
        pair = placed(image, inside.to(torch.uint8), truth)
        noisy = [one + 0.02 * torch.randn_like(one) for one in (pair.fixed, pair.moving)]
        return pair._replace(fixed=noisy[0], moving=noisy[1])


def copies(image: Tensor, labels: Tensor, kind: str, seed: int = 0) -> PlacedPair:
    """An image and a copy of it that is turned by up to 30° about any axis, shifted by up to a tenth of the longest
    side along each, or both: the `kind` is one of `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rotation, shift = 0.0 if kind == "translated" else 30.0, 0.0 if kind == "rotated" else 0.1
        return placed(image, labels, random_placement(image.dim(), rotation, shift=shift))


def anywhere(
    image: Tensor, labels: Tensor, rotation: float = 45.0, least: float = 10.0, shift: float = 0.2, seed: int = 0
) -> PlacedPair:
    """An image and a copy of it that is turned about any axis, scaled by 0.8 to 1.25 and sheared by up to 0.1 along
    each, and shifted, all at once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return placed(image, labels, random_placement(image.dim(), rotation, 1.25, 0.1, shift, least))


def longitudinal(image: Tensor, labels: Tensor, seed: int = 0) -> PlacedPair:
    """A subject and the same one later: shrunk a little here and there, in another position in a scanner of another
    gain, bias field and noise. The truth is the position's alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape, side = list(image.shape), max(image.shape)
        truth = random_placement(image.dim(), 12.0, 1.03, 0.0, 0.04)
        later = flow(0.008 * side * smooth_noise(shape, side / 5, image.dim()))[None]
        pair = placed(
            warp(image[None, None], later)[0, 0], warp_labels(labels[None, None], later)[0, 0], truth
        )._replace(fixed=image, fixed_labels=labels)
        extent = float(image.max() - image.min())
        moving = pair.moving * (0.15 * smooth_noise(shape, side / 2)[0]).exp() * uniform(0.7, 1.4)
        return pair._replace(moving=moving + 0.03 * extent * torch.randn_like(moving))
