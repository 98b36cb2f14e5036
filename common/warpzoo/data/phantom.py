"""A synthetic beating heart: images to test a registration without data, with the true displacement and labels.

Convention: the last two axes are the rows and columns of a short-axis slice; a volume has the heart's long axis first.
Lengths are those of cardiac MR on 256 pixels and scale with the slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from warpzoo.geometry.sampling import sample, voxel_coordinates

POOL, MYOCARDIUM, RIGHT_VENTRICLE = 1, 2, 3
ELONGATION = 1.8  # of the ventricles along the long axis
EDGE = 0.4  # voxels; the transition between two tissues is about four of these
NOISE = 1.5


class Heart(NamedTuple):
    """One phase of the heartbeat."""

    image: Tensor
    """Intensities from 0 to 255, (*shape), float32."""
    labels: Tensor
    """0, 1 blood pool of the left ventricle with its papillary muscles, 2 its myocardium, 3 blood pool of the right
    ventricle; (*shape), uint8."""
    displacement: Tensor
    """Warps the heart at end-diastole (phase 0) onto this one, (dims, *shape), voxels."""


def beating_heart(shape: Sequence[int] = (256, 256), phase: float = 0.0, seed: int = 0) -> Heart:
    """A short-axis slice or a volume of the chest at a phase from 0 (end-diastole) to 1 (end-systole).

    The seed selects the anatomy; two phases of one anatomy differ by a known, smooth contraction without folds, and by
    noise.

    Example:
        >>> moving, fixed = beating_heart(phase=0.0), beating_heart(phase=1.0)
        >>> image = torch.stack([moving.image, fixed.image])[None]  # the input of a registration network
        >>> warped = warp(moving.image[None, None], fixed.displacement[None])  # equals fixed.image up to noise
    """
    shape = list(shape)
    if len(shape) not in (2, 3) or min(shape) < 16:
        raise ValueError(f"shape must be 2 or 3 sides of at least 16 voxels, got {tuple(shape)}.")
    if not 0 <= phase <= 1:
        raise ValueError(f"phase must be in [0, 1] (end-diastole to end-systole), got {phase}.")
    person = np.random.default_rng(seed)
    unit = min(shape[-2:]) / 256  # voxels per length of this module
    centre = torch.tensor([0.5 * (size - 1) for size in shape], dtype=torch.float64).view(-1, *[1] * len(shape))
    voxels = voxel_coordinates(shape, torch.float64, torch.device("cpu"))
    position = (voxels - centre) / unit

    ventricles = _Ventricles(person, len(shape))
    material = ventricles.at_end_diastole(position, phase)
    image = _tissues(material, ventricles, person, edge=EDGE / unit)
    image = image * _coil(position, ventricles, person)
    noise = np.random.default_rng((seed, round(1e6 * phase))).normal(0, NOISE, (2, *shape))
    image = torch.hypot(image + torch.from_numpy(noise[0]), torch.from_numpy(noise[1]))  # Rician, like magnitudes
    return Heart(
        image=image.round().clamp(0, 255).float(),
        labels=ventricles.labels(material),
        displacement=((material - position) * unit).float(),
    )


class _Ventricles:
    """The geometry of both ventricles at end-diastole and their contraction; coordinates as in `beating_heart`."""

    def __init__(self, person: np.random.Generator, dims: int) -> None:
        self.dims = dims
        self.left = self._point(person.uniform(-22, -8), person.uniform(-4, 16))
        self.endocardium = person.uniform(18, 22)
        self.epicardium = self.endocardium + person.uniform(8, 10)
        self.towards_right = math.radians(person.uniform(165, 195))  # from the columns' axis
        self.right_radii = person.uniform(21, 25), person.uniform(29, 34)
        self.right = self.left + 26 * self._direction(self.towards_right)
        self.strength = person.uniform(0.75, 0.95) * self.endocardium**dims
        self.twist = math.radians(person.uniform(3, 8))
        self.papillary = [math.radians(person.uniform(low, low + 40)) for low in (40, 260)]

    def at_end_diastole(self, position: Tensor, phase: float) -> Tensor:
        """The position at end-diastole of the tissue that is at a position at this phase."""
        position = self._expand(position, self.right, 0.5 * phase * self.strength, 0.0)
        return self._expand(position, self.left, phase * self.strength, phase * self.twist)

    def left_radius(self, material: Tensor) -> Tensor:
        return self._offset(material, self.left).square().sum(0).sqrt()

    def outside_right(self, material: Tensor) -> Tensor:
        """Approximate signed distance from the right ventricle's ellipse; the left ventricle overlaps it."""
        offset = self._offset(material, self.right)
        along, across = self._direction(self.towards_right), self._direction(self.towards_right + math.pi / 2)
        parts = [(offset * axis).sum(0) for axis in (along, across)]
        short, long = self.right_radii
        radius = (parts[0] / short).square() + (parts[1] / long).square()
        if self.dims == 3:
            radius = radius + (offset[0] / long).square()
        return (radius.sqrt() - 1) * short

    def labels(self, material: Tensor) -> Tensor:
        radius = self.left_radius(material)
        labels = torch.zeros(material.shape[1:], dtype=torch.uint8)
        labels[self.outside_right(material) < 0] = RIGHT_VENTRICLE
        labels[radius < self.epicardium] = MYOCARDIUM
        labels[radius < self.endocardium] = POOL
        return labels

    def outside_papillary(self, material: Tensor) -> Tensor:
        """Signed distance from the nearer papillary muscle."""
        distances = []
        for angle in self.papillary:
            muscle = self.left + 0.66 * self.endocardium * self._direction(angle)
            distances.append(self._offset(material, muscle).square().sum(0).sqrt() - 0.17 * self.endocardium)
        return torch.minimum(*distances)

    def _expand(self, position: Tensor, centre: Tensor, strength: float, twist: float) -> Tensor:
        """Inverts a contraction: V → V + strength · V / (V + S) for V = r^dims (S of 15). Far from the centre volumes
        are constant, and r increases everywhere, so nothing folds; both fade towards the chest wall. The twist is
        about the long axis."""
        offset = self._offset(position, centre)
        radius = offset.square().sum(0).sqrt()
        fading = torch.exp(-((radius / 65) ** 4))
        factor = (1 + strength * fading / (radius**self.dims + 15**self.dims)) ** (1 / self.dims)
        angle = twist * torch.exp(-((radius / 30) ** 2))
        rows, columns = offset[-2], offset[-1]
        turned = [angle.cos() * rows - angle.sin() * columns, angle.sin() * rows + angle.cos() * columns]
        moved = torch.stack([*offset[:-2], *turned]) * factor - offset
        if self.dims == 3:
            moved[0] *= ELONGATION
        return position + moved

    def _offset(self, position: Tensor, centre: Tensor) -> Tensor:
        offset = position - centre
        if self.dims == 3:
            offset[0] /= ELONGATION
        return offset

    def _point(self, row: float, column: float) -> Tensor:
        """A point of the middle slice."""
        point = torch.tensor([0.0] * (self.dims - 2) + [row, column], dtype=torch.float64)
        return point.view(-1, *[1] * self.dims)

    def _direction(self, angle: float) -> Tensor:
        return self._point(math.sin(angle), math.cos(angle))


def _tissues(material: Tensor, ventricles: _Ventricles, person: np.random.Generator, edge: float) -> Tensor:
    """Intensities of the chest at these coordinates of end-diastole, painted from the back to the front."""
    rows, columns = material[-2], material[-1]
    fine, coarse, clumps = (_texture(material, spacing, person) for spacing in (3, 9, 16))

    def ellipse(row: float, column: float, height: float, width: float, tilt: float = 0.0) -> Tensor:
        """Approximate signed distance."""
        y, x = rows - row, columns - column
        y, x = math.cos(tilt) * y - math.sin(tilt) * x, math.sin(tilt) * y + math.cos(tilt) * x
        return (((y / height) ** 2 + (x / width) ** 2).sqrt() - 1) * min(height, width)

    tilt = math.radians(person.uniform(-30, 15))
    body = ellipse(person.uniform(32, 42), person.uniform(-8, 8), 120, 136, tilt)
    radius, right = ventricles.left_radius(material), ventricles.outside_right(material)
    heart = torch.minimum(radius - ventricles.epicardium, right - 3)

    image = 5 + 5 * coarse.clamp(0) + 45 * (fine - 2.2).clamp(0, 1)  # lungs and their vessels
    for outside, intensity in (
        (ellipse(person.uniform(66, 76), person.uniform(-45, -30), 44, 80, -0.15), 40 + 3 * coarse),  # liver
        (ellipse(person.uniform(70, 78), person.uniform(55, 65), 26, 34), 30 + 14 * clumps),  # stomach
        (ellipse(person.uniform(38, 44), person.uniform(48, 56), 9, 9), 66 + 4 * coarse),  # aorta
        (heart - 3.5, 45 + 50 * clumps.clamp(0)),  # fat around the heart
        (right - 3, 26 + 2 * fine),
        (right, 74 + 5 * coarse),
        (radius - ventricles.epicardium, 24 + 2 * fine),
        (radius - ventricles.endocardium, 80 + 4 * coarse),
        (ventricles.outside_papillary(material), 34 + 2 * fine),
        (-17 - 2 * coarse - body, 42 + 6 * fine),  # muscle of the chest wall
        (-10 - 3 * clumps - body, 165 + 12 * coarse),  # fat under the skin
        (-body, torch.zeros_like(body)),
    ):
        inside = torch.sigmoid(-outside / edge)
        image = image + (intensity - image) * inside
    return image.clamp(0)


def _texture(position: Tensor, spacing: float, person: np.random.Generator) -> Tensor:
    """Smooth noise of unit variance at nodes that are `spacing` apart."""
    dims, reach = len(position), 160
    nodes = torch.from_numpy(person.standard_normal([math.ceil(2 * reach / spacing) + 1] * dims))
    return sample(nodes[None, None], ((position + reach) / spacing)[None])[0, 0]


def _coil(position: Tensor, ventricles: _Ventricles, person: np.random.Generator) -> Tensor:
    """The sensitivity of a receiver coil on the chest: high near it, low far away."""
    at = ventricles.left + ventricles._point(person.uniform(-75, -60), person.uniform(-25, 15))
    square = (position - at)[-2:].square().sum(0)
    return 0.35 + person.uniform(0.9, 1.1) * torch.exp(-square / 95**2)
