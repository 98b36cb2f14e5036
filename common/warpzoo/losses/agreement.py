"""The two ways of registering a pair made to agree, the worse following the better."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement, check_same_shape
from warpzoo.geometry.jacobian import jacobian_determinant
from warpzoo.geometry.sampling import precise, warp


class Agreement(nn.Module):
    """How much the two ways of registering a pair disagree, 0 to 1.

    The better way of a pair is taken as given and pulls the other: no gradient flows into it. Better is the one whose
    images correlate more over both grids: a voxel of the fixed image counts for itself and for the volume that it
    covers in the moving one. So a structure that is large in one image and small in the other tends to be carried in
    both directions as it was matched where it is large; inverse consistency lets each direction spoil the other.

    Where they disagree by d voxels, |u(x) + v(x + u(x))| with the better way's displacement u and the other's v, it
    counts as 1 − exp(−d² / 2 scale²), averaged over the better way's grid. The pull is strongest at d = scale and gone
    at some times that: some places have no inverse, and they should not decide the rest.

    Args:
        scale: in voxels.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale is {scale}; it wants a number of voxels above 0.")
        self.scale = scale

    def forward(self, fixed: Tensor, warped: Tensor, displacement: Tensor) -> Tensor:
        """What a network was asked and said, all pairs one way and then, in the same order, the other way."""
        check_displacement("displacement", displacement)
        check_same_shape("fixed", fixed, "warped", warped)
        if len(displacement) % 2 or len(displacement) != len(fixed):
            raise ValueError(
                f"{len(fixed)} images and {len(displacement)} displacements; each pair wants to be there both ways."
            )
        displacement, pairs = precise(displacement), len(displacement) // 2
        with torch.no_grad():
            volume = 1 + jacobian_determinant(displacement).clamp(min=0)
            there, back = _correlation(precise(fixed), precise(warped), volume).chunk(2)
        forth = torch.arange(pairs, device=displacement.device)
        better = torch.where(there > back, forth, forth + pairs)
        given = displacement[better].detach()
        distance = given + warp(displacement[(better + pairs) % (2 * pairs)], given)
        return 1 - torch.exp((distance * distance).sum(1) / (-2 * self.scale**2)).mean()


def _correlation(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """Pearson's, of weighted voxels, for each item of the batch; 0 of a constant image."""
    share = weight.flatten(1) / weight.flatten(1).sum(1, keepdim=True)
    scaled = []
    for image in (fixed, warped):
        values = image.flatten(1) - image.flatten(1).mean(1, keepdim=True)  # before weighing: sums round less
        values = values - (share * values).sum(1, keepdim=True)
        size = values.abs().amax(1, keepdim=True)  # squares neither underflow nor overflow
        values = values / torch.where(size > 0, size, torch.ones_like(size))
        deviation = (share * values * values).sum(1, keepdim=True).sqrt()
        scaled.append(values / torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
    return (share * scaled[0] * scaled[1]).sum(1)
