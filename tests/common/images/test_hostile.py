"""Image files that are damaged or made to do harm: each kind once crashed, waited, took memory or ended unclearly."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from warpzoo.files import FileError
from warpzoo.images import open_image, read_image
from warpzoo.images.stacks import open_stack

VALUES = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)


def refused(path: Path, match: str) -> str:
    with pytest.raises(FileError, match=match) as caught:
        read_image(path)
    message = str(caught.value)
    assert path.name in message
    assert message.isprintable()
    return message


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd", "a.png", "a.tif", "series", "a.zarr"])
def test_pipes_and_devices_are_not_opened(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "pipe or a device")


@pytest.mark.parametrize("name", ["series", "a.zarr"])
def test_nor_are_those_in_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / name / "deep" / "0").symlink_to("/dev/zero")
    with pytest.raises(FileError, match="pipe or a device"):
        read_image(tmp_path / name)


def test_metadata_of_a_zarr_that_is_no_text(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=VALUES)
    group.attrs["ome"] = {"multiscales": [{"axes": [{"name": name} for name in "zyx"], "datasets": [{"path": "0"}]}]}
    (tmp_path / "a.zarr" / "0" / "zarr.json").write_bytes(b'{"shape": "\x80"}')
    refused(tmp_path / "a.zarr", "cannot be read as OME-Zarr")


def test_what_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mha").write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(tmp_path / "a.mha", "no permission")


def header(**changes: object) -> bytes:
    lines = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "CompressedData": False,
        "ElementSpacing": "1 1 1",
        "DimSize": "7 6 5",
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in {**lines, **changes}.items()).encode()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"DimSize": "32000 32000 32000"}, "it declares"),
        ({"DimSize": "32000 32000 32000", "CompressedData": True}, "it declares"),
        ({"DimSize": "32000 32000 32000", "BinaryData": False}, "it declares"),
        ({"DimSize": "32000 32000 32000", "ElementDataFile": "a.raw"}, "it declares"),
        ({"DimSize": "32000 32000 32000", "ElementDataFile": "LIST\na.raw\na.raw"}, "it declares"),
        ({"DimSize": "32000 32000 32000", "ElementDataFile": "a%03d.raw 1 9 1"}, "it declares"),
        ({"ElementDataFile": "/dev/zero"}, "must be a file"),
        ({"ElementDataFile": "LIST\n/dev/zero"}, "must be a file"),
    ],
)
def test_a_metaimage_is_held_against_its_files(changes: dict[str, object], match: str, tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_bytes(header(**changes) + VALUES.tobytes())
    (tmp_path / "a.raw").write_bytes(VALUES.tobytes())
    refused(tmp_path / "a.mhd", match)


def test_a_metaimage_of_text_is_read(tmp_path: Path) -> None:
    text = "".join(f"{value} " for value in VALUES.ravel()).encode()
    (tmp_path / "a.mha").write_bytes(header(BinaryData=False) + text)
    assert np.array_equal(read_image(tmp_path / "a.mha").array[0].numpy().T, VALUES)


def test_values_beside_their_header_are_read(tmp_path: Path) -> None:
    for name in ("a.mhd", "b.nhdr", "c.hdr"):
        for packed in (False, True):
            sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(tmp_path / name), useCompression=packed)
            assert np.array_equal(read_image(tmp_path / name).array[0].numpy().T, VALUES)
    for number, slab in enumerate(VALUES, start=1):
        (tmp_path / f"{number:03}.raw").write_bytes(slab.tobytes())
    names = "\n".join(f"{number:03}.raw" for number in range(1, 6))
    for data in ("%03d.raw 1 5 1", f"LIST\n{names}"):
        (tmp_path / "d.mhd").write_bytes(header(ElementDataFile=data))
        assert np.array_equal(read_image(tmp_path / "d.mhd").array[0].numpy().T, VALUES)


@pytest.mark.parametrize("spacing", ["0 1 1", "nan 1 1", "1e-200 1e-200 1e-200"])
def test_a_place_without_an_inverse_names_the_file(spacing: str, tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(
        header(ElementSpacing=spacing, TransformMatrix="1 0 0 0 1 0 0 0 0") + VALUES.tobytes()
    )
    refused(tmp_path / "a.mha", "spacing and directions|cannot be read")


def test_sides_of_no_voxel_name_the_file(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(VALUES, np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[42:44] = struct.pack("<h", 0)
    (tmp_path / "a.nii").write_bytes(content)
    refused(tmp_path / "a.nii", "sides of 1 voxel or more")


def test_a_long_line_does_not_crash_the_reader_of_nrrd(tmp_path: Path) -> None:
    lines = "NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 5\nendian: little\nencoding: raw\n{}\n\n"
    path = tmp_path / "a.nrrd"
    for number, field in enumerate(("space: {}", "type: {}", "{}: 3", "{}")):
        name = tmp_path / f"{number}.nrrd"
        name.write_bytes(lines.format(field.format("a" * 5000)).encode() + VALUES.tobytes())
    code = f"""
        from warpzoo.files import FileError
        from warpzoo.images import read_image
        for number in range(4):
            try:
                read_image(f"{tmp_path}/{{number}}.nrrd")
            except FileError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, "the process crashed"
    assert done.stdout.count(".nrrd has a line of 50") == 4
    for free in ("content: {}", "note:={}", "# {}"):
        path.write_bytes(lines.format(free.format("a" * 5000)).encode() + VALUES.tobytes())
        assert np.array_equal(read_image(path).array[0].numpy().T, VALUES)


def test_a_picture_is_held_against_its_file(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))))
    refused(path, "it declares 9000 × 9000 uint8 values")


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="int16" SizeX="7" SizeY="6" SizeZ="{z}" SizeC="1" SizeT="1">'
    '<TiffData IFD="{ifd}" PlaneCount="5">{file}</TiffData></Pixels></Image></OME>'
)


@pytest.mark.parametrize(
    ("z", "ifd", "file", "match"),
    [
        (2_000_000_000, 0, "", "declares 2e.09 planes"),
        (5, 2_000_000_000, "", "declares 2e.09 planes"),
        (5, 0, '<UUID FileName="pipe">urn:uuid:1</UUID>', "pipe or a device"),
    ],
)
def test_ome_xml_is_held_against_the_planes(z: int, ifd: int, file: str, match: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    xml = OME.format(z=z, ifd=ifd, file=file).encode()
    tifffile.imwrite(tmp_path / "a.ome.tif", VALUES, description=xml, metadata=None)
    with pytest.raises(FileError, match=match):
        read_image(tmp_path / "a.ome.tif")
    xml = OME.format(z=5, ifd=0, file="").encode()
    tifffile.imwrite(tmp_path / "a.ome.tif", VALUES, description=xml, metadata=None)
    assert np.array_equal(read_image(tmp_path / "a.ome.tif").array[0].numpy().T, VALUES)


def test_a_compressed_tiff_is_held_against_its_file(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES, compression="zlib", metadata=None, bigtiff=True)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        for page in file.pages:
            for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                page.tags[name].overwrite(2**20, dtype="I")
    refused(tmp_path / "a.tif", "declares .* values")


def test_pages_that_follow_each_other_in_a_circle_end(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for plane in VALUES:
            file.write(plane, contiguous=False, metadata=None)
    content = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        first, last = (struct.pack("<I", file.pages[number].offset) for number in (1, 4))
    assert content.count(last) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(last, first))
    refused(tmp_path / "a.tif", "in a circle")


def test_zarr_is_held_against_its_chunks_and_damaged_ones_are_named(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    levels = [{"axes": list("zyx"), "datasets": [{"path": "0"}]}]
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2, attributes={"multiscales": levels})
    group.create_array("0", data=VALUES)
    assert np.array_equal(read_image(tmp_path / "a.zarr").array[0].numpy().T, VALUES)
    next((tmp_path / "a.zarr" / "0").glob("0*")).write_bytes(b"\7" * 40)
    refused(tmp_path / "a.zarr", "cannot be read as OME-Zarr")
    with pytest.raises(FileError, match=r"a\.zarr cannot be read as OME-Zarr"):
        open_stack(tmp_path / "a.zarr").read(0, (slice(0, 2), slice(0, 2)))
    levels[0]["axes"] = ["y", "x"]
    zarr.open_group(tmp_path / "a.zarr", mode="r+").attrs["multiscales"] = levels
    refused(tmp_path / "a.zarr", "as many axes as its values")
    levels[0]["axes"] = ["z", "y", "x"]
    group = zarr.create_group(tmp_path / "b.zarr", zarr_format=2, attributes={"multiscales": levels})
    group.create_array("0", shape=(32_000,) * 3, chunks=(64, 64, 64), dtype="uint16")
    refused(tmp_path / "b.zarr", "it declares 32000 × 32000 × 32000 uint16 values")
    assert open_image(tmp_path / "b.zarr").read((slice(0, 3), 0, 0)).tolist() == [0, 0, 0]


def test_slices_are_held_against_their_files(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    image = sitk.GetImageFromArray(VALUES[:1])
    sitk.WriteImage(image, str(tmp_path / "series" / "0.dcm"))
    content = (tmp_path / "series" / "0.dcm").read_bytes()
    for group, side in ((b"\x10", 6), (b"\x11", 7)):
        for kind in (b"\2\0\0\0", b"US\2\0"):
            tag = b"\x28\0" + group + b"\0" + kind
            content = content.replace(tag + struct.pack("<H", side), tag + b"\xff\xff")
    (tmp_path / "series" / "0.dcm").write_bytes(content)
    refused(tmp_path / "series", r"declares 65535 × 65535|cannot be read")


def test_what_a_header_declares_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """In a process that may take 300 MB more than it has: 640 MB in 640 kB, and 32,000³ voxels in 1 kB."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    head = nibabel.Nifti1Header()
    head.set_data_dtype(np.int16)
    head.set_data_shape((645, 645, 645))
    head["vox_offset"], head["magic"], head["sform_code"] = 352, b"n+1", 1
    head.set_sform(np.eye(4), 1)
    with open(tmp_path / "bomb.nii.gz", "wb") as file:
        file.write(packer.compress(head.binaryblock + bytes(4)))
        for _ in range(640):
            file.write(packer.compress(bytes(2**20)))
        file.write(packer.flush())
    head.set_data_shape((32_000,) * 3)
    (tmp_path / "a.nii").write_bytes(head.binaryblock + bytes(1000))
    code = f"""
        import resource
        from warpzoo.files import FileError
        from warpzoo.images import open_image, read_image
        open_image, read_image
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 300 * 2**20,) * 2)
        for name in ("bomb.nii.gz", "a.nii"):
            try:
                read_image("{tmp_path}/" + name)
            except FileError as error:
                print(error)
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment
    )
    first, second = done.stdout.splitlines()
    assert "bomb.nii.gz has 645 × 645 × 645 int16 values" in first
    assert "a.nii is incomplete or has a wrong header: it declares 32000 × 32000 × 32000" in second
