"""Single hot pixels of a camera, very much brighter than all around them: found and replaced by their neighbours.

A network that learns from the image would otherwise be trained on little else: the error of one pixel counts by its
square.

Convention: images (batch, 1, *spatial); neighbours are the eight in the plane of the last two axes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

AROUND = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)]
"""Where the neighbours begin in an image that has one more pixel on each side."""
ORDERED = [
    *[(0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6)],
    *[(0, 4), (1, 5), (2, 6), (3, 7), (2, 4), (3, 5), (1, 2), (3, 4), (5, 6)],
]
"""Batcher's network: eight numbers are in order once each of these pairs is, in turn."""
USUAL, FACTOR = 0.999, 3
"""A pixel stands out as usual where it does so by less than `FACTOR` times that quantile."""
NONE = float(torch.finfo(torch.float32).max)
"""The limit above which nothing is."""
ALONE = 8
"""A hot pixel stands out by so many times the difference of its neighbours; a point of light blurred by 0.6 pixels, or
more, by less."""


class HotPixels(nn.Module):
    """Replaces each pixel that stands out from the median of its neighbours by more than `limit`, and by `ALONE` times
    what they differ by, by this median. The brightest neighbour may be hot as well.

    Before `fit`, nothing stands out. A pixel depends on others up to `reach` pixels away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reach = 1
        self.around, self.ordered, self.alone = AROUND, ORDERED, ALONE
        self.limit: Tensor
        self.register_buffer("limit", torch.tensor(NONE))

    def forward(self, image: Tensor) -> Tensor:
        median, above, differ = self._surroundings(image)
        return torch.where(self._hot(above, differ), median, image.to(median.dtype))

    @torch.no_grad()
    def fit(self, image: Tensor) -> None:
        """Learns from a sample of images what is usual."""
        above = self._surroundings(image)[1]
        limit = FACTOR * float(np.quantile(above.cpu().numpy(), USUAL))
        self.limit.fill_(limit if limit > 0 else NONE)

    @torch.no_grad()
    def found(self, image: Tensor) -> Tensor:
        """Where hot pixels are, boolean."""
        _, above, differ = self._surroundings(image)
        return self._hot(above, differ)

    def _hot(self, above: Tensor, differ: Tensor) -> Tensor:
        return (above > self.limit) & (above > self.alone * differ)

    def _surroundings(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The median of each pixel's neighbours, how much it is above it, and how much they differ, but for the
        brightest."""
        planes = image.float().flatten(0, -3)[:, None]
        wide = F.pad(planes, [1, 1, 1, 1], mode="replicate")
        neighbours: list[Tensor] = []
        for row, column in self.around:
            neighbours.append(wide.narrow(2, row, planes.shape[2]).narrow(3, column, planes.shape[3]))
        for one, other in self.ordered:
            low, high = neighbours[one], neighbours[other]
            neighbours[one] = torch.minimum(low, high)
            neighbours[other] = torch.maximum(low, high)
        median = (0.5 * (neighbours[3] + neighbours[4])).view_as(image)
        return median, image - median, (neighbours[6] - neighbours[0]).view_as(image)
