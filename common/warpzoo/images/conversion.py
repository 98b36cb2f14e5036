"""Images as programs hold them ↔ the one model: paths, numpy, torch, MONAI, nibabel, SimpleITK and ITK.

Convention: arrays and tensors are (*spatial) or, as MONAI has them, (1, *spatial), several (channels, *spatial); the
spatial axes are the image's axes in that order, and their world is index · spacing, as of a NIfTI with that affine.
SimpleITK's and ITK's images keep their own world (LPS millimetres there, RAS here). A volume of one slice is 2-D, as
when it is read from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.checks import check_spacing
from warpzoo.images.image import Header, Image, from_lps, read_image, to_dtype, to_lps, vector_values

KINDS = "a path, a numpy array, a torch tensor, a MetaTensor or an image of nibabel, SimpleITK or ITK"
Back = Callable[[Image], Any]
"""Turns an image into the kind that another one came as."""


def as_image(
    source: Any,
    spacing: float | Sequence[float] | None = None,
    name: str = "image",
    labels: bool = False,
    channels: bool = False,
) -> tuple[Image, Back]:
    """The image, and what turns images of any grid into what it came as; paths come back as `Image`.

    Args:
        spacing: of an array or tensor, one length for all axes or one each; without, its world is voxels.
        name: what messages call it.
        labels: whether it is a label map: whole numbers.
        channels: whether it has several channels.
    """
    if spacing is not None and not is_array(source):
        raise ValueError(
            f"spacing must only be given with arrays and tensors; {name} is {type(source).__name__}, got {spacing}."
        )
    if isinstance(source, Image):
        return source, lambda image: image
    if isinstance(source, (str, Path)):
        return read_image(source, labels=labels, channels=channels), lambda image: image
    if isinstance(source, np.ndarray):
        return _from_array(source, spacing, name, labels, channels)
    if isinstance(source, Tensor):
        return _from_tensor(source, spacing, name, labels, channels)
    module = type(source).__module__.partition(".")[0]
    if module == "nibabel":
        return _from_nibabel(source, name, labels, channels)
    if module == "SimpleITK":
        return _from_simpleitk(source, name, labels, channels)
    if module == "itk":
        return _from_itk(source, name, labels, channels)
    raise ValueError(f"{name} must be {KINDS}, got {type(source).__name__}.")


def as_image_of(
    source: Any,
    other: Image,
    spacing: float | Sequence[float] | None = None,
    name: str = "image",
    labels: bool = False,
    channels: bool = False,
) -> tuple[Image, Back]:
    """As `as_image`, for what belongs to another image: an array without a spacing lies on that one's grid if it has
    its shape, and has its spacing otherwise, if that is an array too."""
    if not is_array(source) or spacing is not None:
        return as_image(source, spacing, name, labels, channels)
    shape = tuple(source.shape)
    if other.header.shape in (() if channels else shape, shape[1:] if channels or shape[:1] == (1,) else None):
        image, back = as_image(source, None, name, labels, channels)
        header = replace(other.header, path=image.header.path, dtype=image.header.dtype)
        return Image(image.array.reshape(-1, *other.grid.shape), other.grid, header), back
    if not other.header.indexed:
        raise ValueError(
            f"{name} must have the shape of {other.header.path}, {other.header.shape}, or come with a spacing, got "
            f"{shape}."
        )
    return as_image(source, other.grid.spacing, name, labels, channels)


def is_array(source: Any) -> bool:
    """Whether an image is numbers alone, without a place in the world."""
    return isinstance(source, np.ndarray) or (isinstance(source, Tensor) and not hasattr(source, "affine"))


def _image(
    values: np.ndarray, affine: np.ndarray, name: str, labels: bool, pixels: bool = False, indexed: bool = False
) -> Image:
    """Of values (channels, *spatial)."""
    if values.ndim not in (3, 4) or 0 in values.shape:
        raise ValueError(f"{name} must have 2 or 3 spatial axes, got shape {values.shape[1:]}.")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold one real number per voxel, got {values.dtype}.")
    array = torch.from_numpy(np.ascontiguousarray(values).astype(np.int64 if labels else np.float32))
    if labels and values.dtype.kind == "f" and not (array.numpy() == values).all():
        raise ValueError(f"{name} must be a label map of whole numbers, got fractions.")
    dtype = values.dtype if values.dtype.kind != "b" else np.dtype(np.uint8)
    grid, header = Header(Path(name), values.shape[1:], affine, dtype, pixels, indexed=indexed).place()
    return Image(array.reshape(-1, *grid.shape), grid, header)


def _values(image: Image, dtype: np.dtype) -> np.ndarray:
    """(channels, *spatial) in the shape of the file or array that the image's header describes."""
    array = image.array.reshape(-1, *image.header.shape)
    return array.numpy() > 0.5 if dtype.kind == "b" else to_dtype(array, dtype)


def _from_array(
    source: np.ndarray, spacing: float | Sequence[float] | None, name: str, labels: bool, channels: bool
) -> tuple[Image, Back]:
    lead = source.shape[:1] if channels else (1,) if source.ndim > 2 and source.shape[0] == 1 else ()
    values = source if lead else source[None]
    if values.ndim not in (3, 4):
        raise ValueError(f"{name} must have 2 or 3 spatial axes, got shape {source.shape}.")
    sides = check_spacing("spacing", 1.0 if spacing is None else spacing, values.ndim - 1)
    image = _image(values, np.diag([*sides, 1.0]), name, labels, pixels=spacing is None, indexed=True)
    return image, lambda image: _values(image, source.dtype).reshape(lead + image.header.shape)


def _from_tensor(
    source: Tensor, spacing: float | Sequence[float] | None, name: str, labels: bool, channels: bool
) -> tuple[Image, Back]:
    from monai.data import MetaTensor

    plain = source.detach().cpu().as_subclass(Tensor)
    values = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    if not isinstance(source, MetaTensor):
        image, back = _from_array(values, spacing, name, labels, channels)
        return image, lambda image: torch.from_numpy(back(image)).to(source.device, source.dtype)
    if values.ndim not in (3, 4) or (values.shape[0] != 1 and not channels):
        raise ValueError(f"{name} must be (1, *spatial), got {values.shape}.")
    dims = values.ndim - 1
    kept = np.ix_([*range(dims), -1], [*range(dims), -1])

    def back_meta(image: Image) -> MetaTensor:
        array = torch.from_numpy(_values(image, values.dtype)).to(source.device, source.dtype)
        full = np.eye(source.affine.shape[0])
        full[kept] = image.header.affine
        meta = {key: value for key, value in source.meta.items() if key not in ("affine", "spatial_shape")}
        return MetaTensor(array, affine=torch.from_numpy(full), meta=meta)

    return _image(values, source.affine.detach().cpu().numpy()[kept], name, labels), back_meta


def _from_nibabel(source: Any, name: str, labels: bool, channels: bool) -> tuple[Image, Back]:
    values = np.asanyarray(source.dataobj)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if channels and values.ndim > 3:
        others = [axis for axis in range(3, values.ndim) if values.shape[axis] > 1]
        parts = np.moveaxis(values, others[0], 0) if len(others) == 1 else values[None]
        parts = parts.reshape(parts.shape[:4]) if len(others) == 1 else parts
    else:
        parts = values[None]
    if parts.ndim not in (3, 4):
        raise ValueError(f"{name} must have 2 or 3 spatial axes, got shape {values.shape}.")
    kept = np.ix_([*range(parts.ndim - 1), 3], [*range(parts.ndim - 1), 3])

    def back(image: Image) -> Any:
        full, dims = np.eye(4), len(image.header.shape)
        full[np.ix_([*range(dims), 3], [*range(dims), 3])] = image.header.affine
        found = _values(image, values.dtype)
        return type(source)(vector_values(found, image.header.shape) if len(found) > 1 else found[0], full)

    return _image(parts, np.asarray(source.affine, dtype=np.float64)[kept], name, labels), back


def _from_simpleitk(source: Any, name: str, labels: bool, channels: bool) -> tuple[Image, Back]:
    import SimpleITK

    several = source.GetNumberOfComponentsPerPixel() > 1
    if several and not channels:
        raise ValueError(f"{name} must hold one real number per voxel, got {source.GetPixelIDTypeAsString()}.")
    values = SimpleITK.GetArrayFromImage(source).T
    dims = source.GetDimension()
    affine = from_lps(np.array(source.GetDirection()).reshape(dims, dims), source.GetSpacing(), source.GetOrigin())

    def back(image: Image) -> Any:
        found = _values(image, values.dtype).T
        result = SimpleITK.GetImageFromArray(np.ascontiguousarray(found if several else found[..., 0]), several)
        direction, spacing, origin = to_lps(image.header.affine)
        result.SetDirection(direction.ravel().tolist())
        result.SetSpacing(spacing.tolist())
        result.SetOrigin(origin.tolist())
        return result

    return _image(values if several else values[None], affine, name, labels), back


def _from_itk(source: Any, name: str, labels: bool, channels: bool) -> tuple[Image, Back]:
    import itk

    values = itk.array_from_image(source).T
    several = values.ndim != source.GetImageDimension()
    if several and not channels:
        raise ValueError(f"{name} must hold one real number per voxel, got {values.shape[0]} values.")
    direction = itk.array_from_matrix(source.GetDirection())
    affine = from_lps(direction, list(source.GetSpacing()), list(source.GetOrigin()))

    def back(image: Image) -> Any:
        found = _values(image, values.dtype).T
        result = itk.image_from_array(np.ascontiguousarray(found if several else found[..., 0]), is_vector=several)
        direction, spacing, origin = to_lps(image.header.affine)
        result.SetDirection(itk.matrix_from_array(direction))
        result.SetSpacing(spacing.tolist())
        result.SetOrigin(origin.tolist())
        return result

    return _image(values if several else values[None], affine, name, labels), back
