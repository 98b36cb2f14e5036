"""Output of denoising: a file like the input, written tile by tile; metrics where a clean image is known."""

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
from warpzoo.denoising.tiles import Tiles
from warpzoo.images.stacks import Stack, Written, create_like, open_stack
from warpzoo.metrics.intensity import psnr, scale_invariant_psnr, ssim


class WriteTiles:
    """Writes each tile's core into a file of the input's format, shape, axes, pixel size and data type.

    Attached to an evaluator as a handler it opens and closes the file, which gets its name when all tiles are written;
    as the evaluator's postprocessing it writes the tiles.

    Args:
        path: of the file, with the input's suffix; or an array of the input's axes, the slowest first; or what is open
            to be written into already.
        tiles: the tiles that are denoised.
        dtype: of the values, such as float32; default: the input's.
        key: of the result in the evaluator's output.
        summary: print one line about the file at the end.
    """

    def __init__(
        self,
        path: str | Path | np.ndarray | Written,
        tiles: Tiles,
        dtype: str | None = None,
        key: str = "pred",
        summary: bool = False,
    ) -> None:
        self.path = path
        self.tiles = tiles
        self.dtype = dtype
        self.key = key
        self.summary = check_truth("summary", summary)
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
                f"the result of {self.tiles.data.path}, frame {tile.frame}, has NaN or infinite values; nothing is "
                f"written. Check the image for such pixels."
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
        if self.summary:
            print(f"{self.path}: mean intensity × {self.mean_ratio:.4f}")

    def give_up(self, _: Engine, error: BaseException) -> None:
        with self.open:
            raise error


class Compare:
    """Writes a JSON file at the end: metrics of the noisy and the denoised file against a clean one, frame by frame.

    PSNR, PSNR after the best gain and offset, and SSIM of `warpzoo.metrics`, in the range of each clean frame; the
    ratio of the means of denoised and noisy image.
    """

    def __init__(self, path: str | Path, noisy: Stack, output: str | Path, reference: str | Path) -> None:
        self.path, self.noisy, self.output, self.reference = Path(path), noisy, output, reference

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, _: Engine) -> None:
        channel = self.noisy.layout.channel if self.noisy.layout.channels is not None else None
        denoised, clean = (open_stack(path, self.noisy.dims, channel) for path in (self.output, self.reference))
        if clean.shape != self.noisy.shape:
            raise ValueError(
                f"reference must have the noisy image's shape {self.noisy.shape}, got {clean.shape} ({self.reference})."
            )
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
    """The metrics of one image (1, 1, *spatial)."""
    return {
        "psnr": float(psnr(image, reference)),
        "scale_invariant_psnr": float(scale_invariant_psnr(image, reference)),
        "ssim": float(ssim(image, reference)),
    }


class Denoise(Inferer):
    """An inferer of MONAI that returns the denoised image, or the network's `phantom` in the image's units."""

    def __init__(self, phantom: bool = False) -> None:
        super().__init__()
        self.phantom = check_truth("phantom", phantom)

    def __call__(self, inputs: Tensor, network: Any, *_: Any, **__: Any) -> Tensor:
        if not self.phantom:
            return network(inputs)
        return network.restore(network.phantom(network.normalise(network.hot(inputs))))
