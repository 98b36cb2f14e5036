"""Joint denoising and affine registration: the features by which a network denoises two images also place them.

Convention: the input is moving and fixed concatenated as channels, the output is [warped | displacement] concatenated
as channels, the displacement in voxels. `matrices` gives the matrix after every pass, see `geometry.affine`; `denoised`
both images without their noise, in the units they came in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import Tensor, nn
from torch.nn import functional as F

from denoisereg.heads import KeyPointHead, MatchHead, PooledHead, convolution
from warpzoo.denoising.psf import GaussianPSF
from warpzoo.geometry.affine import affine_field, compose_matrices
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.transforms import Affine, Transform
from warpzoo.networks import (
    Standardise,
    channels_last,
    channels_last_weights,
    check_dims,
    check_pair,
    folded,
    mean_and_deviation,
    padded,
    tag_architecture,
    unfolded,
    warp_and_concatenate,
)

HEADS = ("matches", "key_points", "moments", "gap")


class DenoiseReg(nn.Module):
    """A blind-spot U-Net on each image, by the same weights; what its encoder finds is compared to place the images.

    Args:
        spatial_dims: 2 or 3.
        channels: of the blocks of the encoder, between which the image is halved by max pooling.
        fold: pixels a side, along the first two axes, that become channels of one cell at the finest level; 1 for none.
        blurs: standard deviations, in pixels, of Gaussians (0: the image itself); the denoised image is a mixture of
            the blurred ones, with weights at every pixel that the decoder predicts, plus its other output. Empty for
            the decoder's output alone.
        head: "matches" (for every place of one image the mean of those of the other that are described alike, and the
            affine map between them in closed form), "key_points" (the same between centres of mass of feature maps),
            "moments" (of every feature map its mean and its first and second moments, and dense layers) or "gap" (the
            mean alone, the paper's).
        points: of the head "key_points".
        hidden: neurons of the dense layers of the other heads.
        passes: how often it looks, each time at the moving image as placed so far.
        working: an image whose sides are longer than that is placed at about that size, by the means of its pixels;
            it is always denoised as it is.
        turns: degrees, evenly spaced, by which the moving image is tried turned first, outside of training, by a head
            in closed form; none or three and more.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        channels: Sequence[int] = (16, 32, 64, 64),
        fold: int = 2,
        blurs: Sequence[float] = (0, 1, 2, 4),
        head: str = "matches",
        points: int = 48,
        hidden: Sequence[int] = (128, 64),
        passes: int = 2,
        working: int = 96,
        turns: Sequence[float] = (-30, -20, -10, 0, 10, 20, 30),
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}.")
        if fold < 1 or len(channels) < 2:
            raise ValueError(f"fold must be 1 or more and channels two or more, got {fold} and {list(channels)}.")
        self.spatial_dims = check_dims(spatial_dims)
        if 0 < len(turns) < 3:
            raise ValueError(f"turns must be none or three and more, got {list(turns)}.")
        self.fold, self.passes, self.working = fold, passes, working
        self.turning = len(turns) > 0 and head in ("matches", "key_points")
        self.register_buffer("angles", torch.deg2rad(torch.tensor([float(turn) for turn in turns])), persistent=False)
        self.standardise = Standardise()
        widths = list(channels)
        self.down = nn.ModuleList(
            [_block(spatial_dims, *pair) for pair in zip([fold**2, *widths[:-1]], widths, strict=True)]
        )
        self.up = nn.ModuleList(
            [
                _block(spatial_dims, below + width, width)
                for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
            ]
        )
        self.pool = Pool[Pool.MAX, spatial_dims](2)
        self.blurs = nn.ModuleList([GaussianPSF(spatial_dims, side) if side else nn.Identity() for side in blurs])
        self.last = Conv[Conv.CONV, spatial_dims](widths[0], (1 + len(blurs)) * fold**2, 1)
        if blurs:  # an untrained network is the mean of the blurred images
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)
        self.alignment = fold * 2 ** (len(widths) - 1)
        self.head: nn.Module
        strides = [fold * 2 ** (len(widths) - 2)] * 2 + [2 ** (len(widths) - 2)] * (spatial_dims - 2)
        if head == "matches":
            self.head = MatchHead(spatial_dims, widths[-2], widths[-1], strides)
        elif head == "key_points":
            self.head = KeyPointHead(spatial_dims, widths[-2], widths[-1], points, strides)
        else:
            self.head = PooledHead(spatial_dims, widths[-1], hidden, head == "gap")
        tag_architecture(self, "denoisereg", head)
        channels_last_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 1 + dims, *spatial)."""
        return warp_and_concatenate(image, affine_field(self.matrices(image)[-1], list(image.shape[2:])))

    def transform(self, image: Tensor, grid: Grid) -> Transform:
        """What `forward` warps by."""
        return Affine(self.matrices(image)[-1], grid)

    def denoised(self, image: Tensor) -> Tensor:
        """Images (batch, channels, *spatial), moving and fixed or any others, without their noise."""
        mean, deviation = mean_and_deviation(image)
        standard = ((image - mean) / deviation).flatten(0, 1)[:, None]
        return self.decode(standard, self.encode(standard)).view(image.shape) * deviation + mean

    def matrices(self, image: Tensor) -> list[Tensor]:
        """The matrix (batch, dims, dims + 1) after every pass."""
        if not torch.jit.is_scripting():
            check_pair(image, self.spatial_dims)
        image = self.standardise(image)
        moving, fixed = image[:, :1], image[:, 1:]
        if self.turning and not self.training:
            here = self.describe(fixed)
            found = [self.turned(moving, fixed)]
            for _ in range(self.passes):
                found.append(self.once_more(moving, here, found[len(found) - 1]))
            return found
        there, here = self.describe(torch.cat([moving, fixed])).chunk(2)
        return self.placed(moving, there, here)

    def placed(self, moving: Tensor, there: Tensor, here: Tensor) -> list[Tensor]:
        """The matrix after every pass, from the descriptions of the moving and of the fixed image; further passes look
        at the moving image (batch, 1, *spatial) again."""
        matrix: Tensor = self.head.compare(there, here)
        found = [matrix]
        for _ in range(1, self.passes):
            matrix = self.once_more(moving, here, matrix.detach())
            found.append(matrix)
        return found

    def once_more(self, moving: Tensor, here: Tensor, before: Tensor) -> Tensor:
        """The matrix after a look at the moving image as placed by the one before."""
        there = self.describe(warp(moving, affine_field(before, list(moving.shape[2:]))))
        return compose_matrices(self.head.compare(there, here), before)

    def turned(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The turn, in the plane of the first two axes, from which the denoised images come to be most alike, between
        those tried (batch, dims, dims + 1); both images are looked at as they are placed, at the working size."""
        moving, fixed = self.at_working_size(moving), self.at_working_size(fixed)
        shape = list(fixed.shape[2:])
        batch, count = moving.shape[0], self.angles.shape[0]
        turns = _turns(self.angles.repeat_interleave(batch), self.spatial_dims)
        many = moving.repeat([count] + [1] * (moving.dim() - 1))
        here = self.describe(fixed).repeat([count, 1, 1])
        there = self.describe(warp(many, affine_field(turns, shape)))
        matrices = compose_matrices(self.head.compare(there, here), turns)
        clean = self.decode(torch.cat([moving, fixed]), self.encode(torch.cat([moving, fixed])))
        many, wanted = (one.repeat([count] + [1] * (moving.dim() - 1)) for one in clean.chunk(2))
        alike = _correlation(warp(many, affine_field(matrices, shape)), wanted).reshape(count, batch)
        best = alike.argmax(0, keepdim=True).clamp(1, count - 2)
        left, middle, right = alike.gather(0, best - 1), alike.gather(0, best), alike.gather(0, best + 1)
        curvature = (2 * middle - left - right).clamp_min(1e-3)  # where all are alike, none is better
        offset = (0.5 * (right - left) / curvature).clamp(-1.0, 1.0)
        step = self.angles[1] - self.angles[0]
        return self.head.opened(_turns((self.angles[best] + offset * step)[0], self.spatial_dims))

    def describe(self, image: Tensor) -> Tensor:
        """What the head needs of standardised images (batch, 1, *spatial) to place them."""
        code: Tensor = self.head(self.encode(self.at_working_size(image)), list(image.shape[2:]), self.factors(image))
        return code

    def at_working_size(self, image: Tensor) -> Tensor:
        """The image with the means of `factors` pixels as its pixels; beyond its far ends their edge is repeated."""
        factors = self.factors(image)
        if max(factors) == 1:
            return image
        extra: list[int] = []
        for axis in range(self.spatial_dims):
            extra = [0, -image.shape[2 + axis] % factors[axis]] + extra
        image = F.pad(image, extra, mode="replicate")
        return F.avg_pool2d(image, factors) if self.spatial_dims == 2 else F.avg_pool3d(image, factors)

    def factors(self, image: Tensor) -> list[int]:
        """How many pixels along each axis become one where images are placed."""
        longest = 1
        for axis in range(self.spatial_dims):
            longest = max(longest, int(image.shape[2 + axis]))
        factor = max(1, (longest + self.working // 2) // self.working)
        found: list[int] = []
        for axis in range(self.spatial_dims):
            found.append(factor if int(image.shape[2 + axis]) > self.working else 1)
        return found

    def encode(self, image: Tensor) -> list[Tensor]:
        """The features of standardised images (batch, 1, *spatial) after each block of the encoder."""
        features = channels_last(_reversed(folded(_reversed(padded(image, self.alignment)), self.fold)))
        found: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level > 0:
                features = self.pool(features)
            features = block(features)
            found.append(features)
        return found

    def decode(self, image: Tensor, seen: list[Tensor]) -> Tensor:
        """The denoised image from the image itself and its features, both standardised."""
        features = seen[len(seen) - 1]
        for level, block in enumerate(self.up):
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = block(torch.cat([features, seen[len(seen) - 2 - level]], dim=1))
        outputs = _reversed(unfolded(_reversed(self.last(features)), self.fold))
        for axis, size in enumerate(image.shape[2:]):
            outputs = outputs.narrow(axis + 2, 0, size)
        result = outputs[:, :1]
        blurred: list[Tensor] = []
        for blur in self.blurs:
            blurred.append(blur(image))
        if len(blurred) > 0:
            result = result + (outputs[:, 1:].softmax(dim=1) * torch.cat(blurred, dim=1)).sum(dim=1, keepdim=True)
        return result


def _reversed(image: Tensor) -> Tensor:
    """A volume with its slices first, and back; an image as it is."""
    return image.transpose(2, 4) if image.dim() == 5 else image


def _turns(angles: Tensor, dims: int) -> Tensor:
    """Rotations (count, dims, dims + 1) in the plane of the first two axes by angles (count,)."""
    cosine, sine, zero, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    if dims == 2:
        return torch.stack([cosine, -sine, zero, sine, cosine, zero], 1).reshape(-1, 2, 3)
    rows = [cosine, -sine, zero, zero, sine, cosine, zero, zero, zero, zero, one, zero]
    return torch.stack(rows, 1).reshape(-1, 3, 4)


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Of images, (batch,)."""
    one, other = one.flatten(1), other.flatten(1)
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    power = one.square().mean(1) * other.square().mean(1)
    return (one * other).mean(1) / power.clamp_min(1e-12).sqrt()


def _block(dims: int, inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*convolution(dims, inputs, outputs), *convolution(dims, outputs, outputs))
