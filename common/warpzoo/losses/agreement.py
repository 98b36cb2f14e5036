"""The two ways of registering a pair made to agree, the worse following the better."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement
from warpzoo.geometry.jacobian import jacobian_determinant
from warpzoo.geometry.sampling import precise, warp


class Agreement(nn.Module):
    """How much of the images the two ways of registering a pair disagree on by more than `scale` voxels, 0 to 1.

    The better way of the two is taken as given and pulls the other: no gradient flows into it. Better is the one whose
    images correlate more over both grids: a voxel of the fixed image counts for itself and for the volume that it
    covers in the moving one. So a structure that is large in one image and small in the other is carried in both
    directions as it was best matched in one of them; inverse consistency lets each direction spoil the other.

    A disagreement of d voxels, |u(x) + v(x + u(x))| with the better way's displacement u and the other's v, counts as
    1 − exp(−d² / 2 scale²): some places have no inverse, and they should not decide the rest.

    Args:
        scale: in voxels.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, fixed: Tensor, warped: Tensor, displacement: Tensor) -> Tensor:
        """What a network was asked and said, all pairs one way and then, in the same order, the other way."""
        check_displacement("displacement", displacement)
        if len(displacement) % 2:
            raise ValueError(f"displacement has {len(displacement)} items; each pair wants to be there both ways.")
        displacement, pairs = precise(displacement), len(displacement) // 2
        with torch.no_grad():
            volume = 1 + jacobian_determinant(displacement).clamp(min=0)
            there, back = _correlation(precise(fixed), precise(warped), volume).chunk(2)
        first = torch.arange(pairs, device=displacement.device)
        better, other = first + pairs * (there <= back), first + pairs * (there > back)
        given = displacement[better].detach()
        distance = given + warp(displacement[other], given)
        return 1 - torch.exp((distance * distance).sum(1) / (-2 * self.scale**2)).mean()


def _correlation(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """Pearson's, of weighted voxels, for each item of the batch."""
    share = weight.flatten(1) / weight.flatten(1).sum(1, keepdim=True)
    first, second = (image.flatten(1) - (share * image.flatten(1)).sum(1, keepdim=True) for image in (fixed, warped))
    covariance, *variances = ((share * a * b).sum(1) for a, b in ((first, second), (first, first), (second, second)))
    return covariance / (variances[0] * variances[1]).sqrt()
