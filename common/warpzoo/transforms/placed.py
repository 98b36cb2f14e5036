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

from warpzoo.checks import check_points
from warpzoo.geometry.composition import composed
from warpzoo.geometry.transforms import Transform, resample
from warpzoo.images.conversion import as_image
from warpzoo.images.image import Header, Image, flip_lps
from warpzoo.transforms import read_transform as read_geometry
from warpzoo.transforms import write_transform


class PlacedTransform:
    """A transform with the images that it lies between.

    Args:
        transform: of points of the fixed world, RAS millimetres.
        fixed: on whose grid images are resampled, unless a reference is given; needed for `save`.
        moving: likewise for the inverse.
        indexed: whether points are given as index · spacing, as for arrays, instead of in RAS millimetres.

    Example:
        >>> transform = warpzoo.register("fixed.nii.gz", "moving.nii.gz").transform
        >>> on_fixed = transform.apply(labels="moving_labels.nii.gz")
        >>> transform.inverse.apply("fixed.nii.gz").save("fixed_on_moving.nii.gz")
    """

    def __init__(
        self, transform: Transform, fixed: Image | None = None, moving: Image | None = None, indexed: bool = False
    ) -> None:
        self.transform = transform
        self.fixed = fixed
        self.moving = moving
        self.indexed = indexed

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
        outside: float = 0.0,
    ) -> Any:
        """An image, a label map (nearest-neighbour interpolation) or points of the moving space in the fixed space.

        Args:
            image: a path, array, tensor or image; the result comes back as the same.
            labels: likewise.
            points: (count, dims), an array or tensor, in RAS millimetres; for arrays and tensors as images, index ·
                spacing.
            reference: the image on whose grid the result lies; default: the fixed image.
            spacing: of an array; default: 1.
            outside: the value where the moving image has none.
        """
        given = [
            name for name, value in (("image", image), ("labels", labels), ("points", points)) if value is not None
        ]
        if len(given) != 1:
            raise ValueError(f"one of image, labels and points must be given, got {', '.join(given) or 'none'}.")
        if points is not None:
            return self._points(points)
        target = self.fixed if reference is None else as_image(reference, name="reference")[0]
        if target is None:
            raise ValueError("reference must be given: this transform knows no fixed image.")
        source, back = as_image(image if labels is None else labels, spacing, given[0], labels is not None)
        for what, one in (("reference", target), (given[0], source)):
            if one.grid.dims != self.transform.grid.dims:
                raise ValueError(f"{what} must be {self.transform.grid.dims}-D, got {one.grid.dims}-D.")
        with torch.no_grad():
            mode = "linear" if labels is None else "nearest"
            array = resample(source.array[None], source.grid, self.transform, target.grid, mode=mode, value=outside)
        return back(source.on(target, array[0]))

    @property
    def inverse(self) -> PlacedTransform:
        """From the moving to the fixed space: exact for matrices and velocities, by search for others."""
        return PlacedTransform(self.transform.inverse(), self.moving, self.fixed, self.indexed)

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
        places = torch.as_tensor(np.asarray(points), dtype=torch.float64)
        dims = self.transform.grid.dims
        check_points("points", places, dims)
        turn = torch.from_numpy(np.diag(flip_lps(dims))[:dims].copy()) if self.indexed else torch.ones(dims)
        moved = self.transform.inverse().world(places * turn)[0].detach() * turn
        return moved if isinstance(points, torch.Tensor) else moved.numpy()


def read_transform(path: str | Path, fixed: Any = None, moving: Any = None) -> PlacedTransform:
    """An ITK transform or displacement field, as warpzoo, ANTs, SimpleITK, elastix or Slicer write it.

    Args:
        path: the file, or several joined by commas, in the order in which points of the fixed image go through them.
        fixed: the fixed image, on whose grid images are resampled; may be given to `apply` instead.
        moving: the moving image, likewise for the inverse.
    """
    parts = [read_geometry(name) for name in str(path).split(",")]
    return PlacedTransform(
        composed(*parts),
        None if fixed is None else as_image(fixed, name="fixed")[0],
        None if moving is None else as_image(moving, name="moving")[0],
    )
