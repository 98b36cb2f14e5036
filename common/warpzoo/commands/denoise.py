"""The command `warpzoo denoise`."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path


def denoise(
    image: str,
    *,
    output: str,
    method: str | None = None,
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
    threads: int | None = None,
    device: str | None = None,
    cluster: str | None = None,
) -> None:
    """Denoises an image, a volume or a time series, without a clean image to learn from.

    The result is a file of the same kind, shape, axes, pixel size and data type; its intensities are the input's. TIFF
    files may be larger than the memory. Ctrl-C ends the training early and denoises with what was learnt so far; a
    second one ends the command.

    Args:
        image: the noisy image: TIFF, OME-TIFF, OME-Zarr, NIfTI, MetaImage, NRRD or PNG; time points and, in 2-D,
            slices are denoised one by one, by one network that was trained on all of them.
        output: the file to write.
        method: a bundle's name or folder (default: the shipped network), or a filter: median, gaussian, box, box3d,
            nlm, tv, wavelet.
        budget: how long the network learns, such as 60s (the default), 10min or 2000steps.
        psf_sigma: standard deviation in pixels of the microscope's blur; one number, one per axis as 2,1,1 (slices,
            rows, columns), "none", or "learn".
        psf: an image file with a measured point-spread function, instead of psf_sigma.
        size: a filter's size, in pixels, or for nlm, tv and wavelet in standard deviations of the noise; default: found
            by J-invariance, without a clean image.
        spatial_dims: 3 to use the neighbouring slices of a volume, too.
        channel: the channel to denoise, counted from 0, if there are several; the others are copied.
        time_axis: the file's time axis, counted from 0, if the file does not specify it and spatial_dims is 3.
        weights: file of weights of a network trained before; there is no training then, unless a budget is given, for
            which the network goes on learning from this image.
        save_weights: file to save the trained weights to.
        variant: the network's variant, such as published or unet,none.
        phantom: write the light before the blur (the phantom) instead of the denoised image.
        dtype: data type of the result, such as float32; default: the input's.
        tile: side, in pixels, of the tiles that a large image is denoised in (default: 512, for volumes 128).
        seed: of random numbers.
        strict: treat warnings as errors.
        threads: how many to compute with; default: as PyTorch chooses.
        device: such as cuda:1 or cpu; default: the GPU if there is one.
        cluster: who denoises an OME-Zarr, such as local, local:4, tcp://host:8786 or slurm.yaml, as for
            `warpzoo register` (docs/scale.md). Each worker reads, denoises and writes whole chunks of it. The network
            learns before, in this process. When it is stopped, the same command goes on. Without, this process does
            all.
    """
    from warpzoo.bundles import variant_names
    from warpzoo.cluster import connected
    from warpzoo.cohorts.stacks import Workers
    from warpzoo.denoising.denoise import denoise_stack, psf_settings
    from warpzoo.denoising.filters import FILTERS
    from warpzoo.denoising.inference import denoiser
    from warpzoo.images.parts import check_shared
    from warpzoo.images.stacks import check_output, open_stack
    from warpzoo.registration.computing import computing

    began = time.perf_counter()
    if method not in FILTERS:
        denoiser(method)
    if Path(image).resolve() == Path(output).resolve():
        raise ValueError(f"output must have a name of its own, got the noisy image itself, {image}.")
    if Path(image).is_dir() and not image.rstrip("/").lower().endswith(".zarr"):
        raise ValueError(
            f"image must be one file, got the folder {image}. To train on a folder of images and use the weights for "
            f"each, see the bundle's docs/README.md."
        )
    stack = open_stack(image, 3 if method == "box3d" else spatial_dims, channel, time_axis)
    check_output(stack, output, dtype)
    if cluster is not None:
        check_shared(stack)
    with connected(cluster) if cluster else nullcontext() as client, computing(seed, threads):
        done = denoise_stack(
            stack,
            Path(output).absolute(),
            method,
            budget=budget,
            size=size,
            weights=weights,
            save_weights=save_weights,
            variants=variant_names(variant),
            phantom=phantom,
            dtype=dtype,
            tile=tile,
            seed=seed,
            strict=strict,
            device=device,
            settings=psf_settings(psf_sigma, psf),
            workers=None if client is None else Workers(client, threads),
        )
    for finding in done.findings:
        print(f"warning: {finding}")
    seconds = time.perf_counter() - began
    if done.mean_ratio is None:
        print(f"{output}: {done.method} of size {done.size:g}, {seconds:.0f} s")
        return
    learnt = "weights given" if weights and not budget else f"{done.steps} steps in {done.seconds:.0f} s"
    learnt += ", interrupted" if done.interrupted else ""
    print(f"{output}: {learnt}, mean intensity × {done.mean_ratio:.4f}, {seconds:.0f} s in all")
