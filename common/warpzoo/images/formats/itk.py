"""MetaImage, NRRD and whatever else ITK reads; MetaImage and NRRD are written, uncompressed."""

from __future__ import annotations

import glob
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from warpzoo.files import FileError, reading, shortened
from warpzoo.images.formats.nifti import AXES, write_values
from warpzoo.images.image import Header, flip_lps, from_lps, to_lps, unknown_name
from warpzoo.images.source import DEFLATE_RATIO, Source, Unpacked, check_size

LONGEST_HEADER, LONGEST_LINE = 2**20, 500
"""Bytes; ITK's reader of NRRD writes beyond its buffer when it quotes a line of a thousand."""
RAW = rb"^(BinaryData *= *T|encoding *: *raw)"
KINDS = "NIfTI, MetaImage, NRRD, PNG, JPEG, TIFF, OME-Zarr or a folder with one DICOM series"


def open_file(path: Path, labels: bool = False, channels: bool = False) -> Source:
    with reading(path, KINDS):
        io = read_information(path)
        dims, components = io.GetNumberOfDimensions(), io.GetNumberOfComponents()
        if dims < 2:
            raise FileError(f"{path} must have two or three axes, got {dims}.")
        shape = tuple(io.GetDimensions(axis) for axis in range(dims))
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        stored = _component(io.GetComponentTypeAsString(io.GetComponentType()), io.GetComponentSize())
        parts = (components,) if components > 1 else ()
        direction = np.array([[*io.GetDirection(axis)] for axis in range(dims)]).T
        affine = from_lps(direction, *([get(axis) for axis in range(dims)] for get in (io.GetSpacing, io.GetOrigin)))
    kept = [*range(min(3, dims)), dims]
    header = Header(path, shape[:3], affine[np.ix_(kept, kept)], np.dtype(stored))
    whole, axes = (*parts, *shape), "C" * len(parts) + AXES[: len(shape)]
    stored_values = Unpacked(path, partial(_unpack, shape=whole[::-1], stored=stored))
    return Source(header, axes, whole, tuple(len(parts) + axis for axis in range(len(header.shape))), stored_values)


def _unpack(path: Path, shape: tuple[int, ...], stored: str) -> np.ndarray:
    import itk

    with reading(path, KINDS):
        # ITK's Python has no images of some types: they are read as a wider one
        wider = {"int8": itk.SS, "int64": itk.D, "uint64": itk.D}.get(stored)
        image = itk.imread(str(path), wider) if wider else itk.imread(str(path))
        return itk.array_from_image(image).reshape(shape)


def read_information(path: Path) -> Any:
    """ITK's reader of the file, which knows its header; that the values are there is checked as well."""
    import itk

    header = _header(path)
    files = _value_files(path, header)
    io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if io is None:
        raise FileError(f"{path} is of no kind that is read; it must be {KINDS}.")
    io.SetFileName(str(path))
    io.ReadImageInformation()
    shape = [*(io.GetDimensions(axis) for axis in range(io.GetNumberOfDimensions())), io.GetNumberOfComponents()]
    raw = re.search(RAW, header, re.M) and not re.search(rb"^CompressedData *= *T", header, re.M)
    dtype = np.dtype(_component(io.GetComponentTypeAsString(io.GetComponentType()), io.GetComponentSize()))
    size = sum(file.stat().st_size for file in files if file.is_file())
    check_size(path, shape if shape[-1] > 1 else shape[:-1], dtype, 0, 1 if raw else DEFLATE_RATIO, size)
    return io


def _header(path: Path) -> bytes:
    """The text at the start of a MetaImage or NRRD."""
    with open(path, "rb") as file:
        text = file.read(LONGEST_HEADER)
    if not text.startswith(b"NRRD"):
        return text
    text = re.split(rb"\r?\n\r?\n", text, maxsplit=1)[0]
    for line in text.splitlines():
        if len(line) > LONGEST_LINE and not re.match(rb"#|content:|.*:=", line):
            raise FileError(
                f"{path} has a line of {len(line)} bytes in its header, which must have at most {LONGEST_LINE}; it is "
                f"damaged: copy or export it again."
            )
    return text


def _value_files(path: Path, header: bytes) -> list[Path]:
    """Where the values are: in the file itself, in those that its header names, or in those of the same name."""
    found = re.search(rb"^(?:ElementDataFile *=|data ?file *:) *(.*?) *\r?$", header, re.M | re.I)
    if found is None:
        return [path] if header.startswith(b"NRRD") else [*path.parent.glob(f"{glob.escape(path.stem)}.*")]
    named = found.group(1).decode(errors="replace")
    if named.upper() == "LOCAL":
        return [path]
    names = [named]
    if named.upper().startswith("LIST"):
        names = header[found.end() :].decode(errors="replace").split("\n")
    elif "%" in named:  # such as slice%03d.raw 1 10 1
        names = glob.glob(str(path.parent / re.sub(r"%\d*d.*", "*", named)))
    files = [path.parent / name.strip() for name in names if name.strip()]
    for file in files:
        if file.exists() and not file.is_file():
            raise FileError(f"{path} has its values in {shortened(str(file))}, which must be a file.")
    return files


def write(file: Any, path: Path, values: np.ndarray, like: Header) -> None:
    headers = {".mha": _mha_header, ".nrrd": _nrrd_header}
    if path.suffix.lower() not in headers:
        raise unknown_name(path)
    file.write(headers[path.suffix.lower()](values, like.affine).encode("ascii"))
    write_values(values, file)


def _mha_header(values: np.ndarray, affine: np.ndarray) -> str:
    direction, spacing, origin = to_lps(affine)
    lines = {
        "ObjectType": "Image",
        "NDims": values.ndim,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": sys.byteorder == "big",
        "CompressedData": False,
        "TransformMatrix": _numbers(direction.T.ravel()),
        "Offset": _numbers(origin),
        "ElementSpacing": _numbers(spacing),
        "DimSize": " ".join(map(str, values.shape)),
        "ElementType": _met_type(values.dtype),
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def _nrrd_header(values: np.ndarray, affine: np.ndarray) -> str:
    dims, lps = values.ndim, flip_lps(values.ndim) @ affine
    lines = {
        "type": {"float32": "float", "float64": "double"}.get(values.dtype.name, values.dtype.name),
        "dimension": dims,
        **({"space": "left-posterior-superior"} if dims == 3 else {"space dimension": dims}),
        "sizes": " ".join(map(str, values.shape)),
        "space directions": " ".join(f"({_numbers(column, ',')})" for column in lps[:dims, :dims].T),
        "kinds": " ".join(["domain"] * dims),
        "endian": sys.byteorder,
        "encoding": "raw",
        "space origin": f"({_numbers(lps[:dims, dims], ',')})",
    }
    return "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in lines.items()) + "\n"


def _numbers(values: np.ndarray, between: str = " ") -> str:
    return between.join(map(repr, values.tolist()))


def _component(name: str, size: int) -> str:
    """numpy's name of ITK's type: `unsigned_char` of 1 byte → uint8."""
    kind = "float" if name in ("float", "double") else "uint" if name.startswith("unsigned") else "int"
    return f"{kind}{8 * size}"


def _met_type(dtype: np.dtype) -> str:
    if dtype.kind == "f":
        return {4: "MET_FLOAT", 8: "MET_DOUBLE"}[dtype.itemsize]
    widths = {1: "CHAR", 2: "SHORT", 4: "INT", 8: "LONG_LONG"}
    return f"MET_{'U' * (dtype.kind == 'u')}{widths[dtype.itemsize]}"
