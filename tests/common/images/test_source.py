"""Files with time and channels, read a part at a time; files that are shorter than their headers say."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch

from warpzoo.files import FileError
from warpzoo.geometry.grid import Grid
from warpzoo.images import Image, open_image, read_image, source, write_image

SERIES = np.random.default_rng(0).integers(0, 120, (3, 2, 5, 6, 7)).astype(np.uint8)  # T, C, Z, Y, X


def saved(name: str, folder: Path) -> Path:
    """SERIES, or its second channel where the format has none."""
    path = folder / name
    if name.endswith(".tif"):
        values, axes = (SERIES, "TCZYX") if "ome" in name else (SERIES.swapaxes(1, 2), "TZCYX")
        options = {"ome": True} if "ome" in name else {"imagej": True}
        packed = {"compression": "zlib"} if "packed" in name else {}
        tifffile.imwrite(path, np.ascontiguousarray(values), metadata={"axes": axes}, **options, **packed)
    elif name.endswith(".zarr"):
        zarr = pytest.importorskip("zarr")
        group = zarr.create_group(path, zarr_format=2)
        group.create_array("0", data=SERIES)
        group.attrs.update({"multiscales": [{"axes": list("tczyx"), "datasets": [{"path": "0"}]}]})
    elif "nii" in name:
        nibabel.save(nibabel.Nifti1Image(SERIES.T.swapaxes(3, 4), np.diag([1, 2, 3, 1])), path)
    else:
        volumes = [sitk.GetImageFromArray(volume.astype(np.float32)) for volume in SERIES[:, 1]]
        sitk.WriteImage(sitk.JoinSeries(volumes), str(path))
    return path


@pytest.mark.parametrize(
    "name", ["a.tif", "a.ome.tif", "packed.ome.tif", "a.zarr", "a.nii", "a.nii.gz", "a.mha", "a.nrrd"]
)
def test_one_image_of_a_series_is_read_by_time_and_channel(name: str, tmp_path: Path) -> None:
    path = saved(name, tmp_path)
    channel = None if name in ("a.mha", "a.nrrd") else 1
    for time in (0, 2):
        read = read_image(path, time=time, channel=channel)
        assert np.array_equal(read.array[0], SERIES[time, 1].T)
        assert read.header.shape == read.grid.shape == (7, 6, 5)
        assert read.header.pixels == name.endswith((".tif", ".zarr"))
        again = read_image(write_image(tmp_path / "frame.nii.gz", read.array, read.header))
        assert torch.equal(again.array, read.array)
    opened = open_image(path)
    index = [{"X": slice(1, 4), "Y": slice(2, 6), "Z": 3, "T": 2, "C": 1}[axis] for axis in opened.axes]
    assert np.array_equal(opened.read(tuple(index)), SERIES[2, 1, 3, 2:6, 1:4].T)
    with pytest.raises(FileError, match="series"):
        read_image(path)
    with pytest.raises(FileError, match=r"channel must be in \[0, \d\], got 2"):
        read_image(path, time=0, channel=2)


def test_an_image_in_memory_is_written_and_read_as_any_other(tmp_path: Path) -> None:
    grid = Grid((4, 5), np.diag([0.5, 0.25, 1]))
    image = Image.in_memory(torch.rand(1, 4, 5), grid, "fixed image")
    assert str(image.header.path) == "fixed image"
    read = read_image(write_image(tmp_path / "a.nii.gz", image.array, image.header))
    assert torch.equal(read.array, image.array)
    assert read.grid == grid
    with pytest.raises(ValueError, match=r"array must be \(channels, 4, 5\)"):
        Image.in_memory(torch.rand(1, 5, 4), grid)


@pytest.mark.parametrize(
    "name", ["a.tif", "pages.tif", "packed.tif", "pil.tif", "a.ome.tif", "a.nii", "a.mha", "a.nrrd"]
)
def test_truncated_files_are_named(name: str, tmp_path: Path) -> None:
    from PIL import Image as Picture

    path, volume = tmp_path / name, np.random.default_rng(0).integers(0, 250, (5, 64, 65)).astype(np.uint8)
    if name == "pages.tif":
        with tifffile.TiffWriter(path) as file:
            for plane in volume:
                file.write(plane, contiguous=False, metadata=None, rowsperstrip=2)
    elif name == "pil.tif":
        first, *others = map(Picture.fromarray, volume)
        first.save(path, save_all=True, append_images=others)
    elif name.endswith(".tif"):
        packed = "zlib" if "packed" in name else None
        tifffile.imwrite(path, volume, compression=packed, photometric="minisblack", metadata={"axes": "ZYX"})
    else:
        image = Image.in_memory(torch.from_numpy(volume.T.copy())[None], Grid((65, 64, 5)))
        write_image(path, image.array, image.header)
    read_image(path)
    for kept in (0.9, 0.6):
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(FileError, match=name) as caught:
            read_image(path)
        assert "\n" not in str(caught.value)
        path.write_bytes(content)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".tif"])
def test_headers_that_declare_more_than_there_is_take_no_memory(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"huge{suffix}"
    if "nii" in suffix:
        header = nibabel.Nifti1Header()
        header.set_data_shape((32_000, 32_000, 32_000))
        header.set_data_dtype(np.int16)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        content = header.binaryblock + bytes(1000)
        path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    elif suffix == ".mha":
        path.write_bytes(
            b"ObjectType = Image\nNDims = 3\nDimSize = 32000 32000 32000\nElementType = MET_SHORT\n"
            b"ElementDataFile = LOCAL\n" + bytes(1000)
        )
    elif suffix == ".nrrd":
        path.write_bytes(
            b"NRRD0004\ntype: short\ndimension: 3\nsizes: 32000 32000 32000\nendian: little\nencoding: raw\n\n"
            + bytes(1000)
        )
    else:
        tifffile.imwrite(path, np.zeros((8, 8), np.uint16))
        with tifffile.TiffFile(path, mode="r+b") as file:
            for tag in ("ImageWidth", "ImageLength"):
                file.pages[0].tags[tag].overwrite(32_000)
    with pytest.raises(FileError, match=rf"huge{suffix} is incomplete.* 32000 × 32000"):
        read_image(path)


def test_what_does_not_fit_into_memory_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.in_memory(torch.rand(1, 4, 5), Grid((4, 5)))
    path = write_image(tmp_path / "a.nii.gz", image.array, image.header)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(source.Source, "frame", full)
    with pytest.raises(FileError, match=r"a\.nii\.gz has 4 × 5 float32 values .* memory"):
        read_image(path)


@pytest.mark.parametrize("entity", ["<!DOCTYPE OME [<!ENTITY a 'lol'>]>", "<!ENTITY a 'lol'>"])
def test_ome_xml_with_entities_is_refused(entity: str, tmp_path: Path) -> None:
    xml = f'<?xml version="1.0"?>{entity}<OME><Image><Pixels/></Image></OME>'
    tifffile.imwrite(tmp_path / "bomb.tif", SERIES[0, 0], description=xml, metadata=None)
    with pytest.raises(FileError, match=r"bomb\.tif declares a document type or entities"):
        open_image(tmp_path / "bomb.tif")


def test_unpacked_files_are_kept_within_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "KEPT_BYTES", 1000)
    monkeypatch.setattr(source, "_kept", type(source._kept)())
    opened = []
    for number in range(5):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.full((20, 20), number, np.uint8), compression="zlib")
        opened.append(open_image(tmp_path / f"{number}.tif"))
    for number, one in enumerate(opened):
        assert (one.read((slice(3), 2)) == number).all()
    assert [path.stem for path, _ in source._kept] == ["3", "4"]
    opened[0].frame()
    assert [path.stem for path, _ in source._kept] == ["3", "4"]  # what is read as a whole is not kept
