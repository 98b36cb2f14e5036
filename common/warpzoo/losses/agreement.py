"""Agreement of the two directions of registering a pair: the worse one is pulled towards the better one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_displacement, check_same_shape
from warpzoo.geometry.jacobian import jacobian_determinant
from warpzoo.geometry.sampling import precise, sample, voxel_coordinates


class Agreement(nn.Module):
    """The disagreement of the two directions of registering a pair, 0 to 1, at every other voxel along each axis.

    The better direction of a pair is held constant (no gradient) and the other one is pulled towards its inverse. The
    better one is that whose images correlate more over both grids: a voxel of the fixed image counts for itself and for
    the volume that it covers in the moving one. A structure that is large in one image and small in the other thus
    tends to be warped in both directions as it was matched where it is large; with inverse consistency each direction
    could deteriorate the other.

    A disagreement of d voxels, |u(x) + v(x + u(x))| with the better direction's displacement u and the other's v,
    costs 1 − exp(−d² / 2 scale²), averaged over the better direction's grid. The gradient is largest at d = scale and
    vanishes at some times that: places without an inverse must not dominate.

    Args:
        scale: in voxels.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be a number of voxels above 0, got {scale}.")
        self.scale = scale

    def forward(self, fixed: Tensor, warped: Tensor, displacement: Tensor) -> Tensor:
        """The images and a network's predictions: all pairs in one direction, then in the same order in the other."""
        check_displacement("displacement", displacement)
        check_same_shape("fixed", fixed, "warped", warped)
        if len(displacement) % 2 or len(displacement) != len(fixed):
            raise ValueError(
                f"fixed and displacement must hold each pair in both directions, got {len(fixed)} and "
                f"{len(displacement)} items."
            )
        if min(displacement.shape[2:]) < 3:
            raise ValueError(
                f"displacement must have 3 voxels or more on every axis, got shape {tuple(displacement.shape)}."
            )
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
    """Pearson's correlation with weighted voxels for each item of the batch; 0 for a constant image."""
    share = (weight / weight.flatten(1).sum(1).reshape(-1, *[1] * (weight.dim() - 1))).flatten(2)
    values = torch.cat([fixed, warped], dim=1).flatten(2)
    values = values - values.mean(2, keepdim=True)  # before weighting, for less round-off
    values = values - values @ share.transpose(1, 2)
    moments = (share * values) @ values.transpose(1, 2)
    spread = moments[:, 0, 0].sqrt() * moments[:, 1, 1].sqrt()
    return torch.where(spread > 0, moments[:, 0, 1] / spread, 0.0)
