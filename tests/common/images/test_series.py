"""Images with time: frames of every format, a file written frame by frame, and what cannot be read as a series."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch

from warpzoo.files import FileError
from warpzoo.images import read_image, source
from warpzoo.images.formats import nifti, tiff
from warpzoo.images.series import channel_number, create_series, has_time, open_series, open_timed

SERIES = np.random.default_rng(0).integers(0, 3000, (4, 3, 7, 9)).astype(np.uint16)  # T, Z, Y, X


def saved(path: Path, values: np.ndarray = SERIES, axes: str = "TZYX") -> Path:
    """The series, half a second from frame to frame where the format can say so."""
    kind = path.name
    if kind.endswith(".tif"):
        packed = {"compression": "zlib"} if "packed" in kind else {}
        if ".ome" in kind:
            step = {"TimeIncrement": 500.0, "TimeIncrementUnit": "ms", "PhysicalSizeX": 0.2}
            tifffile.imwrite(path, values, metadata={"axes": axes, **step}, **packed)
        else:
            tifffile.imwrite(path, values, imagej=True, metadata={"axes": axes, "finterval": 0.5}, **packed)
    elif kind.endswith(".zarr"):
        zarr = pytest.importorskip("zarr")
        group = zarr.create_group(path, zarr_format=2)
        group.create_array("0", data=values, chunks=(1, *values.shape[1:]))
        named = [{"name": axis.lower(), "type": "space"} for axis in axes]
        named[0] = {"name": "t", "type": "time", "unit": "second"}
        scale = [{"type": "scale", "scale": [0.5, *[1.0] * (values.ndim - 1)]}]
        levels = [{"path": "0", "coordinateTransformations": scale}]
        group.attrs.update({"multiscales": [{"axes": named, "datasets": levels}]})
    elif ".nii" in kind:
        image = nibabel.Nifti1Image(values.T.astype(np.int16), np.diag([-1.5, 1.2, 3, 1]))
        image.header["pixdim"][4] = 500
        image.header.set_xyzt_units("mm", "msec")
        if "scaled" in kind:
            image.header.set_slope_inter(0.25, -3)
        nibabel.save(image, path)
    else:
        volumes = [sitk.GetImageFromArray(volume.astype(np.float32)) for volume in values]
        sitk.WriteImage(sitk.JoinSeries(volumes, 0, 0.5), str(path))
    return path


FORMATS = ["a.tif", "packed.tif", "a.ome.tif", "packed.ome.tif", "a.zarr", "a.nii", "a.nii.gz", "a.mha", "a.nrrd"]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_those_of_the_file(
    name: str, on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (source, nifti, tiff):
        monkeypatch.setattr(module, "IN_MEMORY", 0 if on_disk else 2**26)
    path = saved(tmp_path / name)
    assert has_time(path)
    series = open_series(path)
    assert len(series) == 4
    assert series.seconds == (None if name.endswith((".mha", ".nrrd")) else 0.5)
    for frame in (2, 0):
        assert np.array_equal(series[frame].array[0], SERIES[frame].T)
        like = read_image(path, time=frame)
        assert series[frame].grid == like.grid
        assert series[frame].header.pixels == like.header.pixels == name.endswith((".tif", ".zarr"))
    with pytest.raises(IndexError, match=r"frame must be in \[0, 3\], got 4"):
        series[4]


@pytest.mark.parametrize("name", ["scaled.nii", "scaled.nii.gz"])
def test_scaled_values_are_nibabels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    image = nibabel.Nifti1Image(SERIES.T.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.37, -3)
    nibabel.save(image, path)
    content = nibabel.load(path).get_fdata(dtype=np.float32)
    series = open_series(path)
    assert series.header.dtype == np.float32
    np.testing.assert_allclose(series[3].array[0], content[..., 3], rtol=1e-6)
    np.testing.assert_allclose(read_image(path, time=3).array[0], content[..., 3], rtol=1e-6)


@pytest.mark.parametrize("name", ["a.tif", "packed.ome.tif", "a.zarr", "a.nii", "a.nii.gz"])
def test_a_series_is_written_with_all_that_the_input_has(name: str, tmp_path: Path) -> None:
    series = open_series(saved(tmp_path / name))
    like = series[0]
    path = tmp_path / series.name("out", like)
    assert path.name == {"packed.ome.tif": "out.ome.tif", "a.nii": "out.nii.gz"}.get(name, name.replace("a.", "out."))
    with create_series(path, series, like) as file:
        for frame in (1, 3, 0, 2):
            file.put(frame, series[frame].on(like, series[frame].array + 1.4))
    again = open_series(path)
    assert (again.seconds, again.header.dtype, len(again)) == (0.5, series.header.dtype, 4)
    assert all(np.array_equal(again[frame].array[0], SERIES[frame].T + 1) for frame in range(4))
    if name.endswith(".tif"):
        with tifffile.TiffFile(path) as out:
            assert out.series[0].axes == "TZYX"
            assert out.is_imagej == (name == "a.tif")
            assert 'PhysicalSizeX="0.2"' in (out.ome_metadata or 'PhysicalSizeX="0.2"')
    if name.startswith("a.nii"):
        out, first = nibabel.load(path), nibabel.load(tmp_path / name)
        assert out.header.get_zooms() == first.header.get_zooms()
        assert out.header.get_xyzt_units() == ("mm", "msec")


def test_on_another_grid_it_is_a_nifti_with_time_as_itk_reads_it(tmp_path: Path) -> None:
    series = open_series(saved(tmp_path / "a.ome.tif"))
    lattice = np.array([[0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 2.5, 1], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 4), np.float32), lattice), tmp_path / "fixed.nii")
    fixed = read_image(tmp_path / "fixed.nii")
    path = tmp_path / series.name("out", fixed)
    assert path.name == "out.nii.gz"
    frames = torch.arange(4 * 120.0).reshape(4, 1, 5, 6, 4)
    with create_series(path, series, fixed) as file:
        for frame, values in enumerate(frames):
            file.put(frame, series[0].on(fixed, values))
    out, like = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "fixed.nii"))
    assert out.GetPixelIDTypeAsString() == "16-bit unsigned integer"
    assert np.array_equal(sitk.GetArrayFromImage(out), frames[:, 0].numpy().transpose(0, 3, 2, 1))
    np.testing.assert_allclose(out.GetSpacing(), [*like.GetSpacing(), 0.5])
    volume = out[:, :, :, 2]
    np.testing.assert_allclose(volume.GetOrigin(), like.GetOrigin())
    np.testing.assert_allclose(volume.GetDirection(), like.GetDirection(), atol=1e-6)


def test_channels_stay_together(tmp_path: Path) -> None:
    values = np.stack([SERIES[:, 0], SERIES[:, 1]], 1)
    tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata={"axes": "TCYX"})
    with pytest.raises(FileError, match=r"a.ome.tif has 2 channels; choose one to register by"):
        open_series(tmp_path / "a.ome.tif")
    series = open_series(tmp_path / "a.ome.tif", channels=True)
    assert np.array_equal(series[2].array, values[2].swapaxes(1, 2))
    with create_series(tmp_path / "out.ome.tif", series, series[0]) as file:
        for frame in range(4):
            file.put(frame, series[frame])
    assert np.array_equal(tifffile.imread(tmp_path / "out.ome.tif"), values)


def test_time_that_is_called_something_else(tmp_path: Path) -> None:
    """A cine as a volume of NIfTI, and pages of a TIFF that says nothing."""
    frames = SERIES[:, 0]
    nibabel.save(nibabel.Nifti1Image(frames.T.astype(np.int16), np.diag([1.5, 1.2, 8, 1])), tmp_path / "cine.nii")
    tifffile.imwrite(tmp_path / "pages.tif", frames, photometric="minisblack")
    for name in ("cine.nii", "pages.tif"):
        assert not has_time(tmp_path / name)
        with pytest.raises(FileError, match=rf"{name} has the axes .*none of them is time \(T\)"):
            open_series(tmp_path / name)
        series = open_series(tmp_path / name, time_axis=0)
        assert (len(series), series.grid.shape) == (4, (9, 7))
        assert np.array_equal(series[3].array[0], frames[3].T)
        with create_series(tmp_path / f"out {name}", series, series[0]) as file:
            for frame in range(4):
                file.put(frame, series[frame])
        assert open_series(tmp_path / f"out {name}", time_axis=0).header.shape == series.header.shape
    assert series.grid.spacing == (1, 1)
    assert open_series(tmp_path / "cine.nii", time_axis=0).grid.spacing == pytest.approx((1.5, 1.2))


@pytest.mark.parametrize(
    ("shape", "axes", "time_axis", "message"),
    [
        ((4, 7, 9), "TYX", 3, r"time_axis must be in \[0, 2\], got 3"),
        ((4, 7, 9), "TYX", 1, r"time_axis must not be rows \(Y\) or columns \(X\), got 1"),
        ((3, 7, 9), "ZYX", None, "a.ome.tif has the axes ZYX of 3 × 7 × 9, and none of them is time"),
        ((4, 2, 3, 7, 9), "TCZYX", 1, "is a series or has several channels"),
    ],
)
def test_what_is_no_series_is_said(
    shape: tuple[int, ...], axes: str, time_axis: int | None, message: str, tmp_path: Path
) -> None:
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.zeros(shape, np.uint8), metadata={"axes": axes}, photometric="minisblack"
    )
    with pytest.raises(FileError, match=message) as caught:
        open_series(tmp_path / "a.ome.tif", time_axis=time_axis)
    assert "a.ome.tif" in str(caught.value)


@pytest.mark.parametrize("name", ["a.nii.gz", "packed.tif"])
def test_a_compressed_file_that_ends_early_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (nifti, tiff):
        monkeypatch.setattr(module, "IN_MEMORY", 0)
    path = saved(tmp_path / name)
    series = open_series(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(0.7 * len(content))])
    with pytest.raises(FileError, match=name):
        series[3]


def test_one_frame_is_no_series(tmp_path: Path) -> None:
    with pytest.raises(
        FileError, match=r"a.zarr has the axes TZYX .*: it has one frame; a series must have two or more"
    ):
        open_series(saved(tmp_path / "a.zarr", SERIES[:1]))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.tif", "packed.tif"])
def test_memory_does_not_grow_with_the_frames(name: str, tmp_path: Path) -> None:
    """Peak memory of reading and writing 600 frames of 128² is that of 60."""
    code = r"""
        import re, sys
        from pathlib import Path
        from warpzoo.images import source
        source.IN_MEMORY = 2**19
        from warpzoo.images.series import create_series, open_series
        series = open_series(sys.argv[1])
        with create_series(Path(sys.argv[2]), series, series[0]) as file:
            for frame in range(len(series)):
                file.put(frame, series[frame])
        print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) // 1024)
    """
    peaks = []
    for count in (60, 600):
        frames = np.random.default_rng(0).integers(0, 200, (count, 128, 128)).astype(np.uint16)
        values = frames if name.endswith(".tif") else frames[:, None]
        path = saved(tmp_path / f"{count}{name}", values, "TYX" if name.endswith(".tif") else "TZYX")
        out = tmp_path / f"out{count}{name}"
        done = subprocess.run(
            [sys.executable, "-c", dedent(code), str(path), str(out)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 8  # MB, of 18 that the frames have


@pytest.mark.parametrize("name", ["img_t{t}_z{z}_c{c}.tif", "c{c}t{t}z{z}.TIF", "Img Time{t:02} Ch{c} Slice{z}.tif"])
def test_files_may_be_slices_and_channels_of_frames(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3000, (4, 3, 2, 7, 9)).astype(np.uint16)  # T, Z, C, Y, X
    for time, slice_, channel in np.ndindex(4, 3, 2):
        path = tmp_path / name.format(t=time + 8, z=slice_, c=channel)
        tifffile.imwrite(path, values[time, slice_, channel])
    series = open_series(tmp_path, channels=True)
    assert len(series) == 4
    for time in (0, 3):
        np.testing.assert_array_equal(series[time].array.numpy(), values[time].transpose(1, 3, 2, 0))
    np.testing.assert_array_equal(open_series(tmp_path, channel=1)[2].array[0].numpy(), values[2, :, 1].T)
    path.unlink()
    with pytest.raises(
        FileError, match="must have a file for each of 4 time points and 3 slices and 2 channels, got 23"
    ):
        open_series(tmp_path, channels=True)


def test_two_numbers_may_both_be_of_the_time(tmp_path: Path) -> None:
    for hour, minute in ((9, 50), (9, 55), (10, 0), (10, 5)):
        tifffile.imwrite(tmp_path / f"2024-01-03_{hour}-{minute}.tif", np.full((8, 9), 60 * hour + minute, np.uint16))
    assert [float(frame.array.max()) for frame in open_series(tmp_path)] == [590, 595, 600, 605]


@pytest.mark.parametrize("other", ["MAX_projection.tif", "b0.tif", "a.tif"])
def test_a_file_that_is_named_unlike_the_frames_is_none(other: str, tmp_path: Path) -> None:
    for number in range(4):
        tifffile.imwrite(tmp_path / f"{'aA'[number % 2]}{number}.tif", np.full((8, 9), number, np.uint16))
    assert [float(frame.array.max()) for frame in open_series(tmp_path)] == [0, 1, 2, 3]
    tifffile.imwrite(tmp_path / other, np.zeros((8, 9), np.uint16))
    with pytest.raises(FileError, match=f"{other} is named unlike the others in its folder, such as [aA]0.tif"):
        open_series(tmp_path)


@pytest.mark.parametrize(("dtype", "written"), [(np.float16, np.float32), (bool, np.uint8), (np.int64, np.float64)])
def test_types_that_ome_has_not_become_wider(dtype: type, written: type, tmp_path: Path) -> None:
    values = (np.arange(5 * 8 * 9).reshape(5, 8, 9) % 2).astype(dtype)
    tifffile.imwrite(tmp_path / "in.tif", values, metadata={"axes": "TYX"})
    series = open_series(tmp_path / "in.tif")
    with create_series(tmp_path / "out.ome.tif", series, series[0]) as out:
        for number, frame in enumerate(series):
            out.put(number, frame)
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as file:
        assert (file.series[0].axes, file.series[0].dtype) == ("TYX", written)
        np.testing.assert_array_equal(file.asarray(), values)


def test_channels_have_names_in_an_ome_tiff(tmp_path: Path) -> None:
    values = np.stack([SERIES[:, 0], SERIES[:, 1]], 1)
    named = {"axes": "TCYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(tmp_path / "cells.ome.tif", values, metadata=named, photometric="minisblack")
    source = open_timed(tmp_path / "cells.ome.tif", channels=True)
    assert [channel_number(source, one) for one in ("DAPI", "GFP", 1, None)] == [0, 1, 1, None]
    with pytest.raises(FileError, match=r"channel must be one of DAPI, GFP, or a number, got 'GPF' \(did you mean GFP"):
        channel_number(source, "GPF")
    with pytest.raises(FileError, match=r"has 2 channels \(DAPI, GFP\); choose one"):
        open_series(tmp_path / "cells.ome.tif")
    tifffile.imwrite(tmp_path / "plain.tif", values, metadata={"axes": "TCYX"}, photometric="minisblack")
    with pytest.raises(FileError, match="channel must be a number, as the file names no channels, got 'DAPI'"):
        channel_number(open_timed(tmp_path / "plain.tif", channels=True), "DAPI")


def test_exchanged_axes_of_time_and_slices_are_put_right(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", SERIES, metadata={"axes": "ZTYX"})
    series = open_series(tmp_path / "a.ome.tif", time_axis=0)
    assert (len(series), series.grid.shape) == (4, (9, 7, 3))
    np.testing.assert_array_equal(series[2].array[0].numpy(), SERIES[2].T)
    with create_series(tmp_path / "out.tif", series, series[0]) as out:
        for number, frame in enumerate(series):
            out.put(number, frame)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), SERIES)


def test_images_in_a_group_as_bioformats_writes_them(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    zarr.create_group(tmp_path / "all.zarr", zarr_format=2, attributes={"bioformats2raw.layout": 3})
    for number in range(2):
        saved(tmp_path / "all.zarr" / f"{number}.zarr", SERIES + number)
        (tmp_path / "all.zarr" / f"{number}.zarr").rename(tmp_path / "all.zarr" / str(number))
    assert open_timed(tmp_path / "all.zarr").images == 2
    series = open_series(tmp_path / "all.zarr")
    np.testing.assert_array_equal(series[3].array[0].numpy(), SERIES[3].T)
    with create_series(tmp_path / "out.ome.zarr", series, series[0]) as out:
        for number, frame in enumerate(series):
            out.put(number, frame)
    assert len(open_series(tmp_path / "out.ome.zarr")) == 4
