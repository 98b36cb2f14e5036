"""`warpzoo.register`: images as programs hold them in, and the result as what went in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from warpzoo.errors import Finding
from warpzoo.geometry.transforms import Transform
from warpzoo.images.conversion import as_image, as_image_of, is_array
from warpzoo.images.image import Image, flip_lps
from warpzoo.registration.methods import USUAL, find_methods
from warpzoo.registration.pair import Companions, Registration, register_pair
from warpzoo.transforms.landmarks import Landmarks, read_points
from warpzoo.transforms.placed import PlacedTransform, as_points, read_transform


@dataclass(frozen=True)
class Result:
    """What `warpzoo.register` gives.

    registration: the same in the package's own terms.
    transform: to apply to other images, labels and points, to invert and to save.
    """

    registration: Registration
    transform: PlacedTransform
    _back: Callable[[Image], Any]

    @cached_property
    def warped(self) -> Any:
        """The moving image on the fixed image's grid, of the kind that the moving image came as."""
        return self._back(self.registration.warped)

    @property
    def metrics(self) -> dict[str, Any]:
        """Similarity, folding, and overlap and landmark distance where labels and landmarks were given."""
        return self.registration.metrics

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is doubtful about the pair."""
        return self.registration.findings

    @property
    def interrupted(self) -> bool:
        return self.registration.interrupted

    def report(self, path: str | Path) -> Path:
        """Writes a page with pictures and numbers to an .html file, or report.html and report.png into a folder."""
        return self.registration.report(path)

    def save(self, folder: str | Path, report: bool = True) -> Path:
        """Writes into a folder what the command writes."""
        return self.registration.save(folder, report)


def register(
    fixed: Any,
    moving: Any,
    method: str = USUAL,
    *,
    spacing: float | Sequence[float] | None = None,
    moving_spacing: float | Sequence[float] | None = None,
    start: PlacedTransform | str | Path | None = None,
    fixed_labels: Any = None,
    moving_labels: Any = None,
    fixed_points: Any = None,
    moving_points: Any = None,
    similarity: str | None = None,
    refine: str | float = 0,
    adapt: str | float = 0,
    weights: str | None = None,
    variant: str | None = None,
    device: str | None = None,
    strict: bool = False,
) -> Result:
    """Registers the moving image to the fixed one.

    Images are paths, numpy arrays, torch tensors, MetaTensors, or images of nibabel, SimpleITK and ITK; they may differ
    in grid, spacing, orientation and data type. Ctrl-C ends the optimisation at hand and keeps its best.

    Args:
        fixed: the reference image.
        moving: the image that is to be warped.
        method: a method, a bundle's name or folder, or a chain of them joined by commas, as for the command.
        spacing: of arrays and tensors, one length for all axes or one each; default: their world is voxels.
        moving_spacing: of the moving array; default: `spacing`.
        start: a transform to start from.
        fixed_labels: label map on the fixed grid, for Dice.
        moving_labels: label map of the moving image.
        fixed_points: landmarks, (count, dims) as `PlacedTransform.apply` takes them or a file, in the order of
            moving_points.
        moving_points: landmarks of the moving image.
        similarity: what rigid, affine, ffd, svf and refinement maximise: ncc, lncc, mse or mi.
        refine: iterations, or seconds such as "10s", of optimisation after the last network's pass.
        adapt: iterations or seconds of training the last network on this pair before its pass.
        weights: file of weights for the last network.
        variant: of the last network's configuration.
        device: such as "cuda:1"; default: the GPU if there is one.
        strict: whether warnings about what is likely to fail are errors.

    Example:
        >>> result = warpzoo.register(fixed, moving, method="affine,svf")
        >>> result.warped, result.metrics["ncc"], result.transform.apply(labels=moving_labels)
    """
    methods = find_methods(method, similarity, refine, adapt, weights, variant, device)
    if spacing is not None and not is_array(fixed) and not is_array(moving):
        raise ValueError(f"spacing must only be given with arrays and tensors, got {spacing}.")
    other_spacing = spacing if moving_spacing is None and is_array(moving) else moving_spacing
    reference, _ = as_image(fixed, spacing if is_array(fixed) else None, "fixed")
    image, back = as_image(moving, other_spacing, "moving")
    if reference.header.pixels and image.header.pixels and reference.header.indexed != image.header.indexed:
        raise ValueError("fixed and moving must both be arrays or both be files where they have no spacing.")
    sides = {"fixed": (reference, fixed_labels, fixed_points), "moving": (image, moving_labels, moving_points)}
    for index, what in ((1, "labels"), (2, "points")):
        if sides["fixed"][index] is not None and sides["moving"][index] is None:
            raise ValueError(f"moving_{what} must be given with fixed_{what}, which they are compared with.")
    companions = Companions(
        labels={
            side: as_image_of(labels, own, None, f"{side}_labels", labels=True)[0]
            for side, (own, labels, _) in sides.items()
            if labels is not None
        },
        points={
            side: _landmarks(f"{side}_points", points, own)
            for side, (own, _, points) in sides.items()
            if points is not None
        },
    )
    registration = register_pair(reference, image, methods, _start(start, reference), companions, strict)
    return Result(registration, PlacedTransform(registration.transform, reference, image), back)


def _start(start: Any, fixed: Image) -> Transform | None:
    if start is None:
        return None
    if isinstance(start, (str, Path)):
        start = read_transform(start)
    if not isinstance(start, PlacedTransform):
        raise ValueError(f"start must be a transform of warpzoo or a file, got {type(start).__name__}.")
    dims = start.transform.grid.dims
    if dims != fixed.grid.dims:
        raise ValueError(f"start must be {fixed.grid.dims}-D as the images are, got {dims}-D.")
    return start.transform


def _landmarks(name: str, source: Any, image: Image) -> Landmarks:
    if isinstance(source, (str, Path)):
        return read_points(source, image.header)
    points = as_points(name, source, image.grid.dims)
    if image.header.pixels and not image.header.indexed:
        points = points * torch.from_numpy(np.diag(flip_lps(image.grid.dims))[: image.grid.dims].copy())
    return Landmarks(points, tuple({} for _ in points))
