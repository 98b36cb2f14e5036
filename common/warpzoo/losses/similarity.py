"""Similarity of two images: correlation (global and in windows), mutual information, mean squared error.

Functions take (fixed, warped), each (batch, channels, *spatial), and return one similarity per batch item (more is
more similar); the modules return the scalar to minimise. They compute in float32 at least, whatever the images' type.
A mask is (batch or 1, 1, *spatial): voxels above 0 count; for correlation in windows, the windows whose centre does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warpzoo.checks import check_image, check_mask, check_same_shape, has_values
from warpzoo.geometry.chunks import chunk_voxels
from warpzoo.losses.with_gradient import WithGradient

# An image, or a window of it, is flat when its standard deviation is below this many round-offs of its values:
# interpolating a constant background results in about one.
FLAT_ROUND_OFFS = 8.0

# A window is also flat when its standard deviation is below this fraction of the image's range: the far tail of a blur
# holds nothing to align, and its gradient would dominate.
FLAT_OF_RANGE = 1e-6

# Weights of the four bins around x, for x = 0..1 between the middle two: cubic B-spline, one row per power of x.
CUBIC_B_SPLINE = (
    (1 / 6, 4 / 6, 1 / 6, 0.0),
    (-3 / 6, 0.0, 3 / 6, 0.0),
    (3 / 6, -6 / 6, 3 / 6, 0.0),
    (-1 / 6, 3 / 6, -3 / 6, 1 / 6),
)
PADDING_BINS = 2  # on either side, so that the splines of the extreme intensities fit in


def _check_pair(fixed: Tensor, warped: Tensor, mask: Tensor | None) -> int:
    dims = check_image("fixed", fixed)
    check_image("warped", warped)
    check_same_shape("fixed", fixed, "warped", warped)
    if mask is not None:
        check_mask("mask", mask, "fixed", fixed)
    return dims


def _working_dtype(fixed: Tensor, warped: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(fixed.dtype, warped.dtype), torch.float32)


def _mean(image: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the (masked) voxels of (batch, channels, voxels), the last axis kept."""
    if mask is None:
        return image.mean(dim=-1, keepdim=True)
    return (image * mask).sum(dim=-1, keepdim=True) / mask.sum(dim=-1, keepdim=True)


def _flatten(image: Tensor, mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return image.flatten(2).to(dtype), None if mask is None else (mask > 0).flatten(2).to(dtype)


def normalised_cross_correlation(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pearson's correlation over all (masked) voxels, (batch,), in [-1, 1].

    Channels are averaged; one that is constant in both images does not count, constant in one it counts as 0. Nothing
    but constant channels gives 0 with a zero gradient.
    """
    _check_pair(fixed, warped, mask)
    dtype = _working_dtype(fixed, warped)
    with torch.autocast(fixed.device.type, enabled=False):
        centred, spread, varies = [], [], []
        for image in (fixed, warped):
            values, weights = _flatten(image, mask, dtype)
            mean = _mean(values, weights)
            values = values - mean
            values = values - _mean(values, weights)  # the round-off of a large mean
            size = (values if weights is None else values * weights).detach().abs().amax(dim=-1, keepdim=True)
            size = torch.where(size > 0, size, 1.0)
            values = values / size  # squares neither underflow nor overflow; the correlation does not change
            variance = _mean(values.square(), weights)
            flat = variance <= (FLAT_ROUND_OFFS * torch.finfo(dtype).eps * mean / size).square()
            centred.append(values)
            spread.append(variance.masked_fill(flat, 1.0).sqrt())
            varies.append(~flat)
        both, either = varies[0] & varies[1], varies[0] | varies[1]
        covariance = _mean(centred[0] * centred[1], weights)
        correlation = (covariance / spread[0] / spread[1]).masked_fill(~both, 0.0)
        return correlation.sum(dim=(1, 2)) / either.sum(dim=(1, 2)).clamp(min=1)


def local_normalised_cross_correlation(
    fixed: Tensor, warped: Tensor, window: int = 9, mask: Tensor | None = None
) -> Tensor:
    """Mean over windows of the squared correlation, (batch,), in [0, 1].

    Windows are `window` voxels a side and lie wholly in the image, at every position and in every channel. One that is
    flat in both images does not count, flat in one it counts as 0; nothing but flat windows gives 0 with a zero
    gradient. Flat is a standard deviation below a millionth of the image's range, or that is only round-off. With a
    mask a window counts if its centre (index window // 2 along each axis) does; in an item whose mask holds no centre,
    one that lies near the mask does.
    """
    dims = _check_pair(fixed, warped, mask)
    _check_window(window)
    if min(fixed.shape[2:]) < window:
        raise ValueError(
            f"fixed must have at least window = {window} voxels along each of its {dims} axes, got spatial shape "
            f"{tuple(fixed.shape[2:])}."
        )
    if mask is not None and has_values(mask):
        mask = _with_centres(mask > 0, window)
    return _with_gradient(_windows, fixed, warped, mask, window)


def _with_centres(mask: Tensor, window: int) -> Tensor:
    """The mask; an item without a centre of a window that lies in the image is spread by half a window first."""
    half = window // 2
    centres = mask
    for axis in range(2, mask.dim()):
        centres = centres.narrow(axis, half, mask.shape[axis] - window + 1)
    without = ~centres.flatten(1).any(dim=1)
    if not bool(without.any()):
        return mask
    spread = F.max_pool2d if mask.dim() == 4 else F.max_pool3d
    return mask | (without.view(-1, *[1] * (mask.dim() - 1)) & (spread(mask.float(), 2 * half + 1, 1, half) > 0))


def mattes_mutual_information(fixed: Tensor, warped: Tensor, bins: int = 32, mask: Tensor | None = None) -> Tensor:
    """Mutual information in nats, (batch,), in [0, log(bins)], channels averaged; Mattes et al. (2003), as in ITK.

    Each image's (masked) range is divided into bins - 4, with two more on either side; a voxel adds to one bin of the
    fixed image and, by a cubic B-spline, to four of the warped one. The ranges and the bin of the fixed image have
    no gradient: only `warped` gets one. An image without contrast gives 0 with a zero gradient.
    """
    _check_pair(fixed, warped, mask)
    _check_bins(bins)
    return _with_gradient(_mattes, fixed, warped, mask, bins)


def _check_window(window: int) -> None:
    if not isinstance(window, int) or window < 2:
        raise ValueError(f"window must be a whole number of voxels, 2 or more, got {window!r}.")


def _check_bins(bins: int) -> None:
    least = 2 * PADDING_BINS + 2
    if not isinstance(bins, int) or bins < least:
        raise ValueError(
            f"bins must be a whole number, {least} or more ({2 * PADDING_BINS} of them only pad), got {bins!r}."
        )


def _with_gradient(
    similarity: Callable[..., tuple[Tensor, Tensor | None, Tensor | None]],
    fixed: Tensor,
    warped: Tensor,
    mask: Tensor | None,
    size: int,
) -> Tensor:
    dtype = _working_dtype(fixed, warped)
    with torch.autocast(fixed.device.type, enabled=False):
        fixed, warped = fixed.to(dtype), warped.to(dtype)
        differentiable = [torch.is_grad_enabled() and image.requires_grad for image in (fixed, warped)]
        with torch.no_grad():
            every = None if mask is None else (mask > 0).expand(len(fixed), fixed.shape[1], *mask.shape[2:])
            value, *gradients = similarity(fixed.detach(), warped.detach(), every, size, differentiable)
        return WithGradient.apply(value, fixed, warped, *gradients)


def _joins(window: int) -> list[tuple[int, int]]:
    """Lengths of the two runs to join, step by step, for a run of `window`: for 9, 1 + 1, 2 + 2, 4 + 4, 8 + 1."""
    length, steps = 1, []
    for bit in f"{window:b}"[1:]:
        steps.append((length, length))
        length *= 2
        if bit == "1":
            steps.append((length, 1))
            length += 1
    return steps


def _window_sums(rows: Tensor, window: int, strides: list[int], moments: bool = False) -> Tensor:
    """Sums of flattened images, (rows, voxels), over the window of `window` voxels a side that starts at each voxel.

    A run along an axis is a run at that axis' stride in memory. A run that leaves the image continues in the next line;
    the caller discards it. With `moments` there are five rows, the sums of two images and of the products (11,
    22, 12) of deviations from their means in the window, joined as by Chan, Golub & LeVeque (1979): no large number is
    subtracted from another, so float32 keeps its precision however large the offset.
    """
    count = 1
    for stride in strides:
        single = rows
        for a, b in _joins(window):
            length = rows.shape[1] - b * stride
            first = rows[:, :length]
            second = (rows if a == b else single)[:, a * stride : a * stride + length]
            rows = first + second
            if moments:
                difference = torch.sub(first[:2], second[:2], alpha=a / b)
                weight = b / (a * (a + b) * count)
                rows[2:4].addcmul_(difference, difference, value=weight)
                rows[4].addcmul_(difference[0], difference[1], value=weight)
        count *= window
    return rows


def _standard_scale(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, 1 / range and, in units of the range, the standard deviation up to which a window is flat; per image."""
    high, low = image.amax(dim=(1, 2)), image.amin(dim=(1, 2))
    scale = torch.where(high > low, high - low, 1.0).reciprocal()
    round_off = FLAT_ROUND_OFFS * torch.finfo(image.dtype).eps * torch.maximum(low.abs(), high.abs()) * scale
    return image.mean(dim=(1, 2)), scale, round_off.clamp(min=FLAT_OF_RANGE)


def _windows(
    fixed: Tensor, warped: Tensor, mask: Tensor | None, window: int, differentiable: list[bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Mean squared correlation in windows and its gradients, in chunks: some planes of an image, or some images.

    In a window with covariance c and sums of squared deviations s_f, s_w, the square r^2 = c^2 / (s_f s_w) has
    d r^2 / d warped = 2 (m (fixed - mean) - o (warped - mean)), m = c / (s_f s_w), o = r^2 / s_w. Summed over the
    windows that a voxel is in, that is three more sums over windows: of m, of o, and of both with the means.
    """
    batch, channels, planes, *rest = fixed.shape
    images = [image.reshape(batch * channels, planes, -1) for image in (fixed, warped)]
    every = None if mask is None else mask.reshape(batch * channels, planes, *rest)
    area, beyond, half = math.prod(rest), window - 1, window // 2
    strides = [math.prod(rest[axis:]) for axis in range(len(rest) + 1)]
    lead, count = beyond * sum(strides), window ** len(strides)

    scales = [_standard_scale(image) for image in images]
    floors = [flat.square().mul(count).view(-1, *[1] * len(strides)) for _, _, flat in scales]
    total, counted = fixed.new_zeros(2, batch * channels)
    gradients = [torch.zeros_like(image) if one else None for image, one in zip(images, differentiable, strict=True)]

    budget = chunk_voxels(fixed.device) // area
    depth = min(planes, max(budget, 4 * window))
    group = max(1, budget // depth)
    for first, top in product(range(0, batch * channels, group), range(0, planes - beyond, depth - beyond)):
        items, slab = slice(first, first + group), slice(top, top + depth)
        chunks = [image[items, slab] for image in images]
        shape = [*chunks[0].shape[:2], *rest]
        inside = [size - beyond for size in shape[1:]]  # so many whole windows start along each axis
        rows = fixed.new_zeros(5, math.prod(shape))
        for row, chunk, (mean, scale, _) in zip(rows, chunks, scales, strict=False):
            torch.sub(chunk, mean[items, None, None], out=row.view(chunk.shape)).mul_(scale[items, None, None])

        sums = _window_sums(rows, window, strides, moments=True)
        sums = sums.as_strided((5, shape[0], *inside), (sums.stride(0), shape[1] * area, *strides))
        square_f, square_w, covariance = sums[2:]
        flat_f, flat_w = square_f <= floors[0][items], square_w <= floors[1][items]
        counts = ~(flat_f & flat_w)
        if every is not None:
            centres = every[items, slab][(slice(None), *(slice(half, half + size) for size in inside))]
            counts &= centres
            flat_f |= ~centres
        counted[items] += counts.flatten(1).sum(dim=1)
        square_f.masked_fill_(flat_f, torch.inf)
        square_w.masked_fill_(flat_w, torch.inf)
        mixed = covariance / square_w
        squared_correlation = covariance.div_(square_f).mul_(mixed)
        total[items] += squared_correlation.flatten(1).sum(dim=1)
        mixed.div_(square_f)

        for own, gradient in enumerate(gradients):
            if gradient is None:
                continue
            other = 1 - own
            padded = fixed.new_zeros(3, lead + rows.shape[1])
            coefficients = padded[:, lead:].view(3, *shape)[
                (slice(None), slice(None), *(slice(size) for size in inside))
            ]
            coefficients[0] = mixed
            torch.div(squared_correlation, sums[2 + own], out=coefficients[1])
            torch.mul(mixed, sums[other], out=coefficients[2]).addcmul_(coefficients[1], sums[own], value=-1)
            slope, curvature, constant = _window_sums(padded, window, strides)
            slope.mul_(rows[other]).addcmul_(curvature, rows[own], value=-1).sub_(constant, alpha=1 / count)
            gradient[items, slab] += slope.view(chunks[own].shape)

    counted = counted.view(batch, channels).sum(dim=1).clamp(min=1)
    for gradient, (_, scale, _) in zip(gradients, scales, strict=True):
        if gradient is not None:
            gradient.mul_((2 * scale / counted.repeat_interleave(channels))[:, None, None])
    value = total.view(batch, channels).sum(dim=1) / counted
    for_fixed, for_warped = (None if gradient is None else gradient.reshape(fixed.shape) for gradient in gradients)
    return value, for_fixed, for_warped


def _bin_scale(image: Tensor, mask: Tensor | None, bins: int) -> tuple[Tensor, Tensor]:
    """Each image's lower end and bins per unit of intensity (0 for one without contrast), both (images, 1)."""
    if mask is None:
        low, high = image.amin(dim=1, keepdim=True), image.amax(dim=1, keepdim=True)
    else:
        low = image.masked_fill(~mask, torch.inf).amin(dim=1, keepdim=True)
        high = image.masked_fill(~mask, -torch.inf).amax(dim=1, keepdim=True)
    round_off = FLAT_ROUND_OFFS * torch.finfo(image.dtype).eps * torch.maximum(low.abs(), high.abs())
    flat = high - low <= round_off
    return low, ((bins - 2 * PADDING_BINS) / (high - low).masked_fill(flat, 1.0)).masked_fill(flat, 0.0)


def _mattes(
    fixed: Tensor, warped: Tensor, mask: Tensor | None, bins: int, differentiable: list[bool]
) -> tuple[Tensor, None, Tensor | None]:
    """Mutual information and its gradient from one joint histogram of moments.

    A voxel's four spline weights are cubics of x, its place between two bins. So the sums of 1, x, x^2, x^3 over the
    voxels of a cell (fixed bin, warped bin below) make the joint histogram, and a cell's slope is a quadratic in x.
    """
    batch, channels = fixed.shape[:2]
    images, cells = batch * channels, batch * channels * bins * bins
    every = None if mask is None else mask.reshape(images, -1)
    wide = torch.float32 if fixed.device.type == "mps" else torch.float64
    spline = torch.tensor(CUBIC_B_SPLINE, dtype=wide, device=fixed.device)

    def place(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = image.reshape(images, -1)
        low, scale = _bin_scale(flat, every, bins)
        position = (flat - low).mul_(scale).add_(PADDING_BINS)
        below = position.floor().clamp_(PADDING_BINS, bins - PADDING_BINS - 1)
        return position.sub_(below), below, scale

    _, row, fixed_scale = place(fixed)
    x, column, scale = place(warped)
    cell = row.long().mul_(bins).add_(column.long())
    cell = cell.add_(torch.arange(0, cells, bins * bins, device=fixed.device)[:, None]).flatten()
    x = x.flatten() if every is None else x.masked_fill_(~every, 0.0).flatten()

    factor = x.to(wide)
    power = torch.ones_like(factor) if every is None else every.flatten().to(wide)
    moments = factor.new_zeros(4, cells)
    for moment in moments:
        moment.scatter_add_(0, cell, power)
        power.mul_(factor)
    moments = moments.view(4, images, bins, bins)
    joint = moments.new_zeros(images, bins, bins)
    for k in range(4):  # the spline reaches from one bin below `column` to two above
        joint[..., PADDING_BINS - 1 + k : bins - PADDING_BINS - 1 + k] += torch.einsum(
            "p,pirc->irc", spline[:, k], moments[..., PADDING_BINS : bins - PADDING_BINS]
        )
    voxels = moments[0].sum(dim=(1, 2), keepdim=True)
    joint = joint.clamp_(min=0) / voxels
    independent = joint.sum(dim=1, keepdim=True) * joint.sum(dim=2, keepdim=True)
    surprise = torch.where(joint > 0, joint / independent, 1.0).log()
    value = (joint * surprise).sum(dim=(1, 2)).clamp(min=0).view(batch, channels).mean(dim=1).to(fixed.dtype)
    if not differentiable[1]:
        return value, None, None

    windows = surprise.unfold(2, 4, 1)[:, :, PADDING_BINS - 1 : bins - PADDING_BINS - 1]  # the four bins of a cell
    slopes = moments.new_zeros(3, images, bins, bins)
    powers = torch.arange(1, 4, dtype=wide, device=fixed.device)
    slopes[..., PADDING_BINS : bins - PADDING_BINS] = torch.einsum("p,pk,irck->pirc", powers, spline[1:], windows)
    constant, linear, quadratic = slopes.to(fixed.dtype).view(3, cells)
    gradient = quadratic.index_select(0, cell).mul_(x).add_(linear.index_select(0, cell))
    gradient = gradient.mul_(x).add_(constant.index_select(0, cell)).view(images, -1)
    gradient.mul_(scale * (fixed_scale > 0) / (voxels.view(images, 1) * channels))
    if every is not None:
        gradient.masked_fill_(~every, 0.0)
    return value, None, gradient.view(fixed.shape)


class MSELoss(nn.Module):
    """Mean squared difference over the (masked) voxels of each image, averaged over channels and batch."""

    def forward(self, fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
        _check_pair(fixed, warped, mask)
        dtype = _working_dtype(fixed, warped)
        with torch.autocast(fixed.device.type, enabled=False):
            difference, weights = _flatten(fixed.to(dtype) - warped.to(dtype), mask, dtype)
            return _mean(difference.square(), weights).mean()


class NCCLoss(nn.Module):
    """Minus the global normalised cross-correlation, averaged over the batch: -1 for images equal up to a gain > 0."""

    def forward(self, fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
        return -normalised_cross_correlation(fixed, warped, mask).mean()


class LNCCLoss(nn.Module):
    """Minus the squared correlation in windows, averaged over the batch: -1 for images equal up to gain and offset.

    The usual window is 9 voxels a side. An image must be at least that large.
    """

    def __init__(self, window: int = 9) -> None:
        super().__init__()
        _check_window(window)
        self.window = window

    def forward(self, fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
        return -local_normalised_cross_correlation(fixed, warped, self.window, mask).mean()

    def extra_repr(self) -> str:
        return f"window={self.window}"


class MutualInformationLoss(nn.Module):
    """Minus the mutual information in nats, averaged over the batch; for images of different modalities."""

    def __init__(self, bins: int = 32) -> None:
        super().__init__()
        _check_bins(bins)
        self.bins = bins

    def forward(self, fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
        return -mattes_mutual_information(fixed, warped, self.bins, mask).mean()

    def extra_repr(self) -> str:
        return f"bins={self.bins}"
