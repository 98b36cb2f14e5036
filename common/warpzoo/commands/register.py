"""The command `warpzoo register`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path


def register(
    fixed: str | None = None,
    moving: str | None = None,
    *,
    method: str | None = None,
    quality: str | None = None,
    output: str = "registered",
    pairs: str | None = None,
    cluster: str | None = None,
    to: str | None = None,
    time_axis: int | None = None,
    fixed_labels: str | None = None,
    moving_labels: str | None = None,
    fixed_points: str | None = None,
    moving_points: str | None = None,
    fixed_mask: str | None = None,
    moving_mask: str | None = None,
    initial: str | Sequence[str] | None = None,
    also: str | Sequence[str] | None = None,
    also_labels: str | Sequence[str] | None = None,
    refine: str = "0",
    adapt: str = "0",
    budget: str | None = None,
    channels: bool = False,
    landmarks_weight: float = 0.0,
    similarity: str | None = None,
    interpolation: str = "linear",
    outside: float | None = None,
    inverse: bool = False,
    save: str | Sequence[str] | None = None,
    strict: bool = False,
    safe: bool = False,
    both_ways: bool = False,
    report: bool = True,
    overwrite: bool = False,
    keep_interrupted: bool = False,
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    resolution: float | None = None,
    weights: str | None = None,
    variant: str | None = None,
) -> None:
    """Registers the moving image to the fixed one and writes the results on the fixed image's grid.

    The output folder gets warped.nii.gz, transform.h5 (transform.tfm if it is a matrix) and displacement.nii.gz (for
    ITK, ANTs, Slicer, SimpleITK), report.html and report.png, and metrics.json. Files may be NIfTI, MetaImage, NRRD,
    PNG, JPEG, TIFF or a folder of one DICOM series; they may differ in grid, spacing, orientation and data type.

    Ctrl-C ends the optimisation at hand and keeps its best; a second one ends the command.

    Args:
        fixed: the reference image. Without fixed and moving, a pair of label maps (fixed_labels, moving_labels) is
            registered, or else a pair of masks.
        moving: the image that is warped.
        method: one of `warpzoo methods`, the folder of a bundle such as ./my_bundle, or a chain of them such as
            affine,svf, which is composed and resampled once. rigid, affine, ffd and svf need no network; rigid and
            affine find large misplacements. Without, it is the network of the weights, or what suits any two
            images, see quality.
        quality: without a method, how good the result is to be: fast, usual (the default) or best. First comes affine
            by mutual information, then the network for any pair of images, which looks once, or twice if not fast, and
            then svf with 20, 40 or 80 iterations (in 2-D 60, 200 or 400), which compares windows, or mutual
            information where windows are little alike; fast compares half a million voxels at most. What does not
            suit the images, as the network does not suit images of several channels and label maps, and what does not
            make them more alike, is left out. With weights it is their network that looks, instead of ours. A moving
            image with time is registered by affine,svf.
        output: folder for the results.
        pairs: instead of fixed and moving, a CSV with the columns fixed and moving, and optionally id, fixed_labels,
            moving_labels, fixed_points, moving_points, fixed_mask, moving_mask, initial; each pair gets a folder below
            output, completed pairs are skipped; overview.html shows all of them, metrics.csv and failures.csv list
            them.
        cluster: who registers the pairs of a list, such as local, local:4, tcp://host:8786 or slurm.yaml. local is a
            worker for each core or GPU of this machine, an address that of a Dask scheduler, a file describes jobs of a
            batch system (docs/scale.md). Without, this process does, one pair after the other.
        to: where the moving image has time, first, last, mean, previous or a frame's number: its frames are registered
            to that frame, or to their mean, and that to the fixed image if there is one; without, each frame to the
            fixed image. The output folder gets one warped series, transforms/frame_0000.tfm (.h5) and so on, and
            frames.csv. When it is stopped, the same command goes on.
        time_axis: which axis of the moving image is time, counted from 0, the slowest first, if its file does not say.
        fixed_labels: label map of the fixed image, for Dice.
        moving_labels: label map of the moving image; it is warped as well.
        fixed_points: landmarks of the fixed image, in the order of moving_points, for the target registration error.
        moving_points: landmarks of the moving image (CSV, .fcsv or .mrk.json); they are warped as well.
        fixed_mask: an image that is above 0 where the fixed image is to be compared: in every similarity, in refinement
            and adaptation; the metrics are given inside and outside.
        moving_mask: likewise for the moving image. A voxel counts if it lies in the fixed mask and its place in the
            moving mask.
        initial: transform to start from, any ITK transform or displacement field as `warpzoo apply` reads them; several
            are joined by commas, in the order in which points of the fixed image go through them. rigid and affine then
            do not search for large misplacements.
        also: further images in the moving image's space, separated by commas, to be warped as well.
        also_labels: further label maps in that space, likewise, by nearest-neighbour interpolation.
        refine: optimisation of the transform on the pair at hand after the last network's pass, in iterations such as
            40, or seconds such as 10s.
        adapt: training of the last network on the pair at hand before its pass, in iterations, or seconds such as 10s.
        budget: seconds such as 20s for the methods of a pair: no further one begins after that, and what
            optimises ends with its best; a network's pass is not cut short. Without, it takes as long as it takes.
        channels: the images have several channels: colours, vector images, the fourth axis of a NIfTI. Their
            similarities are averaged, and warped.nii.gz is a vector image.
        landmarks_weight: above 0, the landmarks drive the registration as well: what their mean squared distance, in
            voxels of the fixed image, weighs beside the similarity, such as 0.1.
        similarity: the measure that rigid, affine, ffd, svf and refine maximise: ncc (default of rigid and affine),
            lncc (default of the others), mse, or for images of different modalities mi or, where they show the same
            anatomy, mind (descriptors of self-similarity, in 2-D beside mi; rigid and affine then maximise mi).
        interpolation: of the images that are written: linear, cubic (B-spline) or nearest; label maps are always taken
            from the nearest voxel.
        outside: value beyond the moving image's edge; default: its least value, 0 for label maps.
        inverse: also write the inverse, inverse_transform.h5 (.tfm if it is a matrix) and inverse_displacement.nii.gz,
            and the fixed image on the moving image's grid, inverse_warped.nii.gz; if the transform folds somewhere,
            inverse_missing.nii.gz shows where there is no inverse.
        save: what to write beside metrics.json, separated by commas, out of warped (with labels, landmarks and further
            images), transform, displacement, report and inverse; default: all but inverse, of a moving image with time
            warped, transform and report.
        strict: treat warnings as errors.
        safe: if the images are less alike after the registration than before, as may happen to a network that is given
            what it was not trained for, take the start or what affine finds instead; without, there is a warning.
        both_ways: register the pair the other way round as well, which takes twice as long, and write in
            disagreement.nii.gz how far each voxel is from itself after going there and back, in mm. Where that is
            much, do not believe the result.
        report: write the report.
        overwrite: register completed pairs of a list again, and frames of a stopped run.
        keep_interrupted: count pairs of a list whose optimisation was interrupted as completed.
        seed: of what is random.
        threads: how many to compute with; default: as PyTorch chooses.
        device: such as cuda:1 or cpu; default: the GPU if there is one.
        resolution: voxels, in mm (pixels for images without a spacing), at which ffd, svf and refine compare the images
            at their finest; more than 8 million are compared by ffd and svf in tiles. Without, they are the fixed
            image's own, or as large as makes 8 million, which is as exact where images are noisy. metrics.json and the
            report say what it was.
        weights: file of weights for the (last) network, instead of the shipped ones; with quality, for that between
            affine and svf.
        variant: the (last) network's variant, such as digits or paper,coarse, that the weights were trained with;
            without weights, the variant's shipped ones are used. Weights of `warpzoo train` know it themselves.
    """
    from warpzoo.cluster import connected
    from warpzoo.cohorts.many import recipe_of, register_files, register_list, say_list
    from warpzoo.registration.computing import computing
    from warpzoo.registration.listing import list_pairs
    from warpzoo.registration.results import SERIES_OUTPUTS
    from warpzoo.registration.series import OF_FRAMES
    from warpzoo.registration.series_files import is_series, register_series_files

    series = is_series(moving, to, time_axis, pairs, channels)
    listed = list_pairs(
        pairs,
        series=series,
        fixed=fixed,
        moving=moving,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        fixed_points=fixed_points,
        moving_points=moving_points,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        initial=initial,
        also=also,
        also_labels=also_labels,
    )
    if not listed:
        raise ValueError("fixed and moving, or pairs, must be given; there is nothing to register.")
    folder = Path(output).absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output must be a folder, got the file {output}.")
    if series and quality is not None:
        raise ValueError(f"quality must not be given for a moving image with time, got {quality}.")
    if series and method is None and weights is None:
        method = OF_FRAMES
    recipe = recipe_of(
        method,
        similarity,
        refine,
        adapt,
        weights,
        variant,
        device,
        resolution,
        quality,
        budget=budget,
        channels=channels,
        landmarks_weight=landmarks_weight,
        interpolation=interpolation,
        outside=outside,
        save=SERIES_OUTPUTS if series and save is None else save,
        report=report,
        inverse=inverse,
        strict=strict,
        safe=safe,
        both_ways=both_ways,
        seed=seed,
        threads=threads,
    )
    if series and recipe.settings["both_ways"]:
        raise ValueError("both_ways must not be given for a moving image with time.")
    if series and budget is not None:
        raise ValueError(f"budget must not be given for a moving image with time, got {budget}.")
    if cluster is not None and pairs is None:
        raise ValueError(f"cluster must only be given with pairs, got {cluster}: one registration is one task.")
    if series:
        settings = {**recipe.settings, "to": to, "time_axis": time_axis}
        with computing(seed, threads):
            numbers = register_series_files(
                listed[0], folder, recipe.methods, recipe.resampling, settings, strict, overwrite
            )
        print(f"{output}: {numbers}")
    elif pairs is None:
        print(f"{output}: {register_files(listed[0], folder, recipe)}")
    else:
        with connected(cluster) if cluster else nullcontext() as client:
            failures = register_list(listed, folder, recipe, overwrite, keep_interrupted, client)
        say_list(folder, len(listed), failures)
