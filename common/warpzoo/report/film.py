"""A series before and after its registration, to be seen at a glance: a film of both side by side, and kymographs.

Convention: what is shown of a frame is one plane. A kymograph has a row for each frame, of the line that runs through
the middle of that plane's content: what does not move is a vertical stripe.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from warpzoo.images.content import centre_of, window
from warpzoo.report import panels
from warpzoo.report.pictures import Figure, figure_of
from warpzoo.report.planes import Plane

SIDE = 224
"""Pixels along the longer side of a picture of the film."""
MOST_FRAMES = 36
"""Of the film: of more they are evenly drawn."""
MOST_ROWS = 200
"""Of a kymograph, likewise."""
MILLISECONDS = 120
BLACK, WHITE = 0, 255


class Film:
    """Collects the frames of a series one after the other, as pictures; `limits` are black and white."""

    def __init__(self, reference: Tensor, plane: Plane, count: int) -> None:
        self.plane, self.count = plane, count
        self.row, self.column = centre_of(plane.of(reference))
        self.chosen = {round(one) for one in np.linspace(0, count - 1, min(count, MOST_FRAMES)).tolist()}
        self.limits: dict[str, tuple[float, float]] = {}
        self.pictures: list[np.ndarray] = []
        self.lines: dict[str, dict[str, list[np.ndarray]]] = {}

    def add(self, frame: int, images: Mapping[str, Tensor]) -> None:
        """A frame as several images (*spatial) on one grid, by what they are called."""
        if frame % -(-self.count // MOST_ROWS) == 0:
            for name, image in images.items():
                plane = self.plane.of(image).float().cpu().numpy()
                lines = self.lines.setdefault(name, {"across": [], "down": []})
                lines["across"].append(plane[self.row].copy())
                lines["down"].append(plane[:, self.column].copy())
        if frame in self.chosen:
            for name, image in images.items():
                # of the first frame that shows something, so that bleaching is seen
                if name not in self.limits and image.min() < image.max():
                    self.limits[name] = window(image, highest=99.8)
            shown = [
                panels.grey(image, self.plane, self.limits.get(name, (0.0, 1.0)), SIDE)
                for name, image in images.items()
            ]
            gap = np.full((len(shown[0]), 4), WHITE, np.uint8)
            self.pictures.append(
                _labelled(np.hstack([part for one in shown for part in (one, gap)][:-1]), frame, [*images])
            )

    @cached_property
    def gif(self) -> bytes:
        """The film, which runs for ever."""
        first, *others = map(Image.fromarray, self.pictures)
        encoded = io.BytesIO()
        first.save(encoded, "GIF", save_all=True, append_images=others, duration=MILLISECONDS, loop=0, optimize=False)
        return encoded.getvalue()

    def figure(self) -> Figure:
        height, width = self.pictures[0].shape
        source = f"data:image/gif;base64,{base64.b64encode(self.gif).decode()}"
        return Figure(source, f"{width}/{height}", "")

    def kymographs(self) -> dict[str, list[Figure]]:
        """By direction, those of each kind of image; all kinds in the limits of their own."""
        figures: dict[str, list[Figure]] = {"across": [], "down": []}
        for name, directions in self.lines.items():
            low, high = self.limits.get(name, (0.0, 1.0))
            for direction, rows in directions.items():
                values = ((np.stack(rows) - low) / (high - low)).clip(0, 1)
                picture = (255 * np.nan_to_num(values)).round().astype(np.uint8)
                # frames are few and lines long: each row is as high as makes the picture half as high as wide at least
                height = max(len(picture), round(0.5 * SIDE))
                resized = Image.fromarray(picture).resize((SIDE, height), Image.Resampling.NEAREST)
                figures[direction].append(figure_of(np.asarray(resized), name))
        return figures


def _labelled(picture: np.ndarray, frame: int, names: list[str]) -> np.ndarray:
    """With a line of words above it."""
    height = 16
    words = Image.new("L", (picture.shape[1], height), BLACK)
    draw = ImageDraw.Draw(words)
    for number, name in enumerate(names):
        draw.text((4 + number * (picture.shape[1] + 4) // len(names), 2), name, fill=WHITE)
    draw.text((picture.shape[1] - 40, 2), f"{frame:5d}", fill=WHITE)
    return np.vstack([np.asarray(words), picture])
