"""One nucleus of a simulated live cell: what it is made of, how it moves, and what it looks like at a time.

Convention: lengths are in pixels, coordinates (dims, ...) along the spatial axes. A material point X is where a part of
the nucleus is in the first frame; at frame t it is at A_t(X + e_t(X)), with a matrix A_t and an elastic displacement
e_t of which the best affine map, over the nucleus, is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from warpzoo.geometry.sampling import sample, voxel_coordinates

HARMONICS, WAVES, ITERATIONS = 5, 6, 6
TEXTURES = ((4.0, 0.3), (12.0, 0.25))
"""Of the chromatin: how many pixels its structures are apart in a nucleus of radius 64, and their contrast."""
PERSISTENCE = 0.9
"""Of what is replaced of the texture, what is still the same a frame later."""


class Paths:
    """Smooth random walks that start at 0 and are about 1 at the end."""

    def __init__(self, frames: int, generator: torch.Generator) -> None:
        self.frames, self.generator = frames, generator

    def __call__(self, *count: int) -> Tensor:
        """(frames, *count)."""
        steps = torch.randn(self.frames, *count, generator=self.generator)
        for frame in range(1, self.frames):
            steps[frame] += 0.7 * steps[frame - 1]
        drift = torch.randn(*count, generator=self.generator).expand(self.frames, *count)
        walk = (0.8 * drift / max(1, self.frames - 1) + 0.15 * steps / math.sqrt(self.frames)).cumsum(0)
        return walk - walk[:1]


class Nucleus:
    """A nucleus in `frames` frames.

    Args:
        centre: in the first frame.
        radii: along each axis.
        motion: the mean distance of its points from where they are in the first frame; the affine part.
        elastic: the mean length of the elastic displacement.
        turnover: the part of the texture that is replaced in the long run.
        foci: how many bright spots wander about in it.
    """

    def __init__(
        self,
        centre: Tensor,
        radii: Sequence[float],
        frames: int,
        generator: torch.Generator,
        motion: float,
        elastic: float,
        turnover: float = 0.3,
        foci: int = 10,
    ) -> None:
        self.dims, self.frames, self.generator = len(radii), frames, generator
        self.centre = centre.float()
        self.radii = torch.tensor([float(radius) for radius in radii])
        self.unit = float(self.radii[-2:].min()) / 64
        self.turnover = turnover
        self.ripples = self._randn(HARMONICS, self.dims) * 2.5, self._phases(HARMONICS)
        self.depth = 0.08 * torch.rand(HARMONICS, generator=generator)
        paths = Paths(frames, generator)
        self._move(paths, motion, elastic)
        self._fill(paths, foci)

    def _move(self, paths: Paths, motion: float, elastic: float) -> None:
        # in float64, so that sums that depend on the memory's alignment do not change a sequence from call to call
        inside = torch.cat([self.inner_points(150, 1.0), self.contour_points(100)], 1).double()
        self.waves = self._randn(WAVES, self.dims), self._phases(WAVES)
        wave = torch.nn.functional.normalize(self.waves[0]) * (1.5 + 2 * torch.rand(WAVES, 1, generator=self.generator))
        self.waves = wave / self.radii, self.waves[1]
        self.swing = paths(WAVES, self.dims).double() * self.radii / self.radii.max()
        self.affine_part = torch.zeros(self.frames, self.dims, self.dims + 1, dtype=torch.float64)
        ones = torch.cat([self._from_centre(inside), torch.ones_like(inside[:1])]).T
        for frame in range(self.frames):
            moved = self._elastic(inside, frame)
            self.affine_part[frame] = torch.linalg.lstsq(ones, moved.T).solution.T
        length = sum(float(self._elastic(inside, frame).norm(dim=0).mean()) for frame in range(1, self.frames))
        amount = elastic * max(1, self.frames - 1) / max(length, 1e-6)
        self.swing, self.affine_part = amount * self.swing, amount * self.affine_part

        flat = self.dims == 3
        turning, straining, shifting = paths(1)[:, 0], paths(self.dims, self.dims), paths(self.dims)
        if flat:  # between slices little moves
            straining[:, 0], straining[:, :, 0], shifting[:, 0] = 0, 0, 0.05 * shifting[:, 0]
        rate = 0.15 * (straining + straining.transpose(1, 2)).double()
        rate[:, -2, -1] -= 0.7 * turning
        rate[:, -1, -2] += 0.7 * turning
        most = float(self.radii.max())
        scale = motion
        for _ in range(12):  # nearly linear
            self.linear = torch.matrix_exp(scale * rate / most)
            self.shift = scale * shifting.double()
            apart = [self._placed(inside, frame) - inside for frame in range(1, self.frames)]
            length = sum(float(one.norm(dim=0).mean()) for one in apart) / max(1, self.frames - 1)
            scale *= (motion / max(length, 1e-6)) ** 0.7

    def _fill(self, paths: Paths, foci: int) -> None:
        self.nucleoli = self.inner_points(int(torch.randint(2, 5, (), generator=self.generator)), 0.65)
        self.nucleolus_size = 0.1 + 0.12 * torch.rand(self.nucleoli.shape[1], generator=self.generator)
        self.foci = self.inner_points(foci, 0.8)[None] + 0.1 * (paths(self.dims, foci) * self.radii[:, None])
        self.brightness = 0.4 + 1.0 * torch.rand(foci, generator=self.generator)
        self.spacings = [spacing * max(self.unit, 0.4) for spacing, _ in TEXTURES]
        self.nodes = [
            [math.ceil(2.8 * float(radius) / spacing) + 2 for radius in self.radii] for spacing in self.spacings
        ]
        self.lasting = [self._randn(*nodes) for nodes in self.nodes]
        self.passing = [self._randn(*nodes) for nodes in self.nodes]

    def move_to(self, centre: Tensor) -> None:
        """Where its middle is in the first frame; nothing else changes."""
        centre = centre.float()
        for points in (self.nucleoli, self.foci):
            points += (centre - self.centre)[:, None]
        self.centre = centre

    def matrix(self, frame: int) -> Tensor:
        """A_t in pixels, (dims, dims + 1)."""
        linear = self.linear[frame]
        offset = self.centre + self.shift[frame] - linear @ self.centre.double()
        return torch.cat([linear, offset[:, None]], 1)

    def _placed(self, points: Tensor, frame: int) -> Tensor:
        moved = self.linear[frame].to(points) @ self._from_centre(points)
        return moved + (self.centre + self.shift[frame])[:, None].to(points)

    def at(self, points: Tensor, frame: int) -> Tensor:
        """Where material points (dims, count) are."""
        return self._placed(points + self._elastic(points, frame), frame)

    def contour_points(self, count: int) -> Tensor:
        """Material points of the contour, evenly about the middle, (dims, count)."""
        step = torch.arange(count) + 0.5
        if self.dims == 2:
            angle = 2 * math.pi * step / count
            outwards = torch.stack([angle.sin(), angle.cos()])
        else:
            height = 1 - 2 * step / count
            angle = math.pi * (1 + 5**0.5) * step
            across = (1 - height.square()).sqrt()
            outwards = torch.stack([height, across * angle.sin(), across * angle.cos()])
        return self.centre[:, None] + self.radii[:, None] * outwards * self._rim(outwards)

    def inner_points(self, count: int, most: float = 0.85) -> Tensor:
        """Random material points within that part of the way to the contour, (dims, count)."""
        outwards = torch.nn.functional.normalize(self._randn(self.dims, count), dim=0)
        part = most * torch.rand(count, generator=self.generator) ** (1 / self.dims)
        return self.centre[:, None] + part * self.radii[:, None] * outwards * self._rim(outwards)

    def step(self) -> None:
        """The texture of the next frame."""
        fresh = math.sqrt(1 - PERSISTENCE**2)
        self.passing = [PERSISTENCE * old + fresh * self._randn(*old.shape) for old in self.passing]

    def draw(self, image: Tensor, frame: int) -> None:
        """Adds the nucleus, of mean intensity about 1, to an image (*shape)."""
        middle, reach = self.centre + self.shift[frame], 1.6 * self.radii.max()
        far = [1.6 * self.radii[0] if self.dims == 3 else reach, *[reach] * (self.dims - 1)]
        starts = [max(0, int(middle[axis] - far[axis])) for axis in range(self.dims)]
        ends = [min(image.shape[axis], int(middle[axis] + far[axis]) + 2) for axis in range(self.dims)]
        if any(start >= end for start, end in zip(starts, ends, strict=True)):
            return
        shape = [end - start for start, end in zip(starts, ends, strict=True)]
        voxels = voxel_coordinates(shape, torch.float32, torch.device("cpu"))
        voxels = voxels + torch.tensor(starts, dtype=torch.float32).view(-1, *[1] * self.dims)
        box = tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))
        image[box] += self._appearance(self._material(voxels.flatten(1), frame), frame).view(shape)

    def _appearance(self, material: Tensor, frame: int) -> Tensor:
        outwards = self._from_centre(material) / self.radii[:, None]
        radius = outwards.square().sum(0).sqrt().clamp_min(1e-6)
        edge = 1.0 / float(self.radii[-2:].min())
        inside = torch.sigmoid((self._rim(outwards / radius) - radius) / edge)
        value = torch.ones_like(radius)
        for (_, contrast), spacing, lasting, passing in zip(
            TEXTURES, self.spacings, self.lasting, self.passing, strict=True
        ):
            nodes = math.sqrt(1 - self.turnover) * lasting + math.sqrt(self.turnover) * passing
            at = (self._from_centre(material) + 1.4 * self.radii[:, None]) / spacing
            line = at.view(1, self.dims, -1, *[1] * (self.dims - 1))
            value = value + 1.5 * contrast * sample(nodes[None, None], line)[0, 0].flatten()
        for place, size in zip(self.nucleoli.T, self.nucleolus_size, strict=True):
            apart = (outwards - self._from_centre(place)[:, None] / self.radii[:, None]).square().sum(0).sqrt()
            value = value * (1 - 0.65 * torch.sigmoid((size - apart) / (1.5 * edge)))
        for place, brightness in zip(self.foci[frame].T, self.brightness, strict=True):
            apart = (material - place[:, None]).square().sum(0) / (2 * max(1.2, 2.5 * self.unit) ** 2)
            near = (apart < 10).nonzero()[:, 0]
            value[near] += brightness * torch.exp(-apart[near])
        return inside * value.clamp_min(0.05)

    def _material(self, points: Tensor, frame: int) -> Tensor:
        """The material points that are at these points."""
        moved = points - (self.centre + self.shift[frame])[:, None].to(points)
        target = torch.linalg.inv(self.linear[frame]).to(points) @ moved + self.centre[:, None]
        found = target
        for _ in range(ITERATIONS):
            found = target - self._elastic(found, frame)
        return found

    def _elastic(self, points: Tensor, frame: int) -> Tensor:
        offset = self._from_centre(points)
        waves, phases, swing, affine = (
            one.to(points) for one in (*self.waves, self.swing[frame].T, self.affine_part[frame])
        )
        return swing @ (waves @ offset + phases[:, None]).sin() - (affine[:, :-1] @ offset + affine[:, -1:])

    def _rim(self, outwards: Tensor) -> Tensor:
        """The contour's distance in radii along unit vectors (dims, count)."""
        directions, phases = self.ripples
        return 1 + (self.depth[:, None] * torch.sin(directions @ outwards + phases[:, None])).sum(0)

    def _from_centre(self, points: Tensor) -> Tensor:
        return points - self.centre.view(-1, *[1] * (points.dim() - 1))

    def _randn(self, *count: int) -> Tensor:
        return torch.randn(*count, generator=self.generator)

    def _phases(self, count: int) -> Tensor:
        return 2 * math.pi * torch.rand(count, generator=self.generator)
