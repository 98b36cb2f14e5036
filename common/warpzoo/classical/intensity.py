"""Matrices and shifts by other packages: StackReg, as biologists know it from Fiji, and phase correlation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from warpzoo.classical.placing import arrays_of, by_matrix, package, swapped
from warpzoo.geometry.transforms import Transform
from warpzoo.images.image import Image


@dataclass(frozen=True)
class StackReg:
    """Thévenaz' pyramid of least squares, affine; on the images as they are."""

    name: str = "stackreg"
    linear: bool = True
    expectations: Mapping[str, Any] = field(default_factory=lambda: {"displacement": float("inf")})

    def __call__(self, fixed: Image, moving: Image, start: Transform | None, guidance: Any = None) -> Transform:
        stackreg = package(self.name, "pystackreg").StackReg
        matrix = stackreg(stackreg.AFFINE).register(*arrays_of(self.name, fixed, moving, start))
        return by_matrix(swapped(np.asarray(matrix)[:2]), fixed.grid, start)


@dataclass(frozen=True)
class PhaseCorrelation:
    """The shift at the peak of the phase correlation, to a tenth of a voxel."""

    name: str = "phase_correlation"
    linear: bool = True
    constrained: bool = True
    expectations: Mapping[str, Any] = field(default_factory=lambda: {"displacement": float("inf")})

    def __call__(self, fixed: Image, moving: Image, start: Transform | None, guidance: Any = None) -> Transform:
        registration = package(self.name, "skimage.registration")
        images = arrays_of(self.name, fixed, moving, start)
        shift = registration.phase_cross_correlation(*images, upsample_factor=10)[0]
        return by_matrix(np.column_stack([np.eye(fixed.grid.dims), -shift]), fixed.grid, start)
