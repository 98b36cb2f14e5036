"""`warpzoo.register`: images as programs hold them in, and the result as what went in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warpzoo.checks import check_truth
from warpzoo.errors import Finding
from warpzoo.geometry.transforms import Transform
from warpzoo.images.conversion import as_image, as_image_of, is_array
from warpzoo.images.image import Image, flip_lps
from warpzoo.images.resampling import Resampling
from warpzoo.registration.both_ways import BothWays, register_both_ways
from warpzoo.registration.budget import time_limit
from warpzoo.registration.computing import computing
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.methods import find_methods, is_usual
from warpzoo.registration.pair import Companions, Registration, register_pair
from warpzoo.transforms import Landmarks, read_points, read_start
from warpzoo.transforms.placed import PlacedTransform, as_points


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

    @property
    def disagreement(self) -> Tensor:
        """How far each voxel of the fixed image is from itself after going there and back, (*shape) in its unit, NaN
        where that leads out of the moving image; of a pair that was registered both ways."""
        if not isinstance(self.registration, BothWays):
            raise ValueError("both_ways must be given to register for the disagreement of both ways.")
        return self.registration.disagreement

    def report(self, path: str | Path) -> Path:
        """Writes a page with pictures and numbers to an .html file, or report.html and report.png into a folder."""
        return self.registration.report(path)

    def save(
        self, folder: str | Path, report: bool = True, inverse: bool = False, only: str | Sequence[str] | None = None
    ) -> Path:
        """Writes into a folder what the command writes, `only` some of it ("warped,transform"), and the inverse."""
        return self.registration.save(folder, report, inverse, only)


def register(
    fixed: Any = None,
    moving: Any = None,
    method: str | None = None,
    *,
    spacing: float | Sequence[float] | None = None,
    moving_spacing: float | Sequence[float] | None = None,
    start: PlacedTransform | str | Path | Sequence[str | Path] | None = None,
    fixed_labels: Any = None,
    moving_labels: Any = None,
    fixed_points: Any = None,
    moving_points: Any = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    channels: bool = False,
    landmarks_weight: float = 0.0,
    similarity: str | None = None,
    refine: str | float = 0,
    adapt: str | float = 0,
    budget: str | float | None = None,
    weights: str | None = None,
    variant: str | None = None,
    quality: str | None = None,
    device: str | None = None,
    resolution: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    interpolation: str = "linear",
    outside: float | None = None,
    strict: bool = False,
    safe: bool = False,
    both_ways: bool = False,
) -> Result:
    """Registers the moving image to the fixed one.

    Images are paths, numpy arrays, torch tensors, MetaTensors, or images of nibabel, SimpleITK and ITK; they may differ
    in grid, spacing, orientation and data type. Ctrl-C ends the optimisation at hand and keeps its best.

    Args:
        fixed: the reference image. Without fixed and moving, the label maps are registered, or else the masks.
        moving: the image that is to be warped.
        method: a method, a bundle's name or folder, or a chain of them joined by commas, as for the command; default:
            the network of the weights, or what suits any two images, see quality.
        spacing: of arrays and tensors, one length for all axes or one each; default: their world is voxels.
        moving_spacing: of the moving array; default: `spacing`.
        start: a transform to start from, or files of some, in a list or joined by commas.
        fixed_labels: label map on the fixed grid, for Dice.
        moving_labels: label map of the moving image.
        fixed_points: landmarks, (count, dims) as `PlacedTransform.apply` takes them or a file, in the order of
            moving_points.
        moving_points: landmarks of the moving image.
        fixed_mask: above 0 where the fixed image is to be compared, in every similarity, refinement and adaptation; the
            metrics are given inside and outside.
        moving_mask: likewise of the moving image.
        channels: whether the images have several channels, whose similarities are averaged; arrays and tensors are then
            (channels, *spatial).
        landmarks_weight: of the landmarks' mean squared distance, in voxels of the fixed image, beside the similarity
            (some 0 to 1): above 0, they drive rigid, affine, ffd, svf and refinement.
        similarity: what rigid, affine, ffd, svf and refinement maximise: ncc, lncc, mse, mi or mind.
        refine: iterations, or seconds such as "10s", of optimisation after the last network's pass.
        adapt: iterations or seconds of training the last network on this pair before its pass.
        budget: seconds after which no further method begins and what optimises ends with its best.
        weights: file of weights for the last network; with quality, for that between affine and svf.
        variant: of the last network's configuration.
        quality: without a method, "fast", "usual" (the default) or "best", see `warpzoo.registration.usual`.
        device: such as "cuda:1"; default: the GPU if there is one.
        resolution: of the finest level of ffd, svf and refinement, in the fixed image's unit; default: its own, or
            coarser if it has more than 8 million voxels. More than those that it asks for are compared by ffd and svf
            in tiles. result.registration.resolution says what it was.
        seed: of what is random.
        threads: of PyTorch; default: as many as it uses already.
        interpolation: of the warped image: linear, cubic or nearest.
        outside: its value beyond the moving image's edge; default: the moving image's least value.
        strict: whether warnings about what is likely to fail are errors.
        safe: whether, if the images are less alike after the registration than before, the start or what affine finds
            is taken instead; without, that is a warning.
        both_ways: whether the pair is registered the other way round as well, for result.disagreement.

    Example:
        >>> result = warpzoo.register(fixed, moving, method="affine,svf")
        >>> result.warped, result.metrics["ncc"], result.transform.apply(labels=moving_labels)
    """
    resampling = Resampling(interpolation, outside)
    methods = find_methods(method, similarity, refine, adapt, weights, variant, device, resolution, quality)
    alone = ""
    if fixed is None and moving is None:
        alone = "labels" if fixed_labels is not None and moving_labels is not None else "mask"
        fixed, moving = (fixed_labels, moving_labels) if alone == "labels" else (fixed_mask, moving_mask)
    if fixed is None or moving is None:
        raise ValueError("fixed and moving must be given, or both label maps or masks, got one of them at most.")
    if spacing is not None and not is_array(fixed) and not is_array(moving):
        raise ValueError(f"spacing must only be given with arrays and tensors, got {spacing}.")
    other_spacing = spacing if moving_spacing is None and is_array(moving) else moving_spacing
    reference, _ = as_image(fixed, spacing if is_array(fixed) else None, "fixed", bool(alone), channels)
    image, back = as_image(moving, other_spacing, "moving", bool(alone), channels)
    if alone == "mask":
        reference, image = (replace(one, array=(one.array > 0).long()) for one in (reference, image))
        fixed_mask = moving_mask = None
    if reference.header.pixels and image.header.pixels and reference.header.indexed != image.header.indexed:
        raise ValueError("fixed and moving must both be arrays or both be files where they have no spacing.")
    sides = {"fixed": (reference, fixed_labels, fixed_points), "moving": (image, moving_labels, moving_points)}
    for index, what in ((1, "labels"), (2, "points")):
        if sides["fixed"][index] is not None and sides["moving"][index] is None:
            raise ValueError(f"moving_{what} must be given with fixed_{what}, which they are compared with.")
    companions = Companions(
        labels={"fixed": reference, "moving": image}
        if alone
        else {
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
    guidance = Guidance(
        {
            side: as_image_of(mask, sides[side][0], None, f"{side}_mask")[0]
            for side, mask in (("fixed", fixed_mask), ("moving", moving_mask))
            if mask is not None
        },
        companions.points,
        landmarks_weight,
    )
    known = known_start(start, reference, image)
    with computing(seed, threads):
        registration = (register_both_ways if check_truth("both_ways", both_ways) else register_pair)(
            reference,
            image,
            methods,
            known,
            companions=companions,
            guidance=guidance,
            resampling=resampling,
            strict=strict,
            safe=safe,
            gaining=is_usual(method, weights, quality),
            budget=time_limit(budget),
        )
    return Result(registration, PlacedTransform(registration.transform, reference, image), back)


def known_start(start: Any, fixed: Image, moving: Image) -> Transform | None:
    if start is None:
        return None
    if isinstance(start, (str, Path, list, tuple)):
        return read_start(start, fixed, moving)
    if not isinstance(start, PlacedTransform):
        raise ValueError(f"start must be a transform of warpzoo or files, got {type(start).__name__}.")
    return start.transform


def _landmarks(name: str, source: Any, image: Image) -> Landmarks:
    if isinstance(source, (str, Path)):
        return read_points(source, image.header)
    points = as_points(name, source, image.grid.dims)
    if image.header.pixels and not image.header.indexed:
        points = points * torch.from_numpy(np.diag(flip_lps(image.grid.dims))[: image.grid.dims].copy())
    return Landmarks(points, tuple({} for _ in points))
