"""`warpzoo sequence`: what it writes, seen by tifffile, scikit-image and scipy; known motion; what cannot be read."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image as Picture
from scipy import ndimage
from scipy.linalg import sqrtm
from skimage.transform import AffineTransform, warp

import warpzoo as package
from warpzoo.files import FileError
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine
from warpzoo.images.image import Image
from warpzoo.registration import frames as room
from warpzoo.registration import groups, settling
from warpzoo.registration.alignment import Levels, align, correlations
from warpzoo.registration.consistency import solved_together
from warpzoo.registration.optimisation import Optimisation
from warpzoo.transforms.tracks import read_tracks

Call = Callable[..., object]
SHAPE = (64, 72)
MIDDLE = np.array([31.0, 35.0])
DENOISER = '''

class Denoiser(Known):
    """Finds no motion at all, and denoises by the mean of 5 × 5 pixels."""

    def transform(self, image, grid):
        from warpzoo.geometry.composition import identity
        return identity(grid)

    def denoised(self, image):
        return torch.nn.functional.avg_pool2d(image, 5, 1, 2, count_include_pad=False)
'''


def matrix_of(frame: int) -> np.ndarray:
    """From rows and columns of frame 0 to those of another one."""
    angle, scale = np.deg2rad(2.0 * frame), 1 + 0.008 * frame
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, MIDDLE - linear @ MIDDLE + frame * np.array([0.9, -0.6])
    return matrix


def content(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    places = np.indices(shape) - (np.array(shape) / 2 - 1).reshape(-1, *[1] * len(shape))
    radii = (0.32 * np.array(shape) * np.linspace(1, 0.8, len(shape))).reshape(-1, *[1] * len(shape))
    body = ndimage.gaussian_filter((((places / radii) ** 2).sum(0) < 1).astype(float), 1.5)
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return 300 + 1000 * body * (1 + 0.3 * texture / texture.std())


def drifting(count: int = 6, noise: float = 40.0) -> np.ndarray:
    back = [np.linalg.inv(matrix_of(frame)) for frame in range(count)]
    frames = [ndimage.affine_transform(content(), one[:2, :2], one[:2, 2], order=3, mode="nearest") for one in back]
    noisy = np.array(frames) + noise * np.random.default_rng(1).normal(size=(count, *SHAPE))
    return noisy.clip(0, 65535).round().astype(np.uint16)


POINTS = np.array([[25.0, 30], [36, 42], [31, 35], [40, 28]])


def true_points(frame: int) -> np.ndarray:
    return POINTS @ matrix_of(frame)[:2, :2].T + matrix_of(frame)[:2, 2]


def save_imagej(path: Path, frames: np.ndarray, axes: str = "TYX") -> Path:
    metadata = {"axes": axes, "unit": "um", "finterval": 30.0, "spacing": 0.5}
    tifffile.imwrite(path, frames, imagej=True, resolution=(5.0, 5.0), metadata=metadata)
    return path


def table_of(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    lines = (folder / "transforms.csv").read_text().splitlines()
    return [line for line in lines if line[0] == "#"], list(csv.DictReader(line for line in lines if line[0] != "#"))


def matrices_of(folder: Path) -> np.ndarray:
    """As scikit-image takes them: x first."""
    names = [["xx", "xy", "x0"], ["yx", "yy", "y0"]]
    rows = [[[float(row[name]) for name in line] for line in names] for row in table_of(folder)[1]]
    return np.concatenate([rows, np.broadcast_to([[[0, 0, 1]]], (len(rows), 1, 3))], axis=1)


def error(matrices: np.ndarray, reference: int = 0) -> float:
    """Mean distance in pixels of the points that matrices (x first) take from the reference to each frame."""
    here = np.column_stack([true_points(reference)[:, ::-1], np.ones(len(POINTS))])
    apart = [
        np.linalg.norm(here @ one[:2].T - true_points(frame)[:, ::-1], axis=1) for frame, one in enumerate(matrices)
    ]
    return float(np.mean(apart))


def write_tracks(path: Path, frames: int = 6) -> Path:
    rows = [f"{frame},{n},{y},{x}" for frame in range(frames) for n, (y, x) in enumerate(true_points(frame))]
    path.write_text("\n".join(["frame,id,y,x", *rows]) + "\n")
    return path


@pytest.fixture
def denoiser(make_bundle: Call) -> str:
    root = make_bundle("quiet", [0.0, 0.0])
    with open(root / "quiet_network.py", "a") as file:  # type: ignore[operator]
        file.write(DENOISER)
    for name in ("inference", "metadata"):
        path = root / f"configs/{name}.json"  # type: ignore[operator]
        path.write_text(path.read_text().replace("quiet_network.Known", "quiet_network.Denoiser"))
    return "quiet"


def test_from_an_imagej_tiff_to_tables_points_and_a_film(warpzoo: Call, tmp_path: Path) -> None:
    """transforms.csv, applied by scikit-image to the input, gives registered.ome.tif."""
    frames, out = drifting(), tmp_path / "out"
    ended = warpzoo(
        *("sequence", save_imagej(tmp_path / "cells.tif", frames), "--method=rigid,affine", "--output", out),
        *("--points", write_tracks(tmp_path / "tracks.csv")),
    )
    assert ended.code == 0, ended.err  # type: ignore[attr-defined]
    assert {path.name for path in out.iterdir()} == {
        *("registered.ome.tif", "transforms.csv", "points.csv", "report.html", "animation.gif", "metrics.json")
    }
    with tifffile.TiffFile(out / "registered.ome.tif") as file:
        registered, pixels = file.asarray(), ElementTree.fromstring(file.ome_metadata or "")
        assert file.is_ome
        assert (file.series[0].axes, registered.dtype.name) == ("TYX", "uint16")
    said = next(one for one in pixels.iter() if one.tag.endswith("Pixels")).attrib
    assert [said[name] for name in ("PhysicalSizeX", "PhysicalSizeY", "TimeIncrement")] == ["0.2", "0.2", "30.0"]
    assert said["PhysicalSizeXUnit"] == "µm"
    matrices, (explained, rows) = matrices_of(out), table_of(out)
    assert "x' = xx*x + xy*y + x0" in explained[0]
    assert "registered(x, y) = frame(x', y')" in explained[1]
    assert error(matrices) < 0.35
    for frame, matrix in enumerate(matrices):
        expected = warp(frames[frame].astype(float), AffineTransform(matrix), order=1, cval=np.nan, preserve_range=True)
        inside = np.isfinite(expected)
        assert inside.mean() > 0.7
        assert np.abs(registered[frame] - expected)[inside].max() <= 0.51  # rounded
        assert float(rows[frame]["angle"]) == pytest.approx(-2 * frame, abs=0.5)  # x first turns the other way
        assert rows[frame]["ok"] == "True"
    written = (out / "points.csv").read_text().splitlines()
    assert written[0] == "frame,id,y,x"
    moved = np.array([line.split(",") for line in written[1:]], float)
    assert moved[:, 1].tolist() == [0, 1, 2, 3] * 6
    assert np.linalg.norm(moved[:, 2:] - np.tile(POINTS, (6, 1)), axis=1).mean() < 0.35
    with Picture.open(out / "animation.gif") as film:
        assert film.n_frames == 6  # type: ignore[attr-defined]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "data:image/gif;base64" in page
    assert "Kymographs" in page


def test_bioio_reads_the_frames_back(tmp_path: Path) -> None:
    """Axes, values, the size of a pixel and the time step."""
    bioio = pytest.importorskip("bioio")
    pytest.importorskip("bioio_ome_tiff")
    frames = np.stack([drifting(3), drifting(3)], 1)
    options = {"axes": "TCYX", "channel": 1, "pixel_size": (0.2, 0.3), "seconds": 30}
    package.register_sequence(frames, "phase_correlation", **options).save(tmp_path / "out")
    read = bioio.BioImage(tmp_path / "out/registered.ome.tif")
    assert (read.dims.order, read.shape, read.dtype) == ("TCZYX", (3, 2, 1, *SHAPE), np.uint16)
    assert np.array_equal(read.data[:, :, 0], tifffile.imread(tmp_path / "out/registered.ome.tif"))
    assert (read.physical_pixel_sizes.X, read.physical_pixel_sizes.Y) == (0.2, 0.3)
    assert read.ome_metadata.images[0].pixels.time_increment == 30


def test_a_network_that_denoises_then_refinement_then_a_deformation(
    warpzoo: Call, denoiser: str, tmp_path: Path
) -> None:
    """The network places nothing: refinement on its denoised frames does, each from the frame before."""
    frames, out = drifting(noise=300.0), tmp_path / "out"
    path = save_imagej(tmp_path / "cells.tif", frames)
    ended = warpzoo("sequence", path, "--method", f"{denoiser},demons", "--output", out, "--save=warped")
    assert ended.code == 0, ended.err  # type: ignore[attr-defined]
    assert error(matrices_of(out)) < 0.6
    clean = tifffile.imread(out / "denoised.ome.tif").astype(float)
    noisy = tifffile.imread(out / "registered.ome.tif").astype(float)
    inner = (slice(None), slice(24, 40), slice(28, 44))
    assert np.abs(clean - content())[inner].mean() < 0.5 * np.abs(noisy - content())[inner].mean()
    result = package.register_sequence(frames, denoiser, refine=0, consistent=False)
    assert np.allclose(result.matrices, np.eye(3), atol=1e-6)
    assert result.denoised.shape == frames.shape


@pytest.mark.parametrize("reference", ["previous", "mean", "last", "3"])
def test_any_frame_may_be_the_reference(reference: str) -> None:
    result = package.register_sequence(drifting(), "affine", reference=reference)
    own = {"previous": 0, "mean": None, "last": 5, "3": 3}[reference]
    matrices = result.matrices
    if own is None:  # the mean lies near the first frame, but nowhere exactly
        matrices = matrices @ np.linalg.inv(matrices[0])
    else:
        assert np.allclose(matrices[own], np.eye(3), atol=1e-6)
    assert error(matrices, own or 0) < 0.4


def changing(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """One texture that turns into another, while both are shifted by SciPy: frames, and shifts from the first frame."""
    textures = [ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((96, 104)), 3) for seed in (1, 2)]
    shifts = np.stack([0.6 * np.arange(count), -0.4 * np.arange(count)], 1)
    shares = np.linspace(0, 1, count)
    frames = [(1 - share) * textures[0] + share * textures[1] for share in shares]
    shifted = [ndimage.shift(frame, shift, order=3, mode="wrap") for frame, shift in zip(frames, shifts, strict=True)]
    return (1000 + 4000 * np.stack(shifted)).astype(np.float32), shifts


@pytest.mark.parametrize("method", ["rigid", "denoisereg"])
def test_what_changes_altogether_is_followed_from_frame_to_frame(method: str) -> None:
    frames, shifts = changing()
    result = package.register_sequence(frames, method, reference="previous")
    centre = np.array([103, 95, 2]) / 2
    found = np.array([(matrix @ centre - centre)[:2] for matrix in result.matrices])  # (x, y)
    assert np.abs(found - shifts[:, ::-1]).max() < 1
    assert not result.flagged
    assert not any(row.get("note") for row in result.frames)
    assert min(row["ncc"] for row in result.frames) > 0.9, "with the frame before"
    assert min(row["ncc_before"] for row in result.frames[1:]) < min(row["ncc"] for row in result.frames[1:])
    to_first = package.register_sequence(frames, method)
    assert len(frames) - 1 in to_first.flagged
    assert any("followed by the reference previous" in said for said in to_first.flagged.values())


def test_a_deformation_may_end_at_coarser_pixels(tmp_path: Path) -> None:
    frames = drifting()[:2]
    package.register_sequence(frames, "svf", resolution=4, pixel_size=(0.1, 0.1)).save(tmp_path / "out")
    ended = json.loads((tmp_path / "out/metrics.json").read_text())["resolution"]["svf"]
    assert 3 < min(ended) <= max(ended) <= 4.5  # pixels, whatever their size


def test_after_a_network_that_denoises_a_deformation_ends_coarser(denoiser: str, tmp_path: Path) -> None:
    def ended(method: str, **settings: float) -> float:
        package.register_sequence(drifting()[:2], method, **settings).save(tmp_path / "out")
        return float(max(json.loads((tmp_path / "out/metrics.json").read_text())["resolution"]["svf"]))

    assert 4.5 < ended(f"{denoiser},svf") <= 6.5
    assert ended(f"{denoiser},svf", resolution=3) <= 3.5
    assert ended("affine,svf") == 1


def test_one_channel_is_registered_and_all_are_warped(tmp_path: Path) -> None:
    frames = drifting(4)
    both = np.stack([np.zeros_like(frames), frames], 1)
    both[:, 0, 20:40, 20:40] = 500
    result = package.register_sequence(both, "affine", axes="TCYX", channel=1, pixel_size=(0.3, 0.3), seconds=60)
    alone = package.register_sequence(frames, "affine")
    assert np.allclose(result.matrices, alone.matrices)
    assert np.array_equal(result.warped[:, 1], alone.warped)
    square = warp(both[3, 0].astype(float), AffineTransform(result.matrices[3]), order=1, preserve_range=True)
    assert np.abs(result.warped[3, 0] - square).max() <= 0.51
    result.save(tmp_path / "out")
    with tifffile.TiffFile(tmp_path / "out/registered.ome.tif") as file:
        assert (file.series[0].axes, file.series[0].shape) == ("TCYX", both.shape)
        assert 'PhysicalSizeX="0.3"' in (file.ome_metadata or "")
        assert 'TimeIncrement="60' in (file.ome_metadata or "")


def test_volumes_and_an_ome_zarr(warpzoo: Call, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    volume = content((14, 40, 44))
    shifts = np.array([[0, 0, 0], [0.8, -1.5, 2.0], [1.0, -3.0, 3.4]])
    frames = np.stack([ndimage.shift(volume, shift, mode="nearest") for shift in shifts]).astype(np.uint16)
    group = zarr.create_group(tmp_path / "cells.ome.zarr", zarr_format=2)
    group.create_array("0", data=frames, chunks=(1, 14, 40, 44))
    axes = [{"name": "t", "type": "time"}, *({"name": name, "type": "space"} for name in "zyx")]
    levels = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 2, 0.4, 0.4]}]}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]
    out = tmp_path / "out"
    ended = warpzoo("sequence", tmp_path / "cells.ome.zarr", "--method=rigid", "--output", out)
    assert ended.code == 0, ended.err  # type: ignore[attr-defined]
    written = zarr.open_group(out / "registered.ome.zarr")
    assert (written["0"].shape, written["0"].dtype) == (frames.shape, np.uint16)
    assert written.attrs["multiscales"][0]["datasets"] == levels
    row = table_of(out)[1][2]
    assert [float(row[f"shift_{axis}"]) for axis in "zyx"] == pytest.approx(shifts[2], abs=0.25)


def test_a_folder_of_numbered_files(warpzoo: Call, tmp_path: Path) -> None:
    frames, folder = drifting(11), tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(frames):
        tifffile.imwrite(folder / f"cell_{number + 1}.tif", frame)  # 10 and 11 after 9
    ended = warpzoo("sequence", folder, "--method=rigid,affine", "--output", tmp_path / "out", "--noreport")
    assert ended.code == 0, ended.err  # type: ignore[attr-defined]
    assert error(matrices_of(tmp_path / "out")) < 0.4
    (folder / "cell_7.tif").unlink()
    for number in (2, 3):
        (folder / f"cell_{number}.tif").unlink()
    line = ("sequence", folder, "--method=phase_correlation", "--noreport", "--output")
    ended = warpzoo(*line, tmp_path / "gaps")
    gaps = "frames has no files with the numbers 2 to 3, 7: frames count the files that are there."
    assert gaps in ended.out  # type: ignore[attr-defined]
    for output in (folder, folder / "out", tmp_path / "gaps/../frames/out"):
        there = sorted(folder.iterdir())
        ended = warpzoo(*line, output)
        assert re.search("output must not be the folder .*frames, which is read, or lie in it", ended.err)  # type: ignore[attr-defined]
        assert sorted(folder.iterdir()) == there
    tifffile.imwrite(folder / "cell_4.tif", frames[3][:-2])
    ended = warpzoo("sequence", folder, "--method=rigid", "--output", tmp_path / "other")
    assert re.search("cell_4.tif must be like cell_1.tif, .* frames must be of one size", ended.err)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["csv", "xml", "xml without image"])
def test_trackmate_files_come_back_with_other_positions(warpzoo: Call, kind: str, tmp_path: Path) -> None:
    """Positions in microns; of the XML perhaps the size of a pixel; everything else as it was."""
    kind, sized = kind[:3], kind == "xml"
    frames, path = drifting(3), tmp_path / f"tracks.{kind}"
    spots = [(frame, y, x) for frame in range(3) for y, x in true_points(frame)]
    if kind == "csv":
        head = ["LABEL,ID,POSITION_X,POSITION_Y,POSITION_Z,FRAME", "Label,Spot ID,X,Y,Z,Frame", "Label,ID,X,Y,Z,Frame"]
        lines = [f"ID{n},{n},{0.2 * x},{0.2 * y},0,{frame}" for n, (frame, y, x) in enumerate(spots)]
        path.write_text("\n".join([*head, ",,(micron),(micron),(micron),", *lines]) + "\n")
    else:
        one = '<Spot ID="{}" name="ID{}" FRAME="{}" POSITION_X="{}" POSITION_Y="{}" POSITION_Z="0.0"/>'
        text = "".join(one.format(n, n, frame, 0.2 * x, 0.2 * y) for n, (frame, y, x) in enumerate(spots))
        image = '<Settings><ImageData pixelwidth="0.2" pixelheight="0.2" voxeldepth="1.0"/></Settings>' if sized else ""
        model = f'<Model spatialunits="micron"><AllSpots>{text}</AllSpots></Model>'
        path.write_text(f"<TrackMate>{model}{image}</TrackMate>")
    ended = warpzoo(
        *("sequence", save_imagej(tmp_path / "cells.tif", frames), "--method=rigid,affine", "--points", path),
        *("--noreport", "--output", tmp_path / "out"),
    )
    assert ended.code == 0, ended.err  # type: ignore[attr-defined]
    written = (tmp_path / f"out/points.{kind}").read_text()
    if kind == "csv":
        assert written.splitlines()[:4] == path.read_text().splitlines()[:4]
        rows = list(csv.reader(written.splitlines()[4:]))
        moved = np.array([[float(row[3]), float(row[2])] for row in rows])
        assert [row[1] for row in rows] == [str(n) for n in range(12)]
    else:
        found = list(ElementTree.fromstring(written).iter("Spot"))
        moved = np.array([[float(one.attrib["POSITION_Y"]), float(one.attrib["POSITION_X"])] for one in found])
        assert found[5].attrib["name"] == "ID5"
    assert np.linalg.norm(moved / 0.2 - np.tile(POINTS, (3, 1)), axis=1).mean() < 0.3


SPOT = '<TrackMate><AllSpots><Spot ID="7" FRAME="0" POSITION_X="1" POSITION_Y="2"/></AllSpots></TrackMate>'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", SPOT[:60], r"a.xml cannot be read as TrackMate's XML \(.*\); it is damaged, incomplete"),
        ("a.xml", SPOT[:-12], r"a.xml cannot be read as TrackMate's XML \(.*\); it is damaged, incomplete"),
        ("a.xml", SPOT.replace('"2"', '"NaN"'), "a.xml: the spot 7 must have a finite number as POSITION_Y, got NaN"),
        ("a.xml", SPOT.replace("FRAME", "TIME"), "a.xml: the spot 7 must have a finite number as FRAME, got none"),
        (
            "a.csv",
            "frame,id,y,x\n0,1,2,3\n\n0,2,nan,3\n",
            "a.csv, line 4: 0,2,nan,3 must have a frame and finite numbers",
        ),
        (
            "a.csv",
            "frame,id,y,x\n0,1,2,-inf\n",
            "a.csv, line 2: 0,1,2,-inf must have a frame and finite numbers as x, y",
        ),
        ("a.csv", "frame,id,y,x\nnan,1,2,3\n0,1,2,3\n", "a.csv, line 2: nan,1,2,3 must"),
        ("a.csv", "frame,id,y,x\n", "a.csv must hold positions, got no point"),
    ],
)
def test_points_that_cannot_be_read_are_named_by_their_file_and_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FileError, match=message):
        read_tracks(tmp_path / name, 2)


def test_a_stopped_run_goes_on_where_it_was(warpzoo: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While frames are registered to each other; the results are those of a run that was not stopped."""
    path, between, calls = save_imagej(tmp_path / "cells.tif", drifting()), settling._between, []
    monkeypatch.setattr(groups, "GROUP", 1)  # two pairs at once

    def stopping(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return between(*arguments)  # type: ignore[arg-type]

    common = ["sequence", path, "--method=affine", "--noreport", "--output"]
    assert warpzoo(*common, tmp_path / "whole").code == 0  # type: ignore[attr-defined]
    monkeypatch.setattr(settling, "_between", stopping)
    assert warpzoo(*common, tmp_path / "out").code == 130  # type: ignore[attr-defined]
    assert (tmp_path / "out/unfinished").exists()
    assert warpzoo(*common, tmp_path / "out").code == 0  # type: ignore[attr-defined]
    assert len(calls) == 3 + 4 - 2  # of seven pairs four were there already
    assert not (tmp_path / "out/unfinished").exists()
    whole, again = tmp_path / "whole", tmp_path / "out"
    assert (again / "transforms.csv").read_text() == (whole / "transforms.csv").read_text()
    name = "registered.ome.tif"
    assert np.array_equal(tifffile.imread(again / name), tifffile.imread(whole / name))


def test_two_commands_do_not_mix(warpzoo: Call, tmp_path: Path) -> None:
    """The lock is the system's: `flock` of util-linux keeps us out, and what it works on is left alone."""
    path = save_imagej(tmp_path / "cells.tif", drifting()[:2])
    (tmp_path / "out/unfinished").mkdir(parents=True)
    (tmp_path / "out/unfinished/settings.json").write_text("{}")
    command = ["sequence", path, "--method=affine", "--noreport", "--output", tmp_path / "out"]
    holding = ["flock", tmp_path / "out/.in_use", "sh", "-c", "echo held; cat"]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        ended = warpzoo(*command)
        assert ended.code == 1  # type: ignore[attr-defined]
        assert "out is in use by another command" in ended.err  # type: ignore[attr-defined]
        assert (tmp_path / "out/unfinished/settings.json").read_text() == "{}"
        assert other.stdin is not None
        other.stdin.close()
    assert warpzoo(*command).code == 0  # type: ignore[attr-defined]
    assert not (tmp_path / "out/.in_use").exists()


def test_doubtful_input_is_said_and_doubtful_frames_are_flagged(warpzoo: Call, tmp_path: Path) -> None:
    """Frames saved as slices; a blank frame, a saturated one; points outside; a region."""
    frames = drifting(8)
    frames[2], frames[5] = 0, 65535
    write_tracks(tmp_path / "tracks.csv", 8)
    with open(tmp_path / "tracks.csv", "a") as file:
        file.write("1,9,-30,5\n")
    ended = warpzoo(
        *("sequence", save_imagej(tmp_path / "cells.tif", frames, "ZYX"), "--method=rigid,affine"),
        *("--points", tmp_path / "tracks.csv", "--roi=4,4,60,56", "--output", tmp_path / "out", "--noreport"),
    )
    assert ended.code == 0, ended.err  # type: ignore[attr-defined]
    said = json.loads((tmp_path / "out/metrics.json").read_text())
    warnings = "\n".join(said["warnings"])
    assert "calls its axis of 8 slices (Z): they are taken as frames" in warnings
    assert "1 of 33 points outside the images, the first in frame 1" in warnings
    assert [*said["flagged"]] == ["2", "5"]
    assert not {"xx", "y0", "shift_x", "angle", "scale", "saturated"} & {*said}
    rows = table_of(tmp_path / "out")[1]
    assert [row["frame"] for row in rows if row["ok"] == "False"] == ["2", "5"]
    matrices = matrices_of(tmp_path / "out")
    assert error(np.delete(matrices, [2, 5], 0)[:2]) < 0.5
    between = matrices[1] @ sqrtm(np.linalg.inv(matrices[1]) @ matrices[3])  # half-way
    np.testing.assert_allclose(matrices[2], between, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("one.tif", [], "axes YX of 64 × 72: it has one frame"),
        ("two.tif", ["--channel=0"], "axes CYX of .*: it has one frame"),
        (
            "both.tif",
            [],
            "has 2 channels; choose one to register by, such as --channel 0 .* --channels of warpzoo register",
        ),
        (
            "empty",
            [],
            "^warpzoo sequence: empty must hold .* numbered TIFF or PNG files, got no DICOM series and no such",
        ),
        ("cells.tif", ["--output=one.tif/sub"], "output must be a folder, got one.tif/sub, and .*/one.tif is a file"),
        ("cells.tif", ["--outside=-5"], r"outside must be in \[0, 65535\], .* uint16 of the images can have, got -5"),
        ("nowhere.tif", [], "nowhere.tif does not exist; it is given as input"),
        (
            "blank.tif",
            [],
            "^warpzoo sequence: frame 0: .* the same value.* choose mean, or a frame that shows something",
        ),
        ("cells.tif", ["--reference=9"], r"^warpzoo sequence: reference must be .* a frame from 0 to 2, got '9'"),
        (
            "cells.tif",
            ["--reference=end"],
            r"reference must be first, last, previous, mean or the number .*, got 'end'",
        ),
        ("cells.tif", ["--points=late.csv"], "late.csv must have points in the frames 0 to 2, got frame 7"),
        ("cells.tif", ["--points=other.csv"], "other.csv must be a CSV with the columns frame, y, x"),
        ("cells.tif", ["--roi=90,0,5,5"], "roi must lie in the 72 columns and 64 rows of the frames"),
        ("cells.tif", ["--roi=nowhere.tif"], "roi must be x,y,width,height in pixels, or an image file"),
        ("cells.tif", ["--train=3min"], "train must not be given for a method without a network"),
        ("cells.tif", ["--refine=5s"], "refine must be a number of steps"),
    ],
)
def test_what_cannot_be_registered_is_said_in_one_sentence(
    warpzoo: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = drifting(3)
    Path("empty").mkdir()
    save_imagej(Path("cells.tif"), frames)
    save_imagej(Path("blank.tif"), np.stack([np.zeros_like(frames[0]), *frames[1:]]))
    tifffile.imwrite("one.tif", frames[0])
    save_imagej(Path("two.tif"), frames[:2], "CYX")
    save_imagej(Path("both.tif"), np.stack([frames, frames], 1), "TCYX")
    Path("late.csv").write_text("frame,id,y,x\n7,1,2,3\n")
    Path("other.csv").write_text("a,b\n1,2\n")
    output = [] if any(one.startswith("--output") for one in options) else ["--output=out"]
    ended = warpzoo("sequence", name, "--method=rigid", *output, *options)
    assert ended.code == 1  # type: ignore[attr-defined]
    text = ended.err.strip().splitlines()[-1]  # type: ignore[attr-defined]
    assert re.search(message, text), text
    assert not (tmp_path / "out/metrics.json").exists()


def test_a_cell_that_leaves_is_flagged() -> None:
    """Half of it, and then all, is out of the image: what is compared is the background."""
    clean = np.stack([np.roll(np.pad(content(), ((0, 0), (0, 60)), "edge"), 12 * n, 1)[:, :72] for n in range(7)])
    frames = clean + 30 * np.random.default_rng(4).normal(size=clean.shape)
    result = package.register_sequence(frames.astype(np.uint16), "rigid", consistent=False)
    assert {5, 6} <= set(result.flagged)
    assert not {0, 1, 2} & set(result.flagged)


def test_gauss_newton_finds_known_matrices_in_two_and_three_dimensions() -> None:
    """What scipy has resampled by a matrix."""
    for shape in (SHAPE, (16, 40, 44)):
        dims = len(shape)
        linear = np.eye(dims) + 0.06 * np.random.default_rng(2).normal(size=(dims, dims))
        middle = (np.array(shape) - 1) / 2
        truth = np.eye(dims + 1)
        truth[:-1, :-1], truth[:-1, -1] = linear, middle - linear @ middle + 1.5
        back = np.linalg.inv(truth)
        fixed = content(shape)
        moving = ndimage.affine_transform(fixed, back[:-1, :-1], back[:-1, -1], order=3, mode="nearest")
        images = [Levels(torch.from_numpy(one[None])) for one in (fixed, 0.5 * moving + 7)]
        found = align(images[0], images[1], np.eye(dims + 1)).matrix
        places = np.column_stack([np.argwhere(fixed > 800), np.ones((fixed > 800).sum())])
        assert np.linalg.norm(places @ (found - truth)[:-1].T, axis=1).mean() < 0.12


def test_placements_solved_together_outvote_the_wrong_ones() -> None:
    """Of twenty frames two are far off, and so is a pair: all come within the others' errors; the reference stays."""
    rng, count = np.random.default_rng(0), 20
    truth = {frame: matrix_of(frame) for frame in range(count)}

    def near(matrix: np.ndarray, far: float) -> np.ndarray:
        shifted = matrix.copy()
        shifted[:2, 2] += far * rng.normal(size=2)
        return shifted

    frames = {frame: near(one, 0.8) for frame, one in truth.items()} | {0: np.eye(3)}
    frames |= {7: near(truth[7], 40), 13: near(truth[13], 40)}
    pairs = {(i, i + k): near(truth[i + k] @ np.linalg.inv(truth[i]), 0.2) for k in (1, 4) for i in range(count - k)}
    pairs[3, 4] = near(pairs[3, 4], 40)
    points = POINTS
    solved = solved_together(frames, pairs, points, own=0)
    homogeneous = np.column_stack([points, np.ones(len(points))])

    def apart(found: dict[int, np.ndarray]) -> np.ndarray:
        return np.array(
            [np.linalg.norm(homogeneous @ (found[n] - truth[n])[:2].T, axis=1).mean() for n in range(count)]
        )

    assert np.allclose(solved[0], np.eye(3), atol=1e-6)
    assert apart(solved).max() < 1.2
    assert apart(solved).mean() < 0.6 * np.median(apart(frames))


@pytest.mark.parametrize("method", ["rigid", "phase_correlation"])
def test_what_may_not_deform_stays_so(warpzoo: Call, tmp_path: Path, method: str) -> None:
    """Though the frames grow and turn: a rotation is one, and a shift is one."""
    line = ("sequence", save_imagej(tmp_path / "cells.tif", drifting()), f"--method={method}", "--noreport")
    assert warpzoo(*line, "--output", tmp_path / "out").code == 0  # type: ignore[attr-defined]
    linear = matrices_of(tmp_path / "out")[:, :2, :2]
    np.testing.assert_allclose(linear @ linear.transpose(0, 2, 1), np.tile(np.eye(2), (6, 1, 1)), atol=1e-5)
    if method == "phase_correlation":
        np.testing.assert_allclose(linear, np.tile(np.eye(2), (6, 1, 1)), atol=1e-6)


def test_frames_of_noise_alone_are_not_ok(warpzoo: Call, tmp_path: Path) -> None:
    frames = drifting(8)
    frames[4] = np.random.default_rng(3).normal(900, 60, SHAPE)
    line = ("sequence", save_imagej(tmp_path / "cells.tif", frames), "--method=affine", "--noreport")
    assert warpzoo(*line, "--output", tmp_path / "out").code == 0  # type: ignore[attr-defined]
    rows = table_of(tmp_path / "out")[1]
    flagged = json.loads((tmp_path / "out/metrics.json").read_text())["flagged"]
    assert [row["frame"] for row in rows if row["ok"] == "False"] == [*flagged] == ["4"]
    assert [bool(row["note"]) for row in rows] == [row["ok"] == "False" for row in rows]
    assert error(matrices_of(tmp_path / "out")) < 0.6  # it lies between its neighbours


def test_of_denoised_frames_those_are_flagged_that_are_unlike_without_their_noise(denoiser: str) -> None:
    """As they are they correlate by less than 0.3, though each lies where it belongs; one is noise alone."""
    rng = np.random.default_rng(5)
    frames = drifting(8).astype(np.float32) + rng.normal(0, 900, (8, *SHAPE)).astype(np.float32)
    frames[4] = rng.normal(600, 900, SHAPE)
    result = package.register_sequence(frames, denoiser)
    assert max(row["ncc"] for row in result.frames[1:]) < 0.3
    assert min(row["ncc_denoised"] for row in result.frames if row["frame"] != 4) > 0.6
    assert [*result.flagged] == [4]
    assert error(np.delete(result.matrices, 4, 0)[:4]) < 1.5


def test_a_frame_that_its_neighbours_placed_is_flagged_without_what_was_doubtful_before(
    warpzoo: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found for frame 3 alone lies 20 pixels away, and is said to be doubtful; a deformation comes after."""
    begun_at = room.FrameMethod.begun_at

    def astray(self: room.FrameMethod, *arguments: Any) -> room.Found:
        found = begun_at(self, *arguments)
        if arguments[-1] != 3 or self.settled:
            return found
        matrix = found.matrix.copy()
        matrix[0, 2] += 20
        transform = Affine.from_world(torch.from_numpy(matrix[None, :2]), arguments[0].raw.grid)
        return replace(found, load=lambda: transform, matrix=matrix, findings=("A doubt.",))

    monkeypatch.setattr(room.FrameMethod, "begun_at", astray)
    line = ("sequence", save_imagej(tmp_path / "cells.tif", drifting(8)), "--method=affine,demons", "--noreport")
    assert warpzoo(*line, "--output", tmp_path / "out").code == 0  # type: ignore[attr-defined]
    said = json.loads((tmp_path / "out/metrics.json").read_text())
    assert [*said["flagged"]] == ["3"]
    assert re.match(
        r"placed by its neighbours, (19|2\d)\S* pixels from what was found for it alone", said["flagged"]["3"]
    )
    assert not any("A doubt" in one for one in said["warnings"])
    assert error(matrices_of(tmp_path / "out")) < 0.6


@pytest.mark.parametrize("side", [6, 24])
def test_a_frame_that_is_saturated_in_part_is_flagged(side: int) -> None:
    """Even a hundredth of it draws the matrix away, and the frame is hardly less like the first one than others."""
    frames = drifting(4)
    frames[2, 20 : 20 + side, 24 : 24 + side] = 65535
    flagged = package.register_sequence(frames, "affine").flagged
    assert [*flagged] == [2]
    assert re.search(r"0\.\d+ of it is saturated, where 0\.0002\d* is usual", flagged[2])


def test_what_is_saturated_in_all_frames_alike_is_no_reason_to_doubt_one() -> None:
    """A camera with too few bits: the brightest twentieth is cut off."""
    frames = drifting(6)
    assert (
        package.register_sequence(frames.clip(0, np.quantile(frames, 0.95)).astype(np.uint16), "affine").flagged == {}
    )


def test_a_mirrored_frame_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that finds the mirror image makes it like the others, but inside out."""
    frames = content() + 40 * np.random.default_rng(1).normal(size=(6, *SHAPE))
    frames[3] = frames[3, :, ::-1]

    def best_of_two(self: Optimisation, fixed: Image, moving: Image, *_: object) -> Affine:
        flipped = replace(moving, array=moving.array.flip(1))
        pairs = [Levels(one.array) for one in (fixed, flipped, fixed, moving)]
        alike = correlations(pairs[::2], pairs[1::2], np.tile(np.eye(3), (2, 1, 1)))
        mirrored = alike[0] > alike[1]
        voxels = np.array([[-1.0, 0, SHAPE[1] - 1], [0, 1, 0], [0, 0, 1]]) if mirrored else np.eye(3)
        world = moving.grid.affine @ voxels @ np.linalg.inv(fixed.grid.affine)
        return Affine.from_world(torch.from_numpy(world[None, :2]), fixed.grid)

    monkeypatch.setattr(Optimisation, "__call__", best_of_two)
    result = package.register_sequence(frames.astype(np.uint16), "affine", consistent=False)
    assert result.frames[3]["ncc"] > 0.9
    assert result.flagged == {3: "its transform turns it inside out. Look whether it is right."}


def test_frames_are_cleaned_once_as_long_as_they_are_small_and_not_kept_without_end() -> None:
    """Thirty of 256² are, each time they are looked at again; of large ones only the last few."""
    for side, count, expected in ((256, 30, 30), (1024, 12, 24)):
        images = [Image.in_memory(torch.zeros(1, side, side), Grid((side, side)), "frame", pixels=True)] * count
        cleaning, cleaned = room.Cleaning(images, []), list[int]()  # type: ignore[arg-type]
        cleaning.clean = lambda image, cleaned=cleaned: cleaned.append(0) or image  # type: ignore[misc, func-returns-value]
        for _ in range(2):
            for frame in range(count):
                cleaning.frame(frame)
        assert len(cleaned) == expected
        assert len(cleaning.kept) <= 64


def test_axes_without_names_are_not_guessed(warpzoo: Call, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", np.zeros((5, 10, 64, 56), np.uint16), photometric="minisblack")
    tifffile.imwrite(tmp_path / "one.tif", np.zeros((64, 56), np.uint16))
    for options, words in (
        (["plain.tif"], "none of them is time (T)"),
        (["plain.tif", "--time_axis=0"], "beside time, the axis of 10 must have a name, such as Z"),
        (["one.tif"], "it has one frame; a series must have two or more"),
    ):
        ended = warpzoo("sequence", tmp_path / options[0], *options[1:], "--method=affine", "--output", tmp_path / "o")
        assert ended.code == 1  # type: ignore[attr-defined]
        assert words in ended.err  # type: ignore[attr-defined]
        assert len(ended.err.strip().splitlines()) == 1  # type: ignore[attr-defined]


def test_what_is_of_others_stays_and_what_is_read_is_no_result(warpzoo: Call, tmp_path: Path) -> None:
    path, out = save_imagej(tmp_path / "cells.tif", drifting()), tmp_path / "out"
    out.mkdir()
    mine = [out / name for name in ("points.csv", "denoised.tif", "warped.tif", "frames.csv", "transforms/frame_1.txt")]
    for one in mine:
        one.parent.mkdir(exist_ok=True)
        one.write_text("mine")
    options = ["--method=rigid", "--noreport", "--output", out]
    assert warpzoo("sequence", path, *options).code == 0  # type: ignore[attr-defined]
    assert {one.read_text() for one in mine} == {"mine"}
    ended = warpzoo("sequence", out / "registered.ome.tif", *options)
    assert "registered.ome.tif is an input and a result at once; choose another output folder" in ended.err  # type: ignore[attr-defined]
    assert not (out / "unfinished").exists()


@pytest.mark.parametrize("kind", ["list", "dask", "zarr", "tensor"])
def test_frames_come_as_programs_hold_them(kind: str) -> None:
    frames = drifting()
    made = {"list": list, "tensor": lambda values: torch.from_numpy(values.astype(np.float32))}
    if kind in ("dask", "zarr"):
        array = pytest.importorskip(f"{kind}.array" if kind == "dask" else kind)
        made |= {"dask": lambda values: array.from_array(values, chunks=(1, 32, 32)), "zarr": lambda v: array.array(v)}
    whole = package.register_sequence(frames, "rigid", axes="tyx")
    result = package.register_sequence(made[kind](frames), "rigid")
    np.testing.assert_allclose(result.matrices, whole.matrices, atol=1e-4)
    np.testing.assert_allclose(np.asarray(result.warped), whole.warped, atol=1)


def test_regions_and_pixel_sizes_of_arrays(tmp_path: Path) -> None:
    frames = drifting()
    rows, columns = frames.shape[1:]
    mask = np.zeros((rows, columns), bool)
    mask[8:40, 10:50] = True
    options = {"method": "rigid", "refine": 0}
    by_mask = package.register_sequence(frames, roi=mask, pixel_size=0.2, **options)
    by_numbers = package.register_sequence(frames, roi=(10, 8, 40, 32), **options)
    np.testing.assert_array_equal(by_mask.matrices, by_numbers.matrices)
    assert not np.allclose(by_mask.matrices, package.register_sequence(frames, **options).matrices, atol=1e-6)
    by_mask.save(tmp_path, report=False)
    with tifffile.TiffFile(tmp_path / "registered.ome.tif") as file:
        assert 'PhysicalSizeX="0.2"' in file.ome_metadata
        assert 'PhysicalSizeY="0.2"' in file.ome_metadata
    for given, message in (
        ({"roi": mask[1:]}, "roi must have the shape of a frame"),
        ({"points": POINTS}, "points must be the path of a table, got ndarray: the result's `moved` takes arrays"),
        ({"frames": [frames[0], frames[1][1:]]}, "frames must be of one shape"),
        ({"frames": frames.astype(complex)}, "array of real numbers, got ndarray of complex128"),
    ):
        with pytest.raises(ValueError, match=message):
            package.register_sequence(**{"frames": frames, **options, **given})


def test_points_parted_by_semicolons_stay_so(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("frame;id;y;x\n0;1;2.5;3\n1;1;4;5\n")
    tracks = read_tracks(tmp_path / "points.csv", 2)
    np.testing.assert_array_equal(tracks.positions, [[3, 2.5], [5, 4]])
    tracks.write(tmp_path / "moved.csv", tracks.positions + 1)
    assert (tmp_path / "moved.csv").read_text() == "frame;id;y;x\n0;1;3.5;4\n1;1;5;6\n"
