"""The released bundle of an application: where it is, and what runs of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from warpzoo.bundles import open_bundle
from warpzoo.errors import nearest
from warpzoo.images.stacks import Stack

if TYPE_CHECKING:
    from warpzoo.denoising.denoise import Denoised
    from warpzoo.registration.pair import Registration
    from warpzoo.registration.series_interface import SeriesResult


class Released:
    """A bundle with the settings of the application: of a pair, entries of its `inference.json`; otherwise arguments of
    what runs.

    Its copy of warpzoo may lack what it does not do itself, so each method imports what it needs.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        self.bundle = open_bundle(root)
        self.settings = dict(settings)

    @property
    def version(self) -> str:
        return str(self.bundle.metadata["version"])

    @cached_property
    def inferer(self) -> Any:
        return self._part("inferer")

    def read_pair(self, files: Mapping[str, Path]) -> dict[str, Any]:
        """Both images, as the bundle's dataset reads them."""
        pair: dict[str, Any] = self._part("dataset", **{side: str(path.absolute()) for side, path in files.items()})[0]
        return pair

    def register(self, pair: Mapping[str, Any]) -> Registration:
        from warpzoo.registration.computing import computing

        with computing(), torch.no_grad():
            done: Registration = self.inferer(pair, self.inferer.method.network)
        return done

    def write_pair(self, pair: Mapping[str, Any], registration: Registration, folder: Path) -> None:
        """Writes what the bundle's postprocessing writes."""
        self._part("postprocessing", output_dir=str(folder.absolute()))({"image": pair, "pred": registration})

    def denoise(self, stack: Stack, path: Path) -> Denoised:
        """Denoises an image of any size tile by tile, from file to file."""
        from warpzoo.denoising.denoise import denoise_stack

        return denoise_stack(stack, path.absolute(), str(self.bundle.root), **self.settings)

    def register_sequence(self, path: Path) -> SeriesResult:
        from warpzoo.registration.sequence_interface import register_sequence

        return register_sequence(path, str(self.bundle.root), **self.settings)

    def _part(self, key: str, **changes: Any) -> Any:
        known = self.bundle.settings("inference")
        for name in self.settings:
            if name not in known:
                raise ValueError(
                    f"settings of app.yaml must be entries of {self.bundle.name}'s inference.json, got "
                    f"{name!r}{nearest(name, known)}."
                )
        return self.bundle.part(key, "inference", **{**self.settings, **changes})
