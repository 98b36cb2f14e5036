"""The pure call: a noisy stack in, its denoised windows out, by a bundle's network or by a filter."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from warpzoo.bundles import Bundle, absolute_name
from warpzoo.bundles.portable import carried_settings
from warpzoo.checks import check_truth, chosen_device
from warpzoo.denoising.filters import FILTERS, Filtering, filter_stack, filtering_of
from warpzoo.denoising.inference import Inference, denoiser
from warpzoo.denoising.preflight import little_to_learn_from, other_intensities, preflight
from warpzoo.errors import Finding, as_value_error, raise_if
from warpzoo.files import whole_file
from warpzoo.images.stacks import Stack, result_dtype
from warpzoo.networks import read_about
from warpzoo.networks.weights import is_unfinished
from warpzoo.record import checksum
from warpzoo.training.limit import parse_budget

LEARNT = "model.pt"
"""What a network has learnt, in the folder of what is done."""


class Elsewhere(Protocol):
    """What denoises in place of this process."""

    def unfinished(self, stack: Stack, output: Path, settings: Mapping[str, Any]) -> AbstractContextManager[str | Path]:
        """The folder of what is done of an output."""

    def denoise(
        self,
        stack: Stack,
        folder: Path,
        output: Path,
        how: Filtering | Inference,
        dtype: str | None = None,
        device: str | None = None,
    ) -> float | None:
        """Writes what is left of the output."""


@dataclass(frozen=True)
class Denoised:
    """What was done.

    method: a bundle's name, or a filter's.
    findings: what is doubtful about the noisy image.
    size: of the filter.
    steps, seconds: of training; 0 where weights were given.
    mean_ratio: the mean of the result over that of the noisy image.
    interrupted: whether Ctrl-C ended the training.
    """

    method: str
    findings: Sequence[Finding]
    size: float | None = None
    steps: int = 0
    seconds: float = 0.0
    mean_ratio: float | None = None
    interrupted: bool = False


def denoise_stack(
    stack: Stack,
    output: str | Path | np.ndarray,
    method: str | None = None,
    *,
    budget: str | None = None,
    size: float | None = None,
    weights: str | Path | None = None,
    save_weights: str | Path | None = None,
    variants: Sequence[str] = (),
    phantom: bool = False,
    dtype: str | None = None,
    tile: int | None = None,
    seed: int = 0,
    strict: bool = False,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: Elsewhere | None = None,
) -> Denoised:
    """Denoises a stack into a file, or into an array of the stack's axes, the slowest first.

    Args are those of the command; `settings` are further ones that a bundle's configurations may have, None for not
    given. With `workers`, such as `warpzoo.cohorts.stacks.Workers`, these denoise, into an OME-Zarr.
    """
    strict = check_truth("strict", strict)
    if tile is not None and tile < 1:
        raise ValueError(f"tile must be 1 pixel or more, got {tile}.")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}.")
    result_dtype(stack, dtype)
    file = Path("array") if isinstance(output, np.ndarray) else Path(output)
    settings = {name: value for name, value in (settings or {}).items() if value is not None}
    if method in FILTERS:
        if weights or save_weights or variants or phantom or budget or settings:
            raise ValueError(
                f"weights, variant, phantom, budget and the PSF must not be given with the filter {method}: it learns "
                f"nothing."
            )
        findings = preflight(stack)
        raise_if(findings, strict)
        if workers is None:
            return Denoised(method, findings, size=filter_stack(stack, output, method, size, dtype))
        filtering = filtering_of(stack, method, size, *([tile] if tile else []))
        with workers.unfinished(stack, file, {"filtering": asdict(filtering), "dtype": dtype}) as folder:
            workers.denoise(stack, Path(folder), file, filtering, dtype)
        return Denoised(method, findings, size=filtering.size)
    bundle = denoiser(method)
    if size is not None:
        raise ValueError(f"size must only be given with a filter, got {size} with {bundle.name}, a network.")
    learns = weights is None or budget is not None
    if save_weights and not learns:
        raise ValueError(
            "save_weights must not be given with weights alone: nothing is learnt then. With a budget, the network "
            "goes on learning from this image."
        )
    if budget is not None:
        parse_budget(budget)
    told = bool(variants or settings)  # by the user, and not by the weights
    weights = None if weights is None else Path(weights).expanduser().absolute()
    if weights is not None and not learns and is_unfinished(weights):
        raise ValueError(
            f"{weights} is the state of a training to go on from, in which the noise has not been measured yet: give "
            f"the model.pt of that run."
        )
    variants = [*dict.fromkeys([*bundle.variants_for(stack.dims), *variants])]
    common: dict[str, Any] = {"spatial_dims": stack.dims, "summary": False, **_own_settings(bundle, variants, settings)}
    if device is not None:
        common["device"] = torch.device(chosen_device(device))
    findings = preflight(stack)
    raise_if(findings, strict)
    if weights is not None and not told:
        common |= carried_settings(read_about(weights), bundle, weights)
        if common["spatial_dims"] != stack.dims:
            dims = common["spatial_dims"]
            raise ValueError(f"spatial_dims must be {dims} for the weights {weights}, got {stack.dims}.")
    if weights is not None and not learns:
        findings = [*findings, *other_intensities(stack, weights)]
        raise_if(findings, strict)
    asked = {
        "method": bundle.name,
        "variants": variants,
        "settings": settings,
        "learnt": [*([budget, seed] if learns else []), *([] if weights is None else [checksum(weights)])],
        "phantom": phantom,
        "dtype": dtype,
        "tile": tile,
    }
    place = tempfile.TemporaryDirectory() if workers is None else workers.unfinished(stack, file, asked)
    with place as folder:
        own = Path(folder, LEARNT)
        made = Path(save_weights or Path(folder, "learning.pt")).expanduser().absolute()
        learnt = made if learns or weights is None else weights
        run: dict[str, Any] = {"steps": 0, "seconds": 0.0, "interrupted": False}
        if learns and not own.exists():
            training = {"initial_weights": weights and str(weights), "seed": seed, "budget": budget}
            findings = [*findings, *_learn(bundle, variants, stack, learnt, common, training, findings, strict)]
        if workers is not None:
            learnt = _keep_weights(learnt, own)
        if learns:
            run |= json.loads(learnt.with_suffix(".training.json").read_text(encoding="utf-8"))
        inference = Inference(
            method and absolute_name(method),
            tuple(str(Path(one).absolute()) if one.endswith(".json") else one for one in variants),
            {**common, "weights": str(learnt), "dtype": dtype, "phantom": phantom, **({"tile": tile} if tile else {})},
        )
        if workers is None:
            workflow = inference.workflow(stack, output)
            with as_value_error():
                workflow.run()
            ratio = workflow.parser.get_parsed_content("postprocessing").mean_ratio
        else:
            ratio = workers.denoise(stack, Path(folder), file, inference, dtype, device)
    return Denoised(
        bundle.name,
        findings,
        steps=run["steps"],
        seconds=run["seconds"],
        mean_ratio=ratio,
        interrupted=run["interrupted"],
    )


def _keep_weights(weights: Path, own: Path) -> Path:
    """Copies weights, and what they were learnt by, to where workers see them, but if they are there."""
    if own.exists():
        return own
    about = weights.with_suffix(".training.json")
    if about.exists():
        shutil.copyfile(about, own.with_suffix(".training.json"))
    with whole_file(own) as temporary:
        shutil.copyfile(weights, temporary)
    return own


def _learn(
    bundle: Bundle,
    variants: Sequence[str],
    stack: Stack,
    weights: Path,
    common: Mapping[str, Any],
    settings: Mapping[str, Any],
    findings: Sequence[Finding],
    strict: bool,
) -> list[Finding]:
    """Trains the network on the stack, into a file of weights; returns what is doubtful about that."""
    training = {"images": stack, "weights": str(weights), "val_interval": 0}
    training |= {name: value for name, value in settings.items() if value is not None}
    workflow = bundle.workflow("train", variants, **common, **training)
    with as_value_error():
        patch = workflow.parser.get_parsed_content("train#dataset").size
    found = [*little_to_learn_from(stack, patch)]
    raise_if([*findings, *found], strict)
    with as_value_error():
        workflow.run()
    return found


def psf_settings(psf_sigma: Any, psf: str | Path | None) -> dict[str, Any]:
    """The settings by which a bundle's configurations describe the PSF; None where it is not given."""
    return {"psf_sigma": psf_sigma, "psf_file": None if psf is None else str(Path(psf).absolute())}


def _own_settings(bundle: Bundle, variants: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings, which the bundle must have and no variant may set."""
    known, plain = bundle.settings("train", variants), bundle.settings("train")
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{name} must not be given for {bundle.name}, which has no such setting, got {value!r}.")
        if known[name] != plain[name]:
            raise ValueError(f"{name} must not be given with a variant that sets it to {known[name]!r}, got {value!r}.")
    return dict(settings)
