"""What is done to any two images if no method is named.

Placement finds a matrix by mutual information, whatever the contrasts. Then a network that was trained for any pair
looks once or twice, and a velocity is optimised, for as long as the quality asks. What does not suit the images, or
does not make them more alike, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from warpzoo.bundles import Bundle, bundles
from warpzoo.registration.budget import Budget

if TYPE_CHECKING:
    from warpzoo.geometry.grid import Grid
    from warpzoo.geometry.transforms import Transform
    from warpzoo.images.image import Image
    from warpzoo.registration.guidance import Guidance
    from warpzoo.registration.network import NetworkMethod
    from warpzoo.registration.pair import Method


class Quality(NamedTuple):
    """What a quality spends.

    passes: of the network.
    seen: voxels that it looks at, at most; with more of them it is not more exact where contrasts are alike.
    optimised: iterations of the velocity that is optimised after it, and at how many of its finest levels, by the
        number of the images' axes. The network has seen what is coarser, and few iterations spoil more than they find
        there; of flat images many take no time.
    compared: voxels at the finest level of that, at most: with more of them noise is followed.
    """

    passes: int
    seen: int
    optimised: Mapping[int, tuple[int, int]]
    compared: int


QUALITIES: Mapping[str, Quality] = {
    "fast": Quality(1, 2**19, {2: (60, 2), 3: (20, 1)}, 2**19),
    "usual": Quality(2, 2**20, {2: (200, 3), 3: (40, 2)}, 2**23),
    "best": Quality(2, 2**22, {2: (400, 3), 3: (80, 2)}, 2**23),
}
USUAL_QUALITY = "usual"
SMOOTHING = 6.0
"""Voxels, of what the network has found before the velocity is optimised."""


def check_quality(quality: str) -> str:
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, got {quality!r}.")
    return quality


def usual_methods(
    quality: Quality, networks: Sequence[Method], similarity: str | None, device: str, resolution: float | None
) -> list[Method]:
    """The chain for any two images, of a quality."""
    from warpzoo.registration.contrasts import BetweenContrasts

    return [
        BetweenContrasts("affine", similarity, device=device, resolution=resolution),
        *networks,
        *(
            BetweenContrasts(
                "svf",
                similarity,
                Budget(iterations),
                device,
                resolution,
                most_voxels=quality.compared,
                smoothing=SMOOTHING,
                levels=levels,
                dims=dims,
            )
            for dims, (iterations, levels) in quality.optimised.items()
        ),
    ]


def networks_for_any(passes: int, seen: int, device: str) -> list[NetworkForAny]:
    """Those of bundles and their variants with weights for any pair, as `any_pair` of their metadata lists them."""
    stated = [
        (bundle, variant) for bundle in bundles("registration") for variant in bundle.metadata.get("any_pair", [])
    ]
    return [
        NetworkForAny(bundle, variant, passes, seen, device)
        for bundle, variant in stated
        if bundle.weights([variant]).exists()
    ]


@dataclass(frozen=True)
class NetworkForAny:
    """A network for any pair, which is made when a pair comes that it suits: that takes longer than a small pair."""

    bundle: Bundle
    variant: str
    passes: int
    most_voxels: int
    device: str

    @property
    def name(self) -> str:
        return ",".join([f"{self.bundle.name}:{self.variant}"] * self.passes)

    @property
    def expectations(self) -> Mapping[str, Any]:
        return self.method.expectations

    @cached_property
    def dims(self) -> int:
        return self.bundle.dims_of([self.variant])

    @cached_property
    def method(self) -> NetworkMethod:
        from warpzoo.registration.methods import network_method

        return network_method(
            str(self.bundle.root), self.device, self.passes, self.variant, most_voxels=self.most_voxels
        )

    def suits(self, fixed: Image, moving: Image) -> bool:
        """Whether it can take these images."""
        from warpzoo.registration.label_maps import are_labels

        dims = fixed.grid.dims == moving.grid.dims == self.dims
        return dims and len(fixed.array) == len(moving.array) == 1 and not are_labels(fixed, moving)

    def finest(self, fixed: Image, start: Transform | None) -> Grid:
        return self.method.finest(fixed, start)

    def __call__(
        self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance | None = None
    ) -> Transform:
        return self.method(fixed, moving, start, guidance)
