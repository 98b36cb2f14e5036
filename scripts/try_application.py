"""Runs a bundle as an application of MONAI Deploy, on the CPU, and holds it against the command on the same files.

python scripts/try_application.py fcn_multires         (needs `bash scripts/setup.sh deploy`)

Writes the application, makes images, runs `python application -i … -o … -m …` on them as a Holoscan application in a
process of its own that does not find warpzoo, and says how far its results are from those of `warpzoo register` (a
pair, as NIfTI and as DICOM series) or `warpzoo sequence` (frames). What denoises learns from the image for two steps,
and is held against `warpzoo denoise`. Ends with an error where they are more than 1e-5 of the image's range apart.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import itk
import nibabel
import numpy as np
import tifffile
from pydicom import dcmread
from scipy.ndimage import gaussian_filter

from warpzoo.bundles import Bundle, find_bundle
from warpzoo.deployment.writing import write_application

TOLERANCE = 1e-5
STEPS = "2steps"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    bundle = find_bundle(parser.parse_args().bundle)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        begun = time.perf_counter()
        application = write_application(bundle, work / "app")
        print(f"{bundle.name}: the application is written in {time.perf_counter() - begun:.0f} s", flush=True)
        config = application / "application" / "app.yaml"
        if bundle.task == "denoising":
            config.write_text(config.read_text().replace("settings: {}", f"settings: {{budget: {STEPS}}}"))
            tifffile.imwrite(_in(work / "noisy") / "noisy.tif", _noisy((96, 80)))
            options = ["denoise", f"{work}/noisy/noisy.tif", f"--output={work}/denoised.tif", f"--budget={STEPS}"]
            _run(application, work / "noisy", work / "out")
            _command([*options, f"--method={bundle.root}"])
            _compare("denoised.tif", tifffile.imread(work / "out/denoised.tif"), tifffile.imread(work / "denoised.tif"))
        elif bundle.metadata.get("denoises"):
            tifffile.imwrite(_in(work / "frames") / "frames.tif", _frames(), metadata={"axes": "TYX"})
            _run(application, work / "frames", work / "out")
            _command(["sequence", f"{work}/frames/frames.tif", f"--output={work}/ours", f"--method={bundle.root}"])
            names = ("registered.ome.tif", "denoised.ome.tif")
            for name in names:
                _compare(name, *(tifffile.imread(work / side / name) for side in ("out", "ours")))
        else:
            _pair(bundle, application, work)


def _pair(bundle: Bundle, application: Path, work: Path) -> None:
    for kind in ("nifti", "dicom"):
        images = _images(work / kind, bundle.spatial_dims, kind)
        _run(application, work / kind, work / f"out_{kind}")
        _command(["register", *map(str, images), f"--output={work}/ours_{kind}", f"--method={bundle.root}"])
        for name in ("warped.nii.gz", "displacement.nii.gz"):
            sides = (nibabel.load(work / f"{side}_{kind}" / name) for side in ("out", "ours"))
            found, expected = sides
            assert np.array_equal(found.affine, expected.affine), name
            _compare(f"{kind}: {name}", np.asarray(found.dataobj), np.asarray(expected.dataobj))
    objects = [dcmread(work / "out_dicom" / f"{name}.dcm").SOPClassUID.name for name in ("registration", "report")]
    print(f"dicom: {', '.join(objects)}")


def _run(application: Path, source: Path, target: Path) -> None:
    begun = time.perf_counter()
    command = [sys.executable, str(application / "application"), "-i", str(source), "-o", str(target)]
    command = ["sh", "-c", 'ulimit -s 32768; exec "$@"', "sh", *command, "-m", str(application / "models")]
    surroundings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, env=surroundings, cwd=application.parent, text=True, capture_output=True)
    if done.returncode:
        sys.exit((done.stdout + done.stderr)[-6000:])
    if "Scheduler finished" not in done.stdout + done.stderr:
        sys.exit("Holoscan's scheduler must have run, but does not say so.")
    print(f"{source.name}: run by Holoscan in {time.perf_counter() - begun:.0f} s", flush=True)


def _command(options: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "warpzoo", *options], check=True, stdout=subprocess.DEVNULL)


def _compare(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    apart = float(np.abs(found.astype(float) - expected).max() / np.ptp(expected))
    print(f"{name}: {apart:.2g} of its range apart", flush=True)
    if not apart <= TOLERANCE:
        sys.exit(f"{name} must be within {TOLERANCE:g}.")


def _in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _scene(shape: tuple[int, ...], shift: int = 0) -> np.ndarray:
    values = gaussian_filter(np.random.default_rng(0).standard_normal([side + 6 for side in shape]), 2.5)
    part = values[tuple(slice(shift, shift + side) for side in shape)]
    return 1000 * (part - values.min()) / np.ptp(values)


def _noisy(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).poisson(20 + _scene(shape) / 10).astype(np.uint16)


def _frames() -> np.ndarray:
    return np.stack([np.roll(_noisy((64, 72)), shift, 1) for shift in range(4)])


def _images(folder: Path, dims: int, kind: str) -> list[Path]:
    """A fixed and a moving image of different sizes and spacings, in a tilted world."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    written = []
    for side, shape, shift, spacing in (
        ("fixed", (40, 36, 44), 2, (1.0, 1.2, 1.5)),
        ("moving", (44, 40, 38), 0, (1.1, 1.0, 1.6)),
    ):
        values = _scene(shape[:dims], shift).astype(np.int16)
        values = values if dims == 3 else values[..., None]
        path = folder / (f"{side}.nii.gz" if kind == "nifti" else side)
        (folder if kind == "nifti" else path).mkdir(parents=True, exist_ok=True)
        image = itk.image_from_array(np.ascontiguousarray(values.T))
        image.SetSpacing(spacing)
        image.SetDirection(itk.matrix_from_array(turn))
        if kind == "nifti":
            itk.imwrite(image, str(path))
        else:
            _write_series(image, path)
        written.append(path)
    return written


def _write_series(image: itk.Image, folder: Path) -> None:
    """By GDCM, as scanners do: one file for each slice, one frame of reference."""
    from pydicom.uid import generate_uid

    values, direction = itk.array_from_image(image), itk.array_from_matrix(image.GetDirection())
    spacing, uids = list(image.GetSpacing()), [generate_uid() for _ in range(3)]
    for number, slices in enumerate(values):
        position = direction @ (np.array([0, 0, number]) * spacing)
        single = itk.image_from_array(slices[None])
        single.SetSpacing(spacing)
        single.SetDirection(image.GetDirection())
        single.SetOrigin(position.tolist())
        meta = single.GetMetaDataDictionary()
        for tag, value in {
            "0008|0060": "MR",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0010|0010": "Doe^Jane",
            "0010|0020": "7",
            "0020|000d": uids[0],
            "0020|000e": uids[1],
            "0020|0052": uids[2],
            "0020|0013": str(number + 1),
            "0020|0032": "\\".join(f"{one:.9f}" for one in position),
            "0020|0037": "\\".join(f"{one:g}" for one in direction[:, :2].T.ravel()),
        }.items():
            meta[tag] = value
        writer = itk.GDCMImageIO.New(KeepOriginalUID=True)
        itk.imwrite(single, str(folder / f"{number:03d}.dcm"), imageio=writer)


if __name__ == "__main__":
    main()
