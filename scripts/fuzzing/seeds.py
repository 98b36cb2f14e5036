"""Makers of small real files of every format, by the libraries that others use, and of hostile ones.

Each maker is given an empty folder and returns the path to read; the files beside it belong to it.
"""

from __future__ import annotations

import collections
import gzip
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import SimpleITK as sitk
import tifffile
import torch
import zarr
from PIL import Image as Picture
from scipy.io import savemat

Maker = Callable[[Path], Path]
SHAPE = (5, 7, 9)
VALUES = np.random.default_rng(0).integers(0, 200, SHAPE)
AFFINE = np.array([[-1.5, 0.2, 0, 10], [0.1, 1.2, 0, -20], [0, 0, 2, 5], [0, 0, 0, 1.0]])
FIELD = np.random.default_rng(1).standard_normal((*SHAPE, 3)).astype(np.float32)
LANDMARKS = "label,x,y,z\n1,1.5,2,3\nnose,-4,5.25,1e1\n"
ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "ha" * 50}">' for n in range(10))
LAUGHS = f'<?xml version="1.0"?><!DOCTYPE OME [{ENTITIES}]><OME><Image Name="&e9;"/></OME>'


def nifti(
    folder: Path, name: str = "a.nii", dtype: str = "int16", kind: Any = nibabel.Nifti1Image, slope: float = 1.0
) -> Path:
    image = kind(VALUES.astype(dtype), AFFINE)
    image.set_qform(AFFINE, 1)
    image.header.set_slope_inter(slope, 0)
    nibabel.save(image, folder / name)
    return folder / name


def big_endian(folder: Path) -> Path:
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(VALUES.astype(">i2"), AFFINE, header), folder / "a.nii")
    return folder / "a.nii"


def declaring(folder: Path, name: str, side: int = 32_000) -> Path:
    """Of 32,000³ voxels, with a thousand bytes of them."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((side, side, side))
    header["vox_offset"], header["magic"], header["sform_code"] = 352, b"n+1", 1
    header["srow_x"][0] = header["srow_y"][1] = header["srow_z"][2] = 1
    content = header.binaryblock + bytes(1004)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def bomb(folder: Path, name: str = "a.nii.gz") -> Path:
    """640 kB that unpack to 640 MB, as the header says."""
    path = declaring(folder, name.removesuffix(".gz"), 645)
    head = path.read_bytes()[:352]
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    with open(folder / name, "wb") as file:
        file.write(packer.compress(head))
        for _ in range(640):
            file.write(packer.compress(bytes(2**20)))
        file.write(packer.flush())
    path.unlink()
    return folder / name


def itk_image(folder: Path, name: str, vector: bool = False, dims: int = 3, compressed: bool = False) -> Path:
    values = FIELD[..., :dims] if vector else VALUES.astype(np.int16)
    image = sitk.GetImageFromArray(values[0] if dims == 2 else values, isVector=vector)
    image.SetSpacing([0.5, 1.5, 2.0][:dims])
    sitk.WriteImage(image, str(folder / name), useCompression=compressed)
    return folder / name


def written(folder: Path, name: str, content: bytes | str) -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def meta_header(size: str, data: str, extra: str = "", spacing: str = "1 1 1") -> str:
    return (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\n{extra}ElementSpacing = {spacing}\nDimSize = {size}\n"
        f"ElementType = MET_SHORT\nElementDataFile = {data}\n"
    )


def nrrd_header(sizes: str, encoding: str, extra: str = "") -> str:
    return f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: {encoding}\n{extra}"


def picture(folder: Path, name: str, mode: str = "L") -> Path:
    values = np.random.default_rng(0).integers(0, 255, (25, 21), np.uint8)
    image = Picture.fromarray(values.astype(np.uint16) * 200) if mode == "I;16" else Picture.fromarray(values)
    (image if mode == "I;16" else image.convert(mode)).save(folder / name)
    return folder / name


def huge_png(folder: Path) -> Path:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 8, 0, 0, 0, 0))
    return written(folder, "a.png", b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))))


def tiff(folder: Path, name: str = "a.tif", **options: Any) -> Path:
    tifffile.imwrite(folder / name, VALUES.astype(np.uint16), **options)
    return folder / name


def ome_xml(folder: Path, xml: str) -> Path:
    tifffile.imwrite(folder / "a.ome.tif", VALUES.astype(np.uint16), description=xml.encode(), metadata=None)
    return folder / "a.ome.tif"


def ome_text() -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">\n<Image ID="Image:0" Name="a">\n'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="9" SizeY="7" SizeZ="5" SizeC="1" SizeT="1" '
        'PhysicalSizeX="0.1">\n<Channel ID="Channel:0:0" SamplesPerPixel="1"/>\n'
        '<TiffData IFD="0" PlaneCount="5" FirstZ="0"/>\n</Pixels>\n</Image>\n</OME>\n'
    )


def ome_zarr(folder: Path, version: int = 2, **options: Any) -> Path:
    axes = [{"name": name, "type": "space"} for name in "zyx"]
    levels = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": []}], "version": "0.4"}]
    attributes = {"multiscales": levels} if version == 2 else {"ome": {"version": "0.5", "multiscales": levels}}
    group = zarr.create_group(folder / "a.zarr", zarr_format=version, attributes=attributes)
    array = group.create_array("0", shape=SHAPE, dtype="uint16", chunks=options.pop("chunks", (3, 7, 9)), **options)
    array[:] = VALUES
    return folder / "a.zarr"


def endless_zarr(folder: Path) -> Path:
    path = ome_zarr(folder)
    described = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps({**described, "shape": [32_000] * 3}))
    return path


def dicom(folder: Path) -> Path:
    (folder / "series").mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, values in enumerate(VALUES[:4]):
        image = sitk.GetImageFromArray(values.astype(np.int16)[None])
        image.SetSpacing([0.7, 0.6, 2.5])
        tags = {
            "0008|0060": "CT",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.3.{number + 1}",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.2",
            "0020|0013": str(number),
            "0020|0032": f"0\\0\\{2.5 * number}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / "series" / f"{number}.dcm"))
        writer.Execute(image)
    return folder / "series"


def dicom_with(folder: Path, old: bytes, new: bytes) -> Path:
    """The bytes of a tag exchanged in every file of a series."""
    path = dicom(folder)
    for file in path.iterdir():
        content = file.read_bytes()
        assert old in content
        file.write_bytes(content.replace(old, new, 1))
    return path


ROWS = b"\x28\x00\x10\x00\x02\x00\x00\x00" + struct.pack("<H", SHAPE[1])
COLUMNS = b"\x28\x00\x11\x00\x02\x00\x00\x00" + struct.pack("<H", SHAPE[2])


def dicom_and(folder: Path, add: Callable[[Path], object]) -> Path:
    path = dicom(folder)
    add(path)
    return path


def transform(folder: Path, name: str, kind: str = "affine") -> Path:
    made: Any = sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6))
    if kind == "2d":
        made = sitk.AffineTransform(2)
    if kind == "spline":
        made = sitk.BSplineTransform(3, 3)
        made.SetTransformDomainMeshSize([2, 2, 2])
    if kind == "field":
        made = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(FIELD.astype(np.float64), isVector=True))
    if kind == "composite":
        made = sitk.CompositeTransform([made, sitk.TranslationTransform(3, (1, 2, 3)), small_spline()])
    sitk.WriteTransform(made, str(folder / name))
    return folder / name


def small_spline() -> Any:
    made = sitk.BSplineTransform(3, 3)
    made.SetTransformDomainMeshSize([1, 1, 1])
    return made


def hdf5(folder: Path, change: Callable[[h5py.Group], object]) -> Path:
    """A field's file by h5py, changed by hand."""
    with h5py.File(folder / "a.h5", "w") as file:
        one = file.create_group("TransformGroup/0")
        one["TransformType"] = [b"DisplacementFieldTransform_float_3_3"]
        one["TransformParameters"] = FIELD.ravel()
        one["TransformFixedParameters"] = np.array([*SHAPE, 0, 0, 0, 1, 1, 1, *np.eye(3).ravel()])
        change(one)
    return folder / "a.h5"


def put(group: h5py.Group, name: str, value: Any = None, **options: Any) -> None:
    del group[name]
    if options:
        group.create_dataset(name, **options)
    else:
        group[name] = value


def matlab(folder: Path, version: str = "4", packed: bool = False, **variables: Any) -> Path:
    parameters = np.arange(12.0)[:, None]
    content = variables or {"AffineTransform_double_3_3": parameters, "fixed": np.zeros((3, 1))}
    savemat(folder / "a.mat", content, format=version, do_compression=packed)
    return folder / "a.mat"


def slicer(folder: Path) -> Path:
    points = [{"id": str(n), "label": f"L{n}", "position": [n, 2.5, -3.0]} for n in range(3)]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}
    return written(folder, "a.mrk.json", json.dumps({"markups": [markup]}))


class Runs:
    """What a pickle runs when it is trusted: it leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch EXECUTED",)


def state() -> dict[str, torch.Tensor]:
    return collections.OrderedDict(torch.nn.Linear(4, 3).state_dict())


def weights(folder: Path, content: Any = None, zipped: bool = True) -> Path:
    torch.save(state() if content is None else content, folder / "a.pt", _use_new_zipfile_serialization=zipped)
    return folder / "a.pt"


def weights_declaring(folder: Path, numel: int) -> Path:
    """Storages of more numbers than their records hold."""
    path = weights(folder)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in members.items():
            if name.endswith("data.pkl"):
                value = value.replace(b"K\x0c", b"J" + struct.pack("<i", numel))
            archive.writestr(name, value)
    return path


def packed_weights(folder: Path) -> Path:
    """A record of 640 MB of zeros, packed to 640 kB."""
    path = weights(folder)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, value in members.items():
            with archive.open(name, "w") as member:
                for part in repeat(bytes(2**20), 640) if name.endswith("data/0") else [value]:
                    member.write(part)
    return path


def pairs(folder: Path, text: str = "id,fixed,moving\n1,a.nii,b.nii\n2,b.nii,a.nii\n") -> Path:
    return written(folder, "pairs.csv", text)


def listed(folder: Path, name: str, content: str) -> Path:
    nifti(folder)
    return written(folder, name, content)


def archive(folder: Path, **arrays: Any) -> Path:
    np.savez_compressed(folder / "a.npz", **(arrays or {"images": VALUES.astype(np.uint8)}))
    return folder / "a.npz"


def packed_archive(folder: Path) -> Path:
    """An array of 640 MB of zeros, packed to 640 kB."""
    with (
        zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("x.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(member, {"shape": (640 * 2**20,), "fortran_order": False, "descr": "|u1"})
        for _ in range(640):
            member.write(bytes(2**20))
    return folder / "a.npz"
