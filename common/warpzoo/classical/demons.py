"""Thirion's demons, in SimpleITK's fast symmetric form, from coarse to fine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from warpzoo.classical.placing import arrays_of, by_displacement, package, smooth
from warpzoo.geometry.transforms import Transform
from warpzoo.images.image import Image

LEVELS = {4: 60, 2: 40, 1: 15}
"""How many voxels become one, and the iterations."""


@dataclass(frozen=True)
class Demons:
    """`sigma` smooths the images, `stiffness` the displacement, both in voxels."""

    sigma: float = 1.5
    stiffness: float = 2.5
    name: str = "demons"
    linear: bool = False
    expectations: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, fixed: Image, moving: Image, start: Transform | None, guidance: Any = None) -> Transform:
        sitk = package(self.name, "SimpleITK")
        images = [
            sitk.GetImageFromArray(np.ascontiguousarray(smooth(image, self.sigma)))
            for image in arrays_of(self.name, fixed, moving, start)
        ]
        images[1] = sitk.HistogramMatching(images[1], images[0], 256, 15, True)
        found = None
        for factor, iterations in LEVELS.items():
            smaller = [self._shrunk(sitk, image, factor) for image in images]
            demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
            demons.SetNumberOfIterations(iterations)
            demons.SetSmoothDisplacementField(True)
            demons.SetStandardDeviations(self.stiffness * factor)
            if found is None:
                found = demons.Execute(*smaller)
            else:
                found = demons.Execute(*smaller, sitk.Resample(found, smaller[0]))
        # ITK's components are x first, the last axis of the array
        values = np.moveaxis(sitk.GetArrayFromImage(found), -1, 0)[::-1]
        return by_displacement(values, fixed.grid, start)

    @staticmethod
    def _shrunk(sitk: Any, image: Any, factor: int) -> Any:
        steps = [min(factor, max(1, size // 16)) for size in image.GetSize()]
        return sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, 0.5 * factor), steps) if factor > 1 else image
