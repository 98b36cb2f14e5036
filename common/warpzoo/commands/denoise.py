"""The command `warpzoo denoise`: trains the bundle's network on the noisy image itself, or filters it."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

    from warpzoo.errors import Finding

NETWORK = "psf_blindspot"


def denoise(
    image: str,
    *,
    output: str,
    method: str = NETWORK,
    budget: str | None = None,
    psf_sigma: str | None = None,
    psf: str | None = None,
    size: float | None = None,
    spatial_dims: int = 2,
    channel: int | None = None,
    time_axis: int | None = None,
    weights: str | None = None,
    save_weights: str | None = None,
    variant: str | None = None,
    phantom: bool = False,
    dtype: str | None = None,
    tile: int | None = None,
    seed: int = 0,
    strict: bool = False,
    device: str | None = None,
) -> None:
    """Denoises an image, a volume or a time series, without any clean image to learn from.

    The result is a file of the same kind, shape, axes, pixel size and data type; its intensities are the input's. TIFF
    files may be larger than the memory. Ctrl-C ends the training early and goes on with what was learnt till then.

    Args:
        image: the noisy image: TIFF, OME-TIFF, OME-Zarr, NIfTI, MetaImage, NRRD or PNG; time points and, in 2-D,
            slices are denoised one by one, by one network that has learnt from all of them.
        output: the file to write.
        method: psf_blindspot (a network), or a filter: median, gaussian, box, box3d, nlm, tv, wavelet.
        budget: how long the network learns, such as 60s (the default), 10min or 2000steps.
        psf_sigma: standard deviation in pixels of the microscope's blur; one number, one per axis as 2,1,1 (slices,
            rows, columns), "none", or "learn".
        psf: instead, an image file with the blur as it was measured.
        size: a filter's size (see the documentation); found without a clean image if not given.
        spatial_dims: 3 to use the neighbouring slices of a volume, too.
        channel: which one to denoise, counted from 0, where there are several; the others are copied.
        time_axis: which axis of the file is time, counted from 0, where it does not say so and spatial_dims is 3.
        weights: of a network that has been trained before; nothing is learnt then.
        save_weights: where to keep what was learnt.
        variant: overrides of the network's configuration, such as published or unet,none.
        phantom: write the light's origin before the blur instead of the denoised image.
        dtype: of the result, such as float32; the input's own by default.
        tile: pixels a side of the tiles that a large image is denoised in (by default 512, for volumes 128).
        seed: of what is drawn at random.
        strict: treat warnings about what is likely to fail as errors.
        device: such as cuda:1 or cpu; the GPU if there is one.
    """
    from warpzoo.denoising.filters import FILTERS, filter_stack
    from warpzoo.denoising.preflight import little_to_learn_from, other_intensities, preflight
    from warpzoo.denoising.stacks import check_output, open_stack
    from warpzoo.denoising.training import parse_budget

    began = time.perf_counter()
    if method != NETWORK and method not in FILTERS:
        raise ValueError(f"method {method!r} is not there; there are {NETWORK}, {', '.join(FILTERS)}.")
    if Path(image).resolve() == Path(output).resolve():
        raise ValueError(f"output is the noisy image itself, {image}; choose another name.")
    if tile is not None and tile < 1:
        raise ValueError(f"tile is {tile}; it wants 1 pixel or more.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it wants 0 or more.")
    if method == NETWORK and size is not None:
        raise ValueError(f"size is {size}, which filters have; the network has none: choose a filter by method.")
    if method in FILTERS and (weights or save_weights or variant or phantom or budget):
        raise ValueError(f"{method} is a filter, which learns nothing: no weights, variant, phantom or budget for it.")
    if weights and (save_weights or budget):
        raise ValueError("weights are given, so nothing is learnt: no budget and no save_weights then.")
    if Path(image).is_dir() and not image.rstrip("/").lower().endswith(".zarr"):
        raise ValueError(
            f"{image} is a folder; one file is denoised at a time. To train on a folder of images and use the weights "
            f"for each: bundles/{NETWORK}/docs/README.md."
        )
    stack = open_stack(image, 3 if method == "box3d" else spatial_dims, channel, time_axis)
    check_output(stack, output, dtype)
    warn(preflight(stack), strict)
    if method in FILTERS:
        size = filter_stack(stack, output, method, size, dtype)
        print(f"{output}: {method} of size {size:g}, {time.perf_counter() - began:.0f} s")
        return
    options: dict[str, Any] = {"spatial_dims": spatial_dims, "channel": channel, "time_axis": time_axis}
    options |= psf_options(psf_sigma, psf, spatial_dims)
    if budget is not None:
        parse_budget(budget)
    if device is not None:
        options["device"] = f"$torch.device({device!r})"
    variants = ["3d"] if spatial_dims == 3 else []
    variants += [name.strip() for name in variant.split(",")] if variant else []
    if "3d" in variants and spatial_dims != 3:
        raise ValueError("variant 3d is for volumes: spatial_dims 3.")
    if "none" in variants and psf_sigma not in (None, "none"):
        raise ValueError(f"variant none has no PSF, psf_sigma is {psf_sigma}; one of them is wanted.")
    with tempfile.TemporaryDirectory() as folder:
        learnt = Path(weights or save_weights or f"{folder}/model.pt").expanduser().absolute()
        if weights is not None:
            warn(other_intensities(stack, learnt), strict)
        else:
            training = workflow_of(
                "train",
                variants,
                images=str(Path(image).absolute()),
                weights=str(learnt),
                seed=seed,
                turn=psf is None and (psf_sigma is None or "," not in psf_sigma),
                **options,
                **({} if budget is None else {"budget": budget}),
            )
            warn(little_to_learn_from(stack, training.parser.get_parsed_content("patch")), strict)
            training.run()
        inference = workflow_of(
            "inference",
            variants,
            image=str(Path(image).absolute()),
            output=str(Path(output).absolute()),
            weights=str(learnt),
            dtype=dtype,
            phantom=phantom,
            **options,
            **({} if tile is None else {"tile": tile}),
        )
        inference.run()
        ratio = inference.parser.get_parsed_content("postprocessing").mean_ratio
        told = "weights given"
        if weights is None:
            run = json.loads(learnt.with_suffix(".training.json").read_text(encoding="utf-8"))
            told = f"{run['steps']} steps in {run['seconds']:.0f} s"
    print(f"{output}: {told}, mean intensity × {ratio:.4f}, {time.perf_counter() - began:.0f} s in all")


def warn(findings: Sequence[Finding], strict: bool) -> None:
    from warpzoo.errors import raise_if

    raise_if(findings, strict)
    for finding in findings:
        print(f"warning: {finding}")


def psf_options(sigma: str | None, measured: str | None, dims: int) -> dict[str, Any]:
    """Overrides of the configuration's `psf`."""
    if measured is not None:
        if sigma is not None:
            raise ValueError("psf and psf_sigma are both given; one of them is wanted.")
        source = str(Path(measured).absolute())
        return {"psf": {"_target_": "warpzoo.denoising.psf.MeasuredPSF", "source": source}}
    if sigma is None:
        return {}
    if sigma == "none":
        return {"psf": {"_target_": "torch.nn.Identity"}}
    if sigma == "learn":
        return {"psf#learnable": True}
    try:
        sides = [float(side) for side in sigma.strip("()[]").split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, dims) or not all(side > 0 for side in sides):
        raise ValueError(
            f"psf_sigma is {sigma!r}; a number of pixels, one per axis ({dims}) with commas, none or learn is wanted."
        )
    return {"psf#sigma": sides[0] if len(sides) == 1 else sides}


def workflow_of(kind: str, variants: list[str], **options: Any) -> ConfigWorkflow:
    """The bundle's training ("train") or "inference" with those variants that have something to say on it."""
    from monai.bundle import ConfigWorkflow

    from warpzoo.registration.methods import bundles_folder

    root = bundles_folder() / NETWORK
    configs = root / "configs"
    if not configs.is_dir():
        raise ValueError(f"{root} does not exist; name the folder of bundles with WARPZOO_BUNDLES.")
    files = [configs / f"{kind}.json", *(configs / "variants" / f"{name}.json" for name in variants)]
    for file in files:
        if not file.is_file():
            there = ", ".join(sorted(path.stem for path in (configs / "variants").glob("*.json")))
            raise ValueError(f"{NETWORK} has no variant {file.stem!r}; it has {there}.")
    path = list(sys.path)
    sys.path.insert(0, str(root))
    try:
        workflow = ConfigWorkflow(
            config_file=[str(file) for file in files],
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            workflow_type="train" if kind == "train" else "inference",
            bundle_root=str(root),
            **options,
        )
        workflow.initialize()
    finally:
        sys.path[:] = path
    return workflow
