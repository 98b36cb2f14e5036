"""The two ways of registering a pair made to agree, the worse following the better."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement, check_same_shape
from warpzoo.geometry.jacobian import jacobian_determinant
from warpzoo.geometry.sampling import precise, sample, voxel_coordinates


class Agreement(nn.Module):
    """How much the two ways of registering a pair disagree, 0 to 1; every other voxel along each axis is looked at.

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
        if min(displacement.shape[2:]) < 3:
            raise ValueError(f"displacement has shape {tuple(displacement.shape)}; it wants sides of 3 voxels or more.")
        there, back = precise(displacement).chunk(2)
        dims = there.dim() - 2
        sparse = (slice(None), slice(None), *[slice(None, None, 2)] * dims)
        with torch.no_grad(), torch.autocast(displacement.device.type, enabled=False):
            volume = 1 + jacobian_determinant(precise(displacement[sparse]) / 2).clamp(min=0)
            quality = _correlation(fixed[sparse].to(volume.dtype), warped[sparse].to(volume.dtype), volume).chunk(2)
            forth = (quality[0] > quality[1]).reshape(-1, *[1] * (dims + 1))
            given = torch.where(forth, there[sparse], back[sparse])
            places = voxel_coordinates(list(there.shape[2:]), given.dtype, given.device)[None][sparse] + given
        distance = given + sample(torch.where(forth, back, there), places)
        return 1 - torch.exp((distance * distance).sum(1) / (-2 * self.scale**2)).mean()


def _correlation(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """Pearson's, of weighted voxels, for each item of the batch; 0 of a constant image."""
    share = (weight / weight.flatten(1).sum(1).reshape(-1, *[1] * (weight.dim() - 1))).flatten(2)
    values = torch.cat([fixed, warped], dim=1).flatten(2)
    values = values - values.mean(2, keepdim=True)  # before weighing: sums round less
    values = values - values @ share.transpose(1, 2)
    moments = (share * values) @ values.transpose(1, 2)
    spread = moments[:, 0, 0].sqrt() * moments[:, 1, 1].sqrt()
    return torch.where(spread > 0, moments[:, 0, 1] / spread, 0.0)
