"""TIFF, OME-TIFF and ImageJ TIFF: the first series, with the axes it names, in pixels.

Uncompressed files in one piece are read and written part by part; axes, pixel size and metadata are kept.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from xml.dom import minidom
from xml.etree import ElementTree

import numpy as np

from warpzoo.files import FileError, check_kind, reading, whole_file
from warpzoo.images.formats import SUFFIXES
from warpzoo.images.image import Header
from warpzoo.images.source import (
    IN_MEMORY,
    MOST_PACKED,
    OnDisk,
    PixelSize,
    Source,
    Stored,
    Unpacked,
    check_size,
    duration,
    in_pixels,
)

AT_ONCE = 2**22
"""Bytes that are unpacked at once."""


def open_file(path: Path, labels: bool = False, channels: bool = False) -> Source:
    import tifffile

    with reading(path, "TIFF"), tifffile.TiffFile(path) as file:
        _check_pages(path, file)
        if file.is_ome:
            _check_ome(path, file)
        series = file.series[0]
        page, dtype, offset = series.keyframe, series.dtype, series.dataoffset
        whole = page.compression == tifffile.COMPRESSION.NONE and all(page.databytecounts)
        whole = whole and page.bitspersample == 8 * dtype.itemsize
        check_size(path, series.shape, dtype, offset or 0, ratio=1 if whole else MOST_PACKED)
        if offset is not None:
            stored: Stored = OnDisk(path, dtype.newbyteorder(file.byteorder), offset, series.shape)
        else:  # compressed, or in pieces
            stored = Unpacked(path, _unpack, _copy_on_disk if series.nbytes > IN_MEMORY else None)
        seconds, details = _seconds(file), _details(file, series)
        source = in_pixels(path, series.axes, series.shape, dtype, stored, details, seconds, _pixel(file, details))
        return replace(source, images=len(file.series), channel_names=_channel_names(file))


def _check_pages(path: Path, file: Any) -> None:
    """That no page is missing at the end: tifffile reads the pages before it without a word; nor follows itself."""
    handle, tiff = file.filehandle, file.tiff
    offset, seen = file.pages[0].offset, set[int]()
    while offset:
        if offset > handle.size:
            raise FileError(f"{path} is incomplete: it ends after page {len(seen)}; copy or export it again.")
        if offset in seen:
            raise FileError(f"{path} is damaged: its pages follow each other in a circle; copy or export it again.")
        seen.add(offset)
        handle.seek(offset)
        (tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
        handle.seek(tags * tiff.tagsize, 1)
        (offset,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))


def _unpack(path: Path) -> np.ndarray:
    import tifffile

    with reading(path, "TIFF"), tifffile.TiffFile(path) as file:
        series = file.series[0]
        return series.asarray().reshape(series.shape)


def _copy_on_disk(path: Path) -> OnDisk:
    """The values unpacked, some pages at a time, into a temporary file without a name: gone with the object."""
    import tifffile

    with reading(path, "TIFF"), tifffile.TiffFile(path) as file:
        series = file.series[0]
        dtype, page = series.dtype.newbyteorder("="), series.keyframe
        step = max(1, AT_ONCE // page.nbytes)
        copy = TemporaryFile()  # noqa: SIM115 (it lives with what is returned)
        for first in range(0, len(series.pages), step):
            some = slice(first, first + step)
            if any(one is not None for one in series.pages[some]):
                values = file.asarray(series=0, key=some).astype(dtype, copy=False)
            else:  # pages that the file lacks
                values = np.zeros((len(series.pages[some]), *page.shape), dtype)
            copy.write(np.ascontiguousarray(values).data)
        copy.flush()
        return OnDisk(path, dtype, 0, series.shape, copy)


def _seconds(file: Any) -> float | None:
    """From one time point to the next, by OME-XML or ImageJ."""
    if file.is_ome:
        for element in ElementTree.fromstring(file.ome_metadata.encode()).iter():
            if element.tag.rpartition("}")[2] == "Pixels":
                step = element.get("TimeIncrement")
                return None if step is None else duration(float(step), element.get("TimeIncrementUnit", "s"))
    step = (file.imagej_metadata or {}).get("finterval") if file.is_imagej else None
    return None if step is None else duration(float(step), str(file.imagej_metadata.get("tunit", "s")))


def _channel_names(file: Any) -> tuple[str, ...]:
    """Of the first image, by OME-XML."""
    if not file.is_ome:
        return ()
    pixels = ElementTree.fromstring(file.ome_metadata.encode()).find("{*}Image/{*}Pixels")
    names = [] if pixels is None else [channel.get("Name", "") for channel in pixels.iterfind("{*}Channel")]
    return tuple(names) if names and all(names) and len({*names}) == len(names) else ()


def _pixel(file: Any, details: dict[str, Any]) -> PixelSize | None:
    """By OME-XML or ImageJ; dots per inch are those of a print."""
    if file.is_ome:
        for element in ElementTree.fromstring(file.ome_metadata.encode()).iter():
            if element.tag.rpartition("}")[2] == "Pixels":
                sides = [element.get(f"PhysicalSize{axis}") for axis in "XYZ"]
                if sides[0] is None or sides[1] is None:
                    return None
                return PixelSize(
                    float(sides[0]), float(sides[1]), float(sides[2] or 1), element.get("PhysicalSizeXUnit", "µm")
                )
    if not file.is_imagej or "resolution" not in details or min(details["resolution"]) <= 0:
        return None
    unit = str(file.imagej_metadata.get("unit", "")).replace("\\u00B5", "µ")
    unit = "µm" if unit in ("micron", "microns", "um", "\u03bcm") else unit
    if unit in ("", "pixel", "pixels"):
        return None
    across, down = details["resolution"]
    return PixelSize(1 / across, 1 / down, float(file.imagej_metadata.get("spacing", 1)), unit)


def _details(file: Any, series: Any) -> dict[str, Any]:
    """The arguments with which `tifffile.imwrite` writes the same axes, pixel size and metadata."""
    page = series.keyframe
    tags = page.tags
    colours = series.sizes.get("sample", 1)
    inverted = page.photometric is not None and page.photometric.name == "MINISWHITE"
    photometric = "rgb" if colours in (3, 4) else "miniswhite" if inverted else "minisblack"
    details: dict[str, Any] = {"shape": series.shape, "photometric": photometric}
    if colours == 2:
        details["planarconfig"] = "contig"
    if series.axes.endswith("SYX"):
        details["planarconfig"] = "separate"
    if "XResolution" in tags and "YResolution" in tags:
        details["resolution"] = tuple(
            value[0] / (value[1] or 1) for value in (tags["XResolution"].value, tags["YResolution"].value)
        )
        if "ResolutionUnit" in tags:
            details["resolutionunit"] = int(tags["ResolutionUnit"].value)
    if file.is_ome:
        details["description"] = file.ome_metadata
    elif file.is_imagej:
        details |= {"imagej": True, "metadata": {**file.imagej_metadata, "axes": series.axes}}
    else:
        details["metadata"] = {"axes": series.axes}
        if not file.is_shaped and page.description:
            details |= {"description": page.description, "metadata": None}
    return details


def type_in_ome(dtype: np.dtype) -> np.dtype:
    """The type of values in an OME-TIFF that holds those of a type: OME has no half and no very long ones, and single
    bits cannot be written part by part."""
    others = {"bool": "uint8", "float16": "float32", "int64": "float64", "uint64": "float64"}
    return np.dtype(others.get(dtype.name, dtype.name))


def as_ome(source: Source, time: int | None = None) -> Source:
    """The same image to be written as an OME-TIFF, whatever its file is; `time` says which axis, x first, is time.

    OME knows the axes T, Z and C beside rows, columns and colours: others take the names that are free.
    """
    if isinstance(source.details, dict) and str(source.details.get("description", "")).lstrip().startswith("<?xml"):
        return source
    axes = list(source.axes)
    if time is not None:
        axes = ["?" if axis == "T" else axis for axis in axes]
        axes[time] = "T"
    free = [letter for letter in "ZCT" if letter not in axes]
    axes = [axis if axis in "XYZCTS" else free.pop(0) for axis in axes]
    named = "".join(axes[::-1])
    metadata: dict[str, Any] = {"axes": named}
    if source.pixel is not None:
        *sides, unit = source.pixel
        for axis, side in zip("XYZ" if "Z" in axes else "XY", sides, strict=False):
            metadata |= {f"PhysicalSize{axis}": side, f"PhysicalSize{axis}Unit": unit}
    if source.seconds is not None:
        metadata |= {"TimeIncrement": source.seconds, "TimeIncrementUnit": "s"}
    kept = source.details if isinstance(source.details, dict) else {}
    colours = axes[0] == "S" and source.shape[0] in (3, 4)
    details = {name: kept[name] for name in ("resolution", "resolutionunit") if name in kept}
    details |= {"photometric": kept.get("photometric", "rgb" if colours else "minisblack")}
    details |= {"shape": source.shape[::-1], "ome": True, "metadata": metadata}
    return replace(source, details=details, axes="".join(axes))


def write(file: Any, path: Path, values: np.ndarray, like: Header) -> None:
    import tifffile

    axes = "ZYX"[-values.ndim :]
    tifffile.imwrite(file, np.ascontiguousarray(values.T), photometric="minisblack", metadata={"axes": axes})


@contextmanager
def created(source: Source, path: Path, dtype: np.dtype) -> Iterator[OnDisk]:
    """An empty file like the source, to be written part by part; it is at `path` when the block ends well."""
    import tifffile

    if not path.name.lower().endswith(SUFFIXES["tiff"]):
        raise FileError(
            f"{path} is no TIFF, as {source.header.path} is; the result must have its input's format: .tif."
        )
    details = dict(source.details)
    if "description" in details and details["description"].lstrip().startswith("<?xml"):
        description = _ome_description(source.header.path, details["description"], dtype)
        details |= {"description": description, "metadata": None}
    elif details.get("imagej") and dtype.kind not in "f" and dtype.itemsize > 2:
        raise FileError(f"{source.header.path} is an ImageJ TIFF, which holds no {dtype} values; choose float32.")
    with whole_file(path) as unfinished:
        tifffile.imwrite(unfinished, None, dtype=dtype, byteorder=">" if details.get("imagej") else None, **details)
        with tifffile.TiffFile(unfinished) as file:
            offset, order = file.series[0].dataoffset, file.byteorder
        assert offset is not None  # written in one piece
        yield OnDisk(unfinished, dtype.newbyteorder(order), offset, source.shape[::-1])


def _ome_description(path: Path, description: str, dtype: np.dtype) -> bytes:
    """The same OME-XML for a file of its own that holds the values of the first image as another type."""
    _refuse_entities(path, description)
    document: Any = minidom.parseString(description)
    first, *others = document.getElementsByTagNameNS("*", "Image")
    for other in others:
        other.parentNode.removeChild(other)
    if document.documentElement.hasAttribute("UUID"):
        document.documentElement.removeAttribute("UUID")
    pixels = first.getElementsByTagNameNS("*", "Pixels")[0]
    pixels.setAttribute("Type", {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name))
    if pixels.hasAttribute("SignificantBits"):
        pixels.removeAttribute("SignificantBits")
    for data in pixels.getElementsByTagNameNS("*", "TiffData"):
        pixels.removeChild(data)
    channels = pixels.getElementsByTagNameNS("*", "Channel")
    data = document.createElement(pixels.tagName.replace("Pixels", "TiffData"))
    pixels.insertBefore(data, channels[-1].nextSibling if channels else pixels.firstChild)
    return document.toxml(encoding="UTF-8")


def _check_ome(path: Path, file: Any) -> None:
    """That the OME-XML speaks of planes that can be here or in files beside it: tifffile makes a list of all."""
    _refuse_entities(path, file.ome_metadata)
    most = MOST_PACKED * len(file.pages)
    for element in ElementTree.fromstring(file.ome_metadata.encode()).iter():
        kind = element.tag.rpartition("}")[2]
        if kind == "UUID" and element.get("FileName"):
            check_kind(path.parent / element.attrib["FileName"])
        if kind == "TiffData":
            numbers = [int(value) for name, value in element.items() if name.startswith(("IFD", "First", "Plane"))]
            planes = max([0, *numbers])
        elif kind == "Pixels":
            sides = [int(value) for name, value in element.items() if re.fullmatch("Size[XYZCT]", name)]
            planes = prod(sides) // max(1, file.pages[0].size)
        else:
            continue
        if planes > most:
            raise FileError(
                f"{path} is incomplete or has wrong OME-XML: it declares {planes:.3g} planes and has "
                f"{len(file.pages)}: copy or export it again."
            )


def _refuse_entities(path: Path, description: Any) -> None:
    """OME-XML needs no document type; entities declared in one can unpack to more than fits into memory."""
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise FileError(f"{path} declares a document type or entities in its OME-XML, which are not read: remove them.")
