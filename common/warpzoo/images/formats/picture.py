"""PNG, JPEG and BMP pictures: one greyscale plane; a picture whose colours are all grey is grey."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from warpzoo.files import FileError, reading
from warpzoo.images.image import Header, unknown_name
from warpzoo.images.source import DEFLATE_RATIO, Source, Unpacked, check_size, colour, in_pixels


def open_file(path: Path, labels: bool = False, channels: bool = False) -> Source:
    from PIL import Image as Picture
    from PIL import ImageMode

    with reading(path, "a picture"), Picture.open(path) as picture:
        columns, rows = picture.size
        dtype = np.dtype(ImageMode.getmode(picture.mode).typestr)
        check_size(path, (rows, columns), dtype, ratio=8 * DEFLATE_RATIO)  # 8 values of one bit to a byte
        colours = channels and (picture.mode == "P" or len(picture.getbands()) > 2)
    dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype
    if colours:
        return in_pixels(path, "YXS", (rows, columns, 3), dtype, Unpacked(path, _colours), None)
    return in_pixels(path, "YX", (rows, columns), dtype, Unpacked(path, partial(_unpack, labels=labels)), None)


def _unpack(path: Path, labels: bool) -> np.ndarray:
    from PIL import Image as Picture

    with reading(path, "a picture"), Picture.open(path) as picture:
        # the colours of a palette are the values of an image, its indices those of a label map
        values = np.asarray(picture.convert("RGB") if picture.mode == "P" and not labels else picture)
    if values.ndim == 3:
        colours = values[..., : 3 if values.shape[-1] > 2 else 1]
        if (colours != colours[..., :1]).any():
            raise colour(path)
        values = colours[..., 0]
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def _colours(path: Path) -> np.ndarray:
    from PIL import Image as Picture

    with reading(path, "a picture"), Picture.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def write(file: Any, path: Path, values: np.ndarray, like: Header) -> None:
    from PIL import Image as Picture

    if not path.name.lower().endswith(".png"):
        raise unknown_name(path)
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        raise FileError(
            f"{path} cannot hold {values.ndim}-D {values.dtype} values; choose .nii.gz or .tif for its name."
        )
    Picture.fromarray(np.ascontiguousarray(values.T)).save(file, format="PNG")
