"""A transform as programs use it: applied to images, label maps and points of any kind, inverted, saved.

Convention: it takes points of the fixed space to the moving space; images, labels and points of the moving space go to
the fixed space, where the warped image shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from warpzoo.checks import check_finite
from warpzoo.geometry.transforms import Transform
from warpzoo.images.conversion import as_image, as_image_of, is_array
from warpzoo.images.image import Header, Image, flip_lps
from warpzoo.images.resampling import Resampling
from warpzoo.transforms import read_points, read_transforms, write_transform


class PlacedTransform:
    """A transform with the images that it lies between.

    Args:
        transform: of points of the fixed world, RAS millimetres.
        fixed: on whose grid images are resampled, unless a reference is given; needed for `save`.
        moving: likewise for the inverse; arrays that are warped with it have its grid or spacing.

    Example:
        >>> transform = warpzoo.register("fixed.nii.gz", "moving.nii.gz").transform
        >>> on_fixed = transform.apply(labels="moving_labels.nii.gz")
        >>> transform.inverse.apply("fixed.nii.gz").save("fixed_on_moving.nii.gz")
    """

    def __init__(self, transform: Transform, fixed: Image | None = None, moving: Image | None = None) -> None:
        self.transform = transform
        self.fixed = fixed
        self.moving = moving

    def __repr__(self) -> str:
        return f"{type(self.transform).__name__} on {self.transform.grid}"

    def apply(
        self,
        image: Any = None,
        *,
        labels: Any = None,
        points: Any = None,
        reference: Any = None,
        spacing: float | Sequence[float] | None = None,
        channels: bool = False,
        interpolation: str = "linear",
        outside: float | None = None,
    ) -> Any:
        """An image, a label map (nearest-neighbour interpolation) or points of the moving space in the fixed space.

        Args:
            image: a path, array, tensor or image; the result comes back as the same.
            labels: likewise.
            points: (count, dims), an array or tensor, or a file of landmarks, whose points come as an array. In RAS
                millimetres; index · spacing for arrays; pixels for files that have no spacing.
            reference: the image on whose grid the result lies; default: the fixed image.
            spacing: of an array; default: that of the moving image.
            channels: whether an image has several; arrays and tensors are then (channels, *spatial).
            interpolation: of an image: linear, cubic (B-spline) or nearest.
            outside: the value outside the moving image; default: its least value, 0 for label maps.
        """
        data = {"image": image, "labels": labels, "points": points}
        given = [name for name, value in data.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"one of image, labels and points must be given, got {', '.join(given) or 'none'}.")
        if points is not None:
            return self._points(points)
        name, flat = given[0], labels is not None
        target = self.fixed if reference is None else as_image(reference, name="reference")[0]
        if target is None:
            raise ValueError("reference must be given where the fixed image is not known.")
        if self.moving is None:
            source, back = as_image(data[name], spacing, name, flat, channels)
        else:
            source, back = as_image_of(data[name], self.moving, spacing, name, flat, channels)
        for what, one in (("reference", target), (name, source)):
            if one.grid.dims != self.transform.grid.dims:
                raise ValueError(f"{what} must be {self.transform.grid.dims}-D, got {one.grid.dims}-D.")
        return back(Resampling(interpolation, outside)(source, self.transform, target))

    @property
    def inverse(self) -> PlacedTransform:
        """From the moving to the fixed space: exact for matrices, to the accuracy of the integration for velocities, by
        search for others."""
        return PlacedTransform(self.transform.inverse(), self.moving, self.fixed)

    def displacement(self) -> np.ndarray:
        """At every voxel of the fixed image, (dims, *spatial), in voxels."""
        grid = self.transform.grid if self.fixed is None else self.fixed.grid
        return np.asarray(self.transform.field(grid)[0].detach().numpy())

    def save(self, path: str | Path) -> Path:
        """An ITK file of the transform's own kind (.tfm, .txt, .h5), or its displacement field (.nii.gz)."""
        if self.fixed is None or self.moving is None:
            grid = self.transform.grid
            header = Header(Path("transform"), grid.shape, grid.affine, np.dtype(np.float32))
            image = Image(torch.zeros(1, *grid.shape), grid, header)
            return write_transform(path, self.transform, self.fixed or image, self.moving or image)
        return write_transform(path, self.transform, self.fixed, self.moving)

    def _points(self, points: Any) -> Any:
        if isinstance(points, (str, Path)):
            points = read_points(points).points.numpy()
        dims = self.transform.grid.dims
        places = as_points("points", points, dims)
        there, here = (_to_ras(image, dims) for image in (self.moving, self.fixed))
        moved = self.transform.inverse().world(places * there)[0].detach() * here
        return moved if isinstance(points, torch.Tensor) else moved.numpy()


def as_points(name: str, points: Any, dims: int) -> torch.Tensor:
    """Points (count, dims) as a float64 tensor."""
    try:
        places = torch.as_tensor(np.ascontiguousarray(points, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be (count, {dims}) numbers, got {type(points).__name__}: {error}.") from error
    if places.dim() != 2 or places.shape[1] != dims:
        raise ValueError(f"{name} must be (count, {dims}), got {tuple(places.shape)}.")
    check_finite(name, places)
    return places


def _to_ras(image: Image | None, dims: int) -> torch.Tensor:
    """The signs between the points of an image, as users give them, and its world."""
    if image is not None and image.header.pixels and not image.header.indexed:
        return torch.from_numpy(np.diag(flip_lps(dims))[:dims].copy())
    return torch.ones(dims, dtype=torch.float64)


def read_transform(
    path: str | Path, fixed: Any = None, moving: Any = None, spacing: float | Sequence[float] | None = None
) -> PlacedTransform:
    """An ITK transform or displacement field, as warpzoo, ANTs, SimpleITK, elastix or Slicer write it.

    Args:
        path: the file, or several joined by commas, in the order in which points of the fixed image go through them.
        fixed: the fixed image, on whose grid images are resampled; may be given to `apply` instead.
        moving: the moving image, likewise for the inverse.
        spacing: of these images, if they are arrays.
    """
    images = {
        name: None if image is None else as_image(image, spacing if is_array(image) else None, name)[0]
        for name, image in (("fixed", fixed), ("moving", moving))
    }
    return PlacedTransform(read_transforms(path), images["fixed"], images["moving"])
