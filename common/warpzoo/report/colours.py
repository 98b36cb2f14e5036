"""Colour maps and a font: those of Matplotlib, without its import, which takes longer than drawing a page."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import ImageFont


class ColourMap:
    """Colours between evenly spaced ones, given as hexadecimal numbers, from 0 to 1.

    Example:
        >>> ColourMap("000000 ff0000")(np.array([0.0, 0.5, 1.0]))  # black, dark red, red
    """

    def __init__(self, colours: str) -> None:
        given = np.array([list(bytes.fromhex(colour)) for colour in colours.split()])
        steps = np.linspace(0, len(given) - 1, 256)
        channels = [np.interp(steps, np.arange(len(given)), channel) for channel in given.T]
        self.table = np.stack(channels, axis=-1).round().astype(np.uint8)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(…) between 0 and 1 → (…, 3) uint8."""
        return self.table[(values * 255).round().clip(0, 255).astype(np.uint8)]

    def names(self, low: float = 0, high: float = 1) -> list[str]:
        """17 colours of that part, as CSS writes them."""
        return [f"#{bytes(colour).hex()}" for colour in self(np.linspace(low, high, 17))]


BLUE_TO_RED = ColourMap("053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f")
"""Equally dark at both ends, white in the middle: RdBu of ColorBrewer."""
VIRIDIS = ColourMap(
    "440154 481a6c 472f7d 414487 39568c 31688e 2a788e 23888e 1f988b 22a884 35b779 54c568 7ad151 a5db36 d2e21b fde725"
)
"""Ever brighter."""


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has most of the world's letters."""
    spec = find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    return ImageFont.truetype(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
