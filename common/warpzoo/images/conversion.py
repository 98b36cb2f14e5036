"""Images as programs hold them ↔ the one model: paths, numpy, torch, MONAI, nibabel, SimpleITK and ITK.

Convention: arrays and tensors are (*spatial) or, as MONAI has them, (1, *spatial); their axes are the image's axes in
that order, and their world is index · spacing. SimpleITK's and ITK's images keep their own world (LPS millimetres
there, RAS here).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.checks import check_spacing
from warpzoo.geometry.grid import Grid
from warpzoo.images.image import Header, Image, flip_lps, from_lps, read_image, to_dtype, to_lps

KINDS = "a path, a numpy array, a torch tensor, a MetaTensor or an image of nibabel, SimpleITK or ITK"
Back = Callable[[Image], Any]
"""Turns an image into the kind that another one came as."""


def as_image(
    source: Any, spacing: float | Sequence[float] | None = None, name: str = "image", labels: bool = False
) -> tuple[Image, Back]:
    """The image, and what turns images of any grid into what it came as; paths come back as `Image`.

    Args:
        spacing: of an array or tensor, one length for all axes or one each; without, its world is voxels.
        name: what messages call it.
        labels: whether it is a label map: whole numbers.
    """
    if spacing is not None and not isinstance(source, (np.ndarray, Tensor)):
        raise ValueError(f"spacing must only be given with arrays and tensors, got it with {type(source).__name__}.")
    if isinstance(source, Image):
        return source, lambda image: image
    if isinstance(source, (str, Path)):
        return read_image(source, labels=labels), lambda image: image
    if isinstance(source, Tensor):
        return _from_tensor(source, spacing, name, labels)
    if isinstance(source, np.ndarray):
        image, lead = _from_array(source, spacing, name, labels)
        return image, lambda image: to_dtype(image.array[0], source.dtype).reshape(lead + image.grid.shape)
    module = type(source).__module__.partition(".")[0]
    if module == "nibabel":
        return _from_nibabel(source, name, labels)
    if module == "SimpleITK":
        return _from_simpleitk(source, name, labels)
    if module == "itk":
        return _from_itk(source, name, labels)
    raise ValueError(f"{name} must be {KINDS}, got {type(source).__name__}.")


def _image(
    values: np.ndarray, affine: np.ndarray, name: str, labels: bool, pixels: bool = False, indexed: bool = False
) -> Image:
    dims = values.ndim
    if dims not in (2, 3) or 0 in values.shape:
        raise ValueError(f"{name} must have 2 or 3 spatial axes, got shape {values.shape}.")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, got {values.dtype}.")
    kind: type = np.int64 if labels else np.float32
    array = torch.from_numpy(np.ascontiguousarray(values).astype(kind))
    dtype = values.dtype if values.dtype.kind != "b" else np.dtype(np.uint8)
    return Image(
        array[None],
        Grid(values.shape, affine),
        Header(Path(name), values.shape, affine, dtype, pixels, indexed=indexed),
    )


def _from_array(
    values: np.ndarray, spacing: float | Sequence[float] | None, name: str, labels: bool
) -> tuple[Image, tuple[int, ...]]:
    """The image, and the leading axis that the array has beside those of space."""
    lead = (1,) if values.ndim > 2 and values.shape[0] == 1 else ()
    values = values[0] if lead else values
    if values.ndim not in (2, 3):
        raise ValueError(f"{name} must have 2 or 3 spatial axes, got shape {values.shape}.")
    sides = check_spacing("spacing", 1.0 if spacing is None else spacing, values.ndim)
    affine = flip_lps(values.ndim) @ np.diag([*sides, 1.0])
    return _image(values, affine, name, labels, pixels=spacing is None, indexed=True), lead


def _from_tensor(
    source: Tensor, spacing: float | Sequence[float] | None, name: str, labels: bool
) -> tuple[Image, Back]:
    from monai.data import MetaTensor

    values = source.detach().cpu().as_subclass(Tensor).numpy()
    if not isinstance(source, MetaTensor):
        image, lead = _from_array(values, spacing, name, labels)

        def back(image: Image) -> Tensor:
            array = torch.from_numpy(to_dtype(image.array[0], values.dtype)).to(source.device)
            return array.reshape(lead + image.grid.shape)

        return image, back
    if spacing is not None:
        raise ValueError("spacing must not be given with a MetaTensor, which has its own.")
    if values.shape[0] != 1:
        raise ValueError(f"{name} must be (1, *spatial), got {values.shape}.")
    affine, dims = source.affine.detach().cpu().numpy(), values.ndim - 1
    affine = affine[np.ix_([*range(dims), -1], [*range(dims), -1])]

    def back_meta(image: Image) -> MetaTensor:
        array = torch.from_numpy(to_dtype(image.array, values.dtype)).to(source.device)
        full = np.eye(source.affine.shape[0])
        full[np.ix_([*range(dims), -1], [*range(dims), -1])] = image.grid.affine
        meta = {key: value for key, value in source.meta.items() if key not in ("affine", "spatial_shape")}
        return MetaTensor(array, affine=torch.from_numpy(full), meta=meta)

    return _image(values[0], affine, name, labels), back_meta


def _from_nibabel(source: Any, name: str, labels: bool) -> tuple[Image, Back]:
    values = np.asanyarray(source.dataobj)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    affine, dims = np.asarray(source.affine, dtype=np.float64), values.ndim
    affine = affine[np.ix_([*range(dims), 3], [*range(dims), 3])]

    def back(image: Image) -> Any:
        full, dims = np.eye(4), image.grid.dims
        full[np.ix_([*range(dims), 3], [*range(dims), 3])] = image.grid.affine
        return type(source)(to_dtype(image.array[0], values.dtype), full)

    return _image(values, affine, name, labels), back


def _from_simpleitk(source: Any, name: str, labels: bool) -> tuple[Image, Back]:
    import SimpleITK

    values = SimpleITK.GetArrayFromImage(source).T
    dims = source.GetDimension()
    affine = from_lps(np.array(source.GetDirection()).reshape(dims, dims), source.GetSpacing(), source.GetOrigin())

    def back(image: Image) -> Any:
        result = SimpleITK.GetImageFromArray(np.ascontiguousarray(to_dtype(image.array[0], values.dtype).T))
        direction, spacing, origin = to_lps(image.grid.affine)
        result.SetDirection(direction.ravel().tolist())
        result.SetSpacing(spacing.tolist())
        result.SetOrigin(origin.tolist())
        return result

    return _image(values, affine, name, labels), back


def _from_itk(source: Any, name: str, labels: bool) -> tuple[Image, Back]:
    import itk

    values = itk.array_from_image(source).T
    direction = itk.array_from_matrix(source.GetDirection())
    affine = from_lps(direction, list(source.GetSpacing()), list(source.GetOrigin()))

    def back(image: Image) -> Any:
        result = itk.image_from_array(np.ascontiguousarray(to_dtype(image.array[0], values.dtype).T))
        direction, spacing, origin = to_lps(image.grid.affine)
        result.SetDirection(itk.matrix_from_array(direction))
        result.SetSpacing(spacing.tolist())
        result.SetOrigin(origin.tolist())
        return result

    return _image(values, affine, name, labels), back
