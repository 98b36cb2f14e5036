from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image as Picture
from skimage.transform import downscale_local_mean

from warpzoo.denoising.patches import open_stacks
from warpzoo.images.stacks import check_output, create_like, open_stack

RANDOM = np.random.default_rng(0)


def denoise_by_adding_one(path, output, dims=2, dtype=None, channel=None, time_axis=None):
    stack = open_stack(path, dims, channel, time_axis)
    with create_like(stack, output, dtype) as written:
        for frame in range(stack.shape[0]):
            window = tuple(slice(0, size) for size in stack.shape[1:])
            written.put(frame, window, stack.read(frame, window) + 1)
    return stack


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(
    ("shape", "axes", "dims"), [((20, 31), "YX", 2), ((3, 20, 31), "TYX", 2), ((4, 20, 31), "ZYX", 3)]
)
def test_tiff_comes_back_as_it_was(tmp_path, dtype, shape, axes, dims):
    values = RANDOM.integers(0, 200, shape).astype(dtype)
    tifffile.imwrite(
        tmp_path / "in.tif",
        values,
        photometric="minisblack",
        metadata={"axes": axes},
        resolution=(3.5, 7),
        resolutionunit="CENTIMETER",
    )
    denoise_by_adding_one(tmp_path / "in.tif", tmp_path / "out.tif", dims)
    with tifffile.TiffFile(tmp_path / "out.tif") as out:
        assert out.series[0].axes == axes
        assert out.series[0].dtype == values.dtype
        np.testing.assert_array_equal(out.asarray(), values + 1)
        assert out.pages[0].get_resolution("CENTIMETER") == pytest.approx((3.5, 7), rel=1e-4)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_ome_tiff_keeps_its_metadata(tmp_path, dtype):
    values = RANDOM.integers(0, 200, (2, 5, 20, 31)).astype(np.uint16)
    metadata = {
        "axes": "TZYX",
        "PhysicalSizeX": 0.11,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeZ": 0.5,
        "TimeIncrement": 2.5,
        "Channel": {"Name": ["GFP"]},
    }
    tifffile.imwrite(tmp_path / "in.ome.tif", values, metadata=metadata)
    denoise_by_adding_one(tmp_path / "in.ome.tif", tmp_path / "out.ome.tif", 3, dtype)
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as out:
        assert out.is_ome
        assert out.series[0].axes == "TZYX"
        assert out.series[0].dtype == np.dtype(dtype or np.uint16)
        np.testing.assert_array_equal(out.asarray(), values + 1)
        for text in ('PhysicalSizeX="0.11"', 'PhysicalSizeZ="0.5"', 'TimeIncrement="2.5"', 'Name="GFP"', "µm"):
            assert text in out.ome_metadata
        assert ('Type="float"' if dtype else 'Type="uint16"') in out.ome_metadata


def test_imagej_tiff_keeps_its_metadata(tmp_path):
    values = RANDOM.integers(0, 200, (4, 20, 31)).astype(np.uint16)
    metadata = {"axes": "TYX", "unit": "um", "finterval": 3.0, "min": 5.0}
    tifffile.imwrite(tmp_path / "in.tif", values, imagej=True, resolution=(9, 9), metadata=metadata)
    denoise_by_adding_one(tmp_path / "in.tif", tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as out:
        assert out.is_imagej
        assert out.series[0].axes == "TYX"
        assert out.imagej_metadata["finterval"] == 3
        assert out.imagej_metadata["unit"] == "um"
        np.testing.assert_array_equal(out.asarray(), values + 1)


def test_compressed_and_foreign_tiffs(tmp_path):
    values = RANDOM.integers(0, 200, (40, 30)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "packed.tif", values, compression="zlib")
    denoise_by_adding_one(tmp_path / "packed.tif", tmp_path / "out.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), values + 1)
    Picture.fromarray(values).save(tmp_path / "foreign.tif")
    denoise_by_adding_one(tmp_path / "foreign.tif", tmp_path / "out.tif")
    np.testing.assert_array_equal(np.asarray(Picture.open(tmp_path / "out.tif")), values + 1)
    tifffile.imwrite(tmp_path / "big_endian.tif", values.astype(">u2"), byteorder=">")
    denoise_by_adding_one(tmp_path / "big_endian.tif", tmp_path / "out.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), values + 1)


@pytest.mark.parametrize(
    ("shape", "axes", "options"),
    [
        ((3, 20, 31), "CYX", {"metadata": {"axes": "CYX"}}),
        ((4, 3, 20, 31), "ZCYX", {"imagej": True}),
        ((20, 31, 3), "YXS", {"photometric": "rgb"}),
    ],
)
def test_one_channel_is_denoised_and_the_others_are_copied(tmp_path, monkeypatch, shape, axes, options):
    monkeypatch.setattr("warpzoo.images.stacks.COPIED_ROWS", 7)
    values = RANDOM.integers(0, 200, shape).astype(np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", values, **{"photometric": "minisblack", **options})
    denoise_by_adding_one(tmp_path / "in.tif", tmp_path / "out.tif", 3 if "Z" in axes else 2, channel=1)
    with tifffile.TiffFile(tmp_path / "out.tif") as out:
        assert out.series[0].axes == axes
        expected = np.moveaxis(values.copy(), axes.replace("S", "C").index("C"), 0)
        expected[1] += 1
        np.testing.assert_array_equal(np.moveaxis(out.asarray(), axes.replace("S", "C").index("C"), 0), expected)


def test_any_axis_can_be_said_to_be_time(tmp_path):
    values = RANDOM.integers(0, 200, (3, 5, 20, 31)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="minisblack", metadata={"axes": "QIYX"})
    for time_axis, shape in ((0, (3, 5, 20, 31)), (1, (5, 3, 20, 31))):
        stack = denoise_by_adding_one(tmp_path / "in.tif", tmp_path / "out.tif", 3, time_axis=time_axis)
        assert stack.shape == shape
        first = stack.read(1, tuple(slice(0, size) for size in shape[1:]))
        np.testing.assert_array_equal(first, values.take(1, time_axis))
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), values + 1)
    with pytest.raises(ValueError, match=r"time_axis must be in \[0, 3\], got 7"):
        open_stack(tmp_path / "in.tif", 3, time_axis=7)


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_comes_back_as_it_was(tmp_path, version):
    zarr = pytest.importorskip("zarr")
    names = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
    multiscales = [
        {
            "axes": [{"name": name, "type": kind} for name, kind in names.items()],
            "datasets": [
                {"path": path, "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 0.5, side, side]}]}
                for path, side in (("0", 0.1), ("1", 0.2))
            ],
        }
    ]
    group = zarr.create_group(tmp_path / "in.zarr", zarr_format=version)
    group.attrs.update({"multiscales": multiscales} if version == 2 else {"ome": {"multiscales": multiscales}})
    array = group.create_array("0", shape=(2, 2, 3, 20, 31), chunks=(1, 1, 2, 16, 16), dtype="uint16")
    array[:] = RANDOM.integers(0, 200, array.shape)
    for dims in (2, 3):
        name = tmp_path / f"out{dims}.zarr"
        denoise_by_adding_one(tmp_path / "in.zarr", name, dims, channel=1)
        out = zarr.open_group(name, mode="r")
        expected = array[:]
        expected[:, 1] += 1
        np.testing.assert_array_equal(out["0"][:], expected)
        assert (out["0"].dtype, out["0"].chunks) == (array.dtype, array.chunks)
        described = out.attrs.get("ome", out.attrs)["multiscales"][0]
        assert described == {**multiscales[0], "datasets": multiscales[0]["datasets"][:1]}
    with pytest.raises(ValueError, match="is there already"):
        denoise_by_adding_one(tmp_path / "in.zarr", tmp_path / "out2.zarr", 2, channel=1)


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_has_the_levels_of_the_image_read(tmp_path, version):
    zarr = pytest.importorskip("zarr")
    sides = {"0": (2, 5, 40, 33), "1": (2, 5, 20, 17), "2": (2, 3, 10, 8), "3": (2, 3, 7, 7), "4": (2, 1, 3, 3)}
    scales = {
        path: [{"type": "scale", "scale": [1.0, 5 / side[1], *[40 / side[2]] * 2]}] for path, side in sides.items()
    }
    levels = [{"path": path, "coordinateTransformations": scale} for path, scale in scales.items()]
    described = [{"axes": [{"name": name} for name in "tzyx"], "datasets": levels, "name": "cells"}]
    described[0]["axes"][0]["type"] = "time"
    group = zarr.create_group(tmp_path / "in.zarr", zarr_format=version)
    group.attrs.update({"multiscales": described} if version == 2 else {"ome": {"multiscales": described}})
    shards = (1, 4, 32, 32) if version == 3 else None
    for path, shape in sides.items():
        group.create_array(path, shape=shape, chunks=(1, 2, 16, 16), shards=shards, dtype="uint16")
    group["0"][:] = RANDOM.integers(0, 60000, sides["0"])
    denoise_by_adding_one(tmp_path / "in.zarr", tmp_path / "out.zarr")
    out = zarr.open_group(tmp_path / "out.zarr", mode="r")
    expected = group["0"][:].astype(float) + 1
    np.testing.assert_array_equal(out["0"][:], expected)
    for path, steps, missing in (("1", (1, 1, 2, 2), (0, 0, 0, 1)), ("2", (1, 2, 2, 2), (0, 1, 0, 0))):
        padded = np.pad(expected, [(0, more) for more in missing], mode="edge")
        expected = np.rint(downscale_local_mean(padded, steps))[tuple(map(slice, sides[path]))]
        np.testing.assert_array_equal(out[path][:], expected)
        assert (out[path].chunks, out[path].shards, out[path].dtype) == (group[path].chunks, shards, np.uint16)
    assert set(out.array_keys()) == {"0", "1", "2"}  # the next one is no whole number of times coarser
    levels.insert(1, levels[0])
    group.attrs.update({"multiscales": described} if version == 2 else {"ome": {"multiscales": described}})
    denoise_by_adding_one(tmp_path / "in.zarr", tmp_path / "twice.zarr")
    assert set(zarr.open_group(tmp_path / "twice.zarr", mode="r").array_keys()) == {"0"}
    del levels[1]
    found = out.attrs.get("ome", out.attrs)["multiscales"][0]
    assert found == {**described[0], "datasets": levels[:3]}


@pytest.mark.parametrize("dims", [2, 3])
def test_nifti_keeps_its_header(tmp_path, dims):
    values = RANDOM.integers(0, 200, (11, 20, 7)).astype(np.int16)
    affine = np.diag([0.5, 0.6, 2.0, 1.0])
    affine[:3, 3] = 5, -3, 8
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "in.nii.gz")
    stack = denoise_by_adding_one(tmp_path / "in.nii.gz", tmp_path / "out.nii.gz", dims)
    assert stack.shape == ((1, 7, 20, 11) if dims == 3 else (7, 20, 11))
    out = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(out.dataobj, values + 1)
    np.testing.assert_allclose(out.affine, affine)
    assert out.get_data_dtype() == np.int16


def test_nifti_with_time_keeps_its_axes_and_its_time_step(tmp_path):
    values = RANDOM.integers(0, 200, (11, 20, 7, 3)).astype(np.int16)
    image = nib.Nifti1Image(values, np.diag([0.5, 0.6, 2.0, 1.0]))
    image.header["pixdim"][4] = 40
    image.header.set_xyzt_units("mm", "msec")
    nib.save(image, tmp_path / "in.nii.gz")
    for dims, name in ((3, "out.nii.gz"), (2, "out.nii")):
        stack = denoise_by_adding_one(tmp_path / "in.nii.gz", tmp_path / name, dims)
        assert stack.shape == ((3, 7, 20, 11) if dims == 3 else (21, 20, 11))
        out = nib.load(tmp_path / name)
        np.testing.assert_array_equal(out.dataobj, values + 1)
        assert out.header.get_zooms() == image.header.get_zooms()
        assert out.header.get_xyzt_units() == ("mm", "msec")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png(tmp_path, dtype):
    values = RANDOM.integers(0, 200, (20, 31)).astype(dtype)
    Picture.fromarray(values).save(tmp_path / "in.png")
    denoise_by_adding_one(tmp_path / "in.png", tmp_path / "out.png")
    out = np.asarray(Picture.open(tmp_path / "out.png"))
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, values + 1)


def test_values_are_rounded_and_clipped(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", np.array([[0, 1], [100, 255]], np.uint8))
    stack = open_stack(tmp_path / "in.tif")
    with create_like(stack, tmp_path / "out.tif") as written:
        written.put(0, (slice(0, 2), slice(0, 2)), np.array([[-3, 0.6], [99.4, 300]], np.float32))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), [[0, 1], [99, 255]])


def test_what_lies_outside_is_the_mirror_image(tmp_path):
    values = RANDOM.integers(0, 200, (2, 5, 6)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", values, metadata={"axes": "TYX"})
    window = (slice(-3, 13), slice(2, 9))
    expected = np.pad(values[1].astype(np.float32), ((3, 8), (0, 3)), mode="symmetric")[:, 2:]
    np.testing.assert_array_equal(open_stack(tmp_path / "in.tif").read(1, window), expected)


def test_nothing_half_written_stays(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((4, 4), np.uint8))
    stack = open_stack(tmp_path / "in.tif")
    with pytest.raises(KeyboardInterrupt), create_like(stack, tmp_path / "out.tif"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_messages(tmp_path):
    tifffile.imwrite(tmp_path / "colour.tif", np.zeros((4, 4, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "channels.ome.tif", np.zeros((2, 4, 4), np.uint8), photometric="minisblack", metadata={"axes": "CYX"}
    )
    tifffile.imwrite(tmp_path / "time.tif", np.zeros((2, 4, 4), np.uint8), metadata={"axes": "TYX"})
    for name, dims, message in (
        ("colour.tif", 2, "colour"),
        ("channels.ome.tif", 2, "2 channels"),
        ("time.tif", 3, "choose 2-D"),
        ("none.tif", 2, "does not exist"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            open_stack(tmp_path / name, dims)
        assert name in str(error.value)
    with (
        pytest.raises(ValueError, match=r"out\.png is no TIFF"),
        create_like(open_stack(tmp_path / "time.tif"), tmp_path / "out.png"),
    ):
        pass


def test_folders_and_lists(tmp_path):
    for name in ("b", "a"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((4, 4), np.uint8))
    (tmp_path / "notes.json").write_text(json.dumps({}), encoding="utf-8")
    assert [stack.path.stem for stack in open_stacks(tmp_path)] == ["a", "b"]
    assert [stack.path.stem for stack in open_stacks([tmp_path / "b.tif"])] == ["b"]


@pytest.mark.parametrize(
    ("values", "options", "kept"),
    [
        (np.zeros((20, 31), np.uint8), {"photometric": "miniswhite"}, {"photometric": 0}),
        (np.zeros((20, 31, 2), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, {"photometric": 1}),
    ],
)
def test_kinds_of_pixels_are_kept(tmp_path, values, options, kept):
    tifffile.imwrite(tmp_path / "in.tif", values, **options)
    denoise_by_adding_one(tmp_path / "in.tif", tmp_path / "out.tif", channel=0)
    with tifffile.TiffFile(tmp_path / "out.tif") as out:
        assert out.pages[0].photometric == kept["photometric"]
        assert out.asarray().shape == values.shape
        assert (out.asarray()[:, :, 0] if values.ndim == 3 else out.asarray()).min() == 1


def test_the_first_of_several_ome_images(tmp_path):
    with tifffile.TiffWriter(tmp_path / "in.ome.tif", ome=True) as file:
        for level, shape in ((3, (20, 31)), (7, (2, 20, 31))):
            values = np.full(shape, level, np.uint8)
            file.write(values, photometric="minisblack", metadata={"Name": f"image {level}"})
    denoise_by_adding_one(tmp_path / "in.ome.tif", tmp_path / "out.ome.tif")
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as out:
        assert len(out.series) == 1
        assert (out.asarray() == 4).all()
        assert "image 3" in out.ome_metadata


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not tell how many files are open")
def test_many_compressed_files_are_not_all_kept_open(tmp_path):
    for index in range(40):
        tifffile.imwrite(tmp_path / f"{index}.tif", np.full((8, 8), index, np.uint8), compression="zlib")
    before = len(os.listdir("/proc/self/fd"))
    stacks = open_stacks(tmp_path)
    assert {int(stack.read(0, (slice(0, 8), slice(0, 8))).mean()) for stack in stacks} == set(range(40))
    assert len(os.listdir("/proc/self/fd")) - before < 25


@pytest.mark.parametrize(
    ("output", "dtype", "message"),
    [
        ("out.png", None, "out.png is no TIFF"),
        ("out.tif", "banana", "dtype must be .* got 'banana'"),
        ("out.tif", "bool", "dtype must be .* got 'bool'"),
        ("folder", None, "folder is a folder"),
        ("in.tif/out.tif", None, "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_computed(tmp_path, output, dtype, message):
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((8, 8), np.uint8))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=message):
        check_output(open_stack(tmp_path / "in.tif"), tmp_path / output, dtype)
    check_output(open_stack(tmp_path / "in.tif"), tmp_path / "new" / "out.tif")
    assert not list(tmp_path.rglob("*out*"))


def test_axes_of_an_ome_zarr_without_types(tmp_path):
    import zarr

    group = zarr.create_group(tmp_path / "in.ome.zarr", zarr_format=2)
    group.create_array("0", data=np.zeros((2, 3, 8, 8), np.uint8))
    for axes in (["t", "c", "y", "x"], [{"name": name} for name in "tcyx"]):
        group.attrs.update({"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]})
        assert open_stack(tmp_path / "in.ome.zarr", channel=2).shape == (2, 8, 8)
