"""A bundle's inference.json on a stack, all of it or a window of some frames, by plain values that travel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from warpzoo.bundles import Bundle, find_bundle, shipped
from warpzoo.denoising.filters import FILTERS
from warpzoo.denoising.results import WriteTiles
from warpzoo.denoising.tiles import Tiles
from warpzoo.errors import as_value_error
from warpzoo.images.stacks import Stack, Window, Written

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow


def denoiser(method: str | None = None) -> Bundle:
    """The bundle of that name or in that folder; the shipped one if none is named."""
    return shipped("denoising") if method is None else find_bundle(method, "denoising", [*FILTERS])


@dataclass(frozen=True)
class Inference:
    """What a network is made of: a method as of `denoiser`, its variants, and the settings of its inference.json."""

    method: str | None
    variants: tuple[str, ...]
    settings: Mapping[str, Any]

    def workflow(self, stack: Stack, output: Any, **settings: Any) -> ConfigWorkflow:
        settings = {**self.settings, "image": stack, "output": output, **settings}
        return denoiser(self.method).workflow("inference", self.variants, **settings)

    def tile_of(self, stack: Stack) -> tuple[int, int]:
        """The side of its tiles, and of what that is a multiple."""
        with as_value_error():
            tiles: Tiles = self.workflow(stack, None).parser.get_parsed_content("dataset")
        return tiles.size, tiles.alignment


class Opened:
    """A network with its weights, which denoises windows of a stack; the same tiles as of the whole stack."""

    def __init__(self, inference: Inference, stack: Stack, device: str | None) -> None:
        import torch

        settings = {} if device is None else {"device": torch.device(device)}
        parser = inference.workflow(stack, None, **settings).parser
        with as_value_error():
            self.tiles: Tiles = parser.get_parsed_content("dataset")
            self.tiles.tiles = self.tiles.within([0], tuple(slice(0, 1) for _ in stack.shape[1:]))
            self.writer: WriteTiles = parser.get_parsed_content("postprocessing")
            self.evaluator = parser.get_parsed_content("evaluator")

    def __call__(self, stack: Stack, written: Written, frames: Iterable[int], window: Window) -> tuple[float, float]:
        """Writes a window of some frames; the sums of the image's and of the result's values there."""
        self.tiles.tiles = self.tiles.within(frames, window)
        self.writer.path = written
        self.writer.sums[:] = 0
        self.evaluator.state.epoch_length = len(self.tiles)
        with as_value_error():
            self.evaluator.run()
        before, after = self.writer.sums
        return float(before), float(after)
