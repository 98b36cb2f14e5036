"""Self-supervised denoising: the error at masked voxels only, and non-negativity.

A mask is (batch, 1, *spatial), True at the voxels whose value was hidden from the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_image, check_mask, check_same_shape

NORMS = ("l1", "l2")
PER = ("masked", "voxel")


class BlindSpotLoss(nn.Module):
    """Absolute ("l1") or squared ("l2") error between prediction and target at the masked voxels.

    The mean over them (per "masked"), or their sum divided by the number of all voxels (per "voxel", as the paper on
    joint denoising and registration has it, some 30 to 100 times smaller); in either case the mean over channels and
    batch.
    """

    def __init__(self, norm: str = "l2", per: str = "masked") -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}, got {norm!r}.")
        if per not in PER:
            raise ValueError(f"per must be one of {PER}, got {per!r}.")
        self.norm = norm
        self.per = per

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        check_image("prediction", prediction)
        check_image("target", target)
        check_same_shape("prediction", prediction, "target", target)
        check_mask("mask", mask, "prediction", prediction)
        dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
        difference = prediction.to(dtype) - target.to(dtype)
        error = difference.abs() if self.norm == "l1" else difference.square()
        masked = (mask > 0).expand_as(error)
        error = error.masked_fill(~masked, 0.0)
        return error.mean() if self.per == "voxel" else error.sum() / masked.sum()

    def extra_repr(self) -> str:
        return f"norm={self.norm!r}, per={self.per!r}"


class Positivity(nn.Module):
    """Mean of max(0, -z) over all voxels: light is not negative. z has the camera's offset subtracted."""

    def forward(self, phantom: Tensor) -> Tensor:
        check_image("phantom", phantom)
        return (-phantom.to(torch.promote_types(phantom.dtype, torch.float32))).relu().mean()
