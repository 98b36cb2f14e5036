"""What a denoiser is trained for: to tell pixels that it cannot see from their surroundings."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from warpzoo.denoising.masking import BlindSpotMask
from warpzoo.losses.blind_spot import BlindSpotLoss, Positivity


class BlindSpotObjective(nn.Module):
    """Error of the denoised image at blind spots, plus `positivity` · mean of what the phantom lies below background.

    Errors are those of normalised images. Noise that is independent from pixel to pixel cannot be told from the
    surroundings, so what is learnt is the image without it.

    Args:
        network: with `hot`, `normalise`, `phantom`, `psf` and a `background` in the image's units.
        masking: hides pixels.
        positivity: weight of that term; light is not negative.
    """

    def __init__(self, network: Any, masking: BlindSpotMask | None = None, positivity: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.masking = BlindSpotMask() if masking is None else masking
        self.error = BlindSpotLoss()
        self.positivity = Positivity()
        self.weight = positivity

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(batch, 1, *spatial) → {"loss", "error", "negative"}, scalars."""
        image = self.network.hot(image)
        masked, mask = self.masking(image)
        phantom = self.network.phantom(self.network.normalise(masked))
        error = self.error(self.network.psf(phantom), self.network.normalise(image), mask)
        negative = self.positivity(phantom - self.network.normalise(self.network.background))
        return {"loss": error + self.weight * negative, "error": error.detach(), "negative": negative.detach()}
