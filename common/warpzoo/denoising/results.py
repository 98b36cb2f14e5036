"""What becomes of denoised tiles: a file like the input, into which they go as they come; numbers where the clean image
is known."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.inferers import Inferer
from torch import Tensor
from tqdm import tqdm

from warpzoo import record
from warpzoo.checks import check_truth
from warpzoo.denoising.stacks import Stack, create_like, open_stack
from warpzoo.denoising.tiles import Tiles
from warpzoo.metrics.intensity import psnr, scale_invariant_psnr, ssim


class WriteTiles:
    """Writes each tile's core into a file of the input's format, shape, axes, pixel size and data type.

    Attached to an evaluator as a handler it opens and closes the file, which is there under its name when all tiles are
    in it; as the evaluator's postprocessing it takes the tiles.

    Args:
        path: the file; with the input's suffix.
        tiles: what is denoised.
        dtype: of the values, such as float32; the input's own by default.
        key: where the result is in the evaluator's output.
    """

    def __init__(self, path: str | Path, tiles: Tiles, dtype: str | None = None, key: str = "pred") -> None:
        self.path = Path(path)
        self.tiles = tiles
        self.dtype = dtype
        self.key = key
        self.open = ExitStack()
        self.sums = np.zeros(2)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.give_up)

    def start(self, _: Engine) -> None:
        self.file = self.open.enter_context(create_like(self.tiles.data, self.path, self.dtype))
        self.bar = self.open.enter_context(tqdm(total=len(self.tiles), desc="Denoising", unit="tile", disable=None))

    def __call__(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        tile = self.tiles.tiles[int(data["index"])]
        values = tile.core(data[self.key][0]).float().cpu().numpy()
        if not np.isfinite(values).all():
            raise ValueError(
                f"{self.tiles.data.path}, frame {tile.frame}, gives NaN or infinite values; nothing is written. Are "
                f"there such pixels in it?"
            )
        self.file.put(tile.frame, tile.keep, values)
        self.sums += tile.core(data["image"][0]).double().sum().item(), values.sum(dtype=np.float64)
        self.bar.update()
        return data

    @property
    def mean_ratio(self) -> float:
        """Mean of the result over that of the input."""
        return float(self.sums[1] / self.sums[0])

    def close(self, _: Engine) -> None:
        self.open.close()

    def give_up(self, _: Engine, error: BaseException) -> None:
        with self.open:
            raise error


class Compare:
    """Writes one JSON at the end: how far the noisy and the denoised file are from a clean one, frame by frame.

    PSNR, PSNR after the best gain and offset, and SSIM of `warpzoo.metrics`, in the range of each clean frame; the mean
    over that of the noisy image.
    """

    def __init__(self, path: str | Path, noisy: Stack, output: str | Path, reference: str | Path) -> None:
        self.path, self.noisy, self.output, self.reference = Path(path), noisy, output, reference

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, _: Engine) -> None:
        channel = self.noisy.layout.channel if self.noisy.layout.channels is not None else None
        denoised, clean = (open_stack(path, self.noisy.dims, channel) for path in (self.output, self.reference))
        if clean.shape != self.noisy.shape:
            raise ValueError(f"{self.reference} has shape {clean.shape}, the noisy image {self.noisy.shape}.")
        frames = []
        for frame in range(clean.shape[0]):
            window = tuple(slice(0, size) for size in clean.shape[1:])
            images = [torch.from_numpy(one.read(frame, window))[None, None] for one in (self.noisy, denoised, clean)]
            noisy, result, reference = images
            frames.append(
                {
                    "noisy": quality(noisy, reference),
                    "denoised": quality(result, reference),
                    "mean_ratio": float(result.double().mean() / noisy.double().mean()),
                }
            )
        record.write_json(self.path, {"frames": frames})


def quality(image: Tensor, reference: Tensor) -> dict[str, float]:
    """Of one image (1, 1, *spatial)."""
    return {
        "psnr": float(psnr(image, reference)),
        "scale_invariant_psnr": float(scale_invariant_psnr(image, reference)),
        "ssim": float(ssim(image, reference)),
    }


class Denoise(Inferer):
    """MONAI's inferer that gives the denoised image, or instead of it the network's `phantom`, in the image's units."""

    def __init__(self, phantom: bool = False) -> None:
        super().__init__()
        self.phantom = check_truth("phantom", phantom)

    def __call__(self, inputs: Tensor, network: Any, *_: Any, **__: Any) -> Tensor:
        return network.restore(network.phantom(network.normalise(inputs))) if self.phantom else network(inputs)
