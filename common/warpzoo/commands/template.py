"""The command `warpzoo template`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path


def template(
    *images: str,
    output: str = "template",
    method: str = "affine,svf",
    iterations: int = 4,
    start: str = "mean",
    cluster: str | None = None,
    similarity: str | None = None,
    refine: str = "0",
    weights: str | None = None,
    variant: str | None = None,
    resolution: float | None = None,
    interpolation: str = "linear",
    overwrite: bool = False,
    strict: bool = False,
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
) -> None:
    """Builds a template of many subjects that is biased to none of them.

    In each iteration all subjects are registered to the template, their intensities and transforms are averaged, and
    the mean is taken to the middle of all. The output folder gets template.nii.gz, transforms/ with a file for each
    subject (for ITK, ANTs, Slicer; from the template to the subject), template_0.nii.gz and so on with the looks after
    each iteration, subjects.csv, report.html and template.json. Memory is that of one pair. When it is stopped, the
    same command goes on; with more iterations it goes on as well.

    Args:
        images: the subjects, one file each, or one folder of files.
        output: folder for the results.
        method: as for `warpzoo register`. What finds matrices runs in the first iteration,
            what finds deformations in the others.
        iterations: how often the subjects are registered to the template.
        start: the image to begin with, or mean: the subjects' mean, with their centres of mass on one another.
        cluster: who registers the subjects, such as local, local:4, tcp://host:8786 or slurm.yaml; as for
            `warpzoo register`.
        similarity: the measure that rigid, affine, ffd, svf and refine maximise: ncc, lncc, mse, mi or
            mind.
        refine: optimisation of a network's transform, in iterations such as 40, or seconds such as 10s.
        weights: file of weights for the (last) network, instead of the shipped ones.
        variant: the (last) network's variant.
        resolution: voxels, in mm, at which ffd and svf compare images at their finest.
        interpolation: of the subjects that are averaged: linear, cubic or nearest.
        overwrite: begin again, also where the folder holds a template of other subjects or settings.
        strict: treat warnings as errors.
        seed: of what is random.
        threads: how many to compute with; default: as PyTorch chooses.
        device: such as cuda:1 or cpu; default: the GPU if there is one.
    """
    from warpzoo.cluster import connected
    from warpzoo.cohorts.many import recipe_of
    from warpzoo.cohorts.template_files import build_template, subjects_of

    subjects, folder = subjects_of(images), Path(output).absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output must be a folder, got the file {output}.")
    recipe = recipe_of(
        method,
        similarity,
        refine,
        weights=weights,
        variant=variant,
        device=device,
        resolution=resolution,
        interpolation=interpolation,
        strict=strict,
        seed=seed,
        threads=threads,
    )
    with connected(cluster) if cluster else nullcontext() as client:
        about = build_template(subjects, folder, recipe, iterations, start, overwrite, client)
    row = about["iterations"][-1]
    print(f"{output}: template.nii.gz of {len(subjects)} subjects, mean correlation {row['ncc']:.3f}, report.html")
