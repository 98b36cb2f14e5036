"""The command `warpzoo sequence`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warpzoo.registration.series_files import InFolder


def sequence(
    input: str,
    *,
    output: str = "registered",
    method: str | None = None,
    reference: str = "first",
    channel: int | str | None = None,
    points: str | None = None,
    roi: str | None = None,
    train: str | None = None,
    refine: str = "20",
    resolution: float | None = None,
    consistent: bool = True,
    time_axis: int | None = None,
    save: str | None = None,
    interpolation: str = "linear",
    outside: float | None = None,
    report: bool = True,
    overwrite: bool = False,
    strict: bool = False,
    safe: bool = False,
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    weights: str | None = None,
    variant: str | None = None,
    cluster: str | None = None,
) -> None:
    """Registers the frames of a sequence from a microscope, and denoises them if the method does so.

    Reads a TIFF, ImageJ TIFF, OME-TIFF or OME-Zarr with time, in two or three dimensions, or a folder of numbered
    files. The output folder gets registered.ome.tif (.ome.zarr of an OME-Zarr) with the data type, pixel size and time
    step of the input, denoised.ome.tif if the method denoises, transforms.csv, points.csv with --points, report.html,
    animation.gif and metrics.json. A frame that cannot be registered is placed between its neighbours and flagged.
    When it is stopped, the same command goes on.

    Args:
        input: the file, or the folder of numbered files.
        output: folder for the results.
        method: one of `warpzoo methods`, or a chain such as affine,svf: what finds matrices first, then what finds
            deformations, which is composed and resampled once. What comes after a network that denoises is given
            denoised frames. Without, it is such a network, if its weights are there, or else affine.
        reference: first, last, mean, previous (each frame to the one before it, composed) or the number of a frame,
            from 0.
        channel: which of several channels is registered, counted from 0, or by its name in an OME-TIFF; all are warped
            by what it gives.
        points: points of the frames, to be taken to the reference: a CSV with the columns frame, y, x (z) and any
            others, or TrackMate's CSV or XML; the same file comes back with other positions.
        roi: where the reference is compared: x,y,width,height in pixels, or an image that is above 0 there.
        train: how long the network is trained on these frames before, such as 3min, 90s or 500 (steps); its weights
            are kept as model.pt.
        refine: how often, at each of some resolutions, the matrix that a network gives is refined on the frames; 0 for
            not at all.
        resolution: pixels, at which svf and ffd compare frames in the end; default: 6 after a network that denoises,
            as texture changes and noise is left, otherwise the frames' own.
        consistent: whether frames are registered to each other as well, and all matrices solved together, unless the
            method finds none but rotations or shifts (rigid, phase_correlation).
        time_axis: which axis is time, counted from 0, the slowest first, if the file does not say.
        save: what to write beside the tables, out of warped (the frames), transform (a file for each frame, for ITK),
            displacement (likewise) and report. Without, it is warped,report.
        interpolation: of the frames that are written: linear, cubic or nearest.
        outside: value beyond a frame's edge; default: its least value.
        report: write the report and the animation.
        overwrite: begin again where a run was stopped.
        strict: treat warnings as errors.
        safe: if a method makes a frame less alike the reference than it was, take the start or what affine finds
            instead; without, there is a warning.
        seed: of what is random.
        threads: how many to compute with; default: as PyTorch chooses.
        device: such as cuda:1 or cpu; default: the GPU if there is one.
        weights: file of weights for the network, instead of the shipped ones.
        variant: of the network, that the weights were trained with.
        cluster: who finds what depends on no other frame, such as local, local:4, tcp://host:8786 or slurm.yaml, as for
            `warpzoo register` (docs/scale.md). That is what a network that denoises makes of frames, and deformations
            after the matrices of all frames were solved together. All else is done by this process, and without it
            everything.
    """
    from warpzoo.cluster import connected
    from warpzoo.cohorts.frames import Ahead
    from warpzoo.cohorts.many import fingerprints
    from warpzoo.images.resampling import Resampling
    from warpzoo.images.series import channel_number, open_timed
    from warpzoo.registration.computing import computing
    from warpzoo.registration.listing import list_pairs
    from warpzoo.registration.results import SEQUENCE_OUTPUTS, chosen_outputs
    from warpzoo.registration.sequence import gaps_of, prepared, sequence_methods, time_axis_of, usual_method
    from warpzoo.registration.series import own_reference
    from warpzoo.registration.series_files import register_series_files
    from warpzoo.registration.series_results import SEQUENCE

    own_reference(reference, name="reference")
    if not Path(input).expanduser().exists():
        raise ValueError(f"{input} does not exist; it is given as input.")
    files = list_pairs(series=True, moving=input)[0]
    folder = _output_folder(output, files["moving"])
    if points is not None:
        files["tracks"] = Path(points).expanduser()
        if not files["tracks"].exists():
            raise ValueError(f"{points} does not exist; it is given as points.")
    source = open_timed(files["moving"], channels=True)
    channel = channel_number(source, channel)
    axis, doubt = (time_axis, "") if time_axis is not None else time_axis_of(source)
    others = f"{input} has {source.images} images, such as positions of the stage: the first is registered."
    doubts = [one for one in (doubt, gaps_of(files["moving"]), others if source.images > 1 else "") if one]
    dims = 2 if len(source.spatial) == 2 or axis is not None else 3
    chain = method or usual_method(dims)
    methods = sequence_methods(chain, refine, weights, variant, device, resolution=resolution)
    settings: dict[str, Any] = {
        "method": chain,
        "to": reference,
        "channel": channel,
        "channels": False,
        "roi": roi,
        "train": train,
        "refine": refine,
        "resolution": resolution,
        "consistent": consistent,
        "time_axis": axis,
        "outputs": [*chosen_outputs(save or SEQUENCE_OUTPUTS, report)],
        "interpolation": interpolation,
        "outside": outside,
        "seed": seed,
        "safe": safe,
        "landmarks_weight": 0.0,
        "variant": variant,
        "weights": fingerprints(methods),
    }

    resampling = Resampling(interpolation, outside)
    with connected(cluster) if cluster else nullcontext() as client, computing(seed, threads):
        ahead = Ahead(client, files, folder, settings, strict, threads, device, weights) if cluster else None

        def prepare(given: dict[str, Any], store: InFolder) -> list[str]:
            if ahead is not None:
                ahead.check()
            said = prepared(given, methods, roi, files.get("tracks"), train, seed, store.folder)
            if ahead is not None:
                ahead.clean(methods, len(given["series"]))
            return doubts + said

        summary = register_series_files(
            files, folder, methods, resampling, settings, strict, overwrite, SEQUENCE, prepare, ahead
        )
    print(f"{output}: {summary}")


def _output_folder(output: str, read: Path) -> Path:
    """Where results go: a folder that is, or can be made, outside the one that is read."""
    folder = Path(output).absolute()
    above = next(one for one in (folder, *folder.parents) if one.exists())
    if not above.is_dir():
        raise ValueError(f"output must be a folder, got {output}, and {above} is a file.")
    if read.is_dir() and folder.resolve().is_relative_to(read.resolve()):
        raise ValueError(f"output must not be the folder {read}, which is read, or lie in it, got {output}.")
    return folder
