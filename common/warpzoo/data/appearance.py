"""Random anatomies, random smooth deformations, and one anatomy as different scanners would show it.

Convention: arrays without batch or channel axes, (*shape), unless said; everything is drawn from torch's generator, so
that `torch.manual_seed` repeats it. Intensities are about 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from warpzoo.geometry.velocity import integrate_velocity

SQUARINGS = 5


@contextmanager
def numbered(number: int) -> Iterator[None]:
    """Within it, what is drawn follows from that number alone; afterwards torch's generator is where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)  # `torch.manual_seed` would seed the GPUs too
        yield


def uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def chance(probability: float) -> bool:
    return float(torch.rand(())) < probability


def smooth_noise(shape: Sequence[int], scale: float, count: int = 1) -> Tensor:
    """Noise of about unit deviation that changes over `scale` voxels, (count, *shape)."""
    coarse = [max(2, math.ceil(size / scale) + 1) for size in shape]
    return _enlarged(torch.randn(1, count, *coarse), shape)[0]


def random_anatomy(shape: Sequence[int], kinds: int, scale: float, body: bool = True) -> Tensor:
    """A label map of `kinds` tissues whose borders bend over about `scale` voxels, whole numbers (*shape).

    Finer structure lies in the coarse one. With `body` they are in a body of random shape, 0 outside of it.
    """
    noise = smooth_noise(shape, scale, kinds) + 0.5 * smooth_noise(shape, scale / 3, kinds)
    labels = noise.argmax(0) + 1
    if body:
        axes = [torch.linspace(-1, 1, size) for size in shape]
        radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
        outside = radius + 0.25 * smooth_noise(shape, min(shape) / 3)[0] > uniform(0.7, 1.1)
        labels = labels.masked_fill(outside, 0)
    return labels


def random_velocity(shape: Sequence[int], coarse: float, fine: float) -> Tensor:
    """A velocity of deviations `coarse` and `fine` voxels over a sixth and a twelfth of the shape, (dims, *shape)."""
    side = max(shape)
    return coarse * smooth_noise(shape, side / 6, len(shape)) + fine * smooth_noise(shape, side / 12, len(shape))


def flow(velocity: Tensor) -> Tensor:
    """The displacement of a velocity (dims, *shape), found at half its resolution."""
    half = [-(-size // 2) for size in velocity.shape[1:]]
    small = 0.5 * F.interpolate(velocity[None], half, mode=_linear(velocity.dim() - 1), align_corners=False)
    displacement = 2 * integrate_velocity(small, SQUARINGS)
    return F.interpolate(displacement, velocity.shape[1:], mode=_linear(velocity.dim() - 1), align_corners=False)[0]


def tissue_intensities(labels: Tensor, texture: float) -> Tensor:
    """An intensity for each label, dark outside the body, with texture inside."""
    table = torch.rand(int(labels.max()) + 1)
    table[0] *= 0.2
    image = table[labels]
    grain = smooth_noise(labels.shape, 3.0)[0] * texture
    return image + grain * (labels > 0)


def remapped(image: Tensor, knots: int) -> Tensor:
    """Another contrast: intensities pass through a random curve, which may fall as well as rise."""
    low, high = _range(image)
    position = ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) * (knots - 1)
    curve = torch.rand(knots)
    curve = (curve - curve.min()) / (curve.max() - curve.min()).clamp_min(1e-6)
    below = position.floor().clamp(0, knots - 2).long()
    return torch.lerp(curve[below], curve[below + 1], position - below)


def acquired(image: Tensor) -> Tensor:
    """The image as a scanner may have taken it: gamma, bias, blur, thick slices, noise, a part out of view."""
    low, high = _range(image)
    image = ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1.5)
    image = image.pow(math.exp(uniform(-0.3, 0.3)))
    if chance(0.6):
        image = image * (uniform(0, 0.3) * smooth_noise(image.shape, max(image.shape) / 2)[0]).exp()
    if chance(0.15):
        image = _thick_slices(image, uniform(1.5, 4))
    if chance(0.8):
        image = image + uniform(0, 0.08) * torch.randn_like(image)
    if chance(0.1):
        axis = int(torch.randint(image.dim(), ()))
        missing = int(uniform(0.05, 0.25) * image.shape[axis])
        start = 0 if chance(0.5) else image.shape[axis] - missing
        image.narrow(axis, start, missing).fill_(0)
    return image


def _thick_slices(image: Tensor, thickness: float) -> Tensor:
    axis = int(torch.randint(image.dim(), ()))
    size = [max(2, round(side / thickness)) if one == axis else side for one, side in enumerate(image.shape)]
    thin = F.interpolate(image[None, None], size, mode="area")
    return F.interpolate(thin, list(image.shape), mode=_linear(image.dim()), align_corners=False)[0, 0]


def _range(image: Tensor) -> tuple[Tensor, Tensor]:
    """The 1st and 99.5th percentile of every eighth voxel."""
    values = image.flatten()[::8].sort().values
    return values[int(0.01 * (len(values) - 1))], values[int(0.995 * (len(values) - 1))]


def _linear(dims: int) -> str:
    return "bilinear" if dims == 2 else "trilinear"


def _enlarged(image: Tensor, shape: Sequence[int]) -> Tensor:
    return F.interpolate(image, list(shape), mode=_linear(len(shape)), align_corners=True)
