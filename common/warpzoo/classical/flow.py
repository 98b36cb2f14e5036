"""Moments, ECC and optical flow: of one frame by OpenCV's dense inverse search, or of a frame and its neighbours.

Convention: as in `placing`. OpenCV's points are (column, row): its matrices are exchanged on their way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from warpzoo.classical.moments import from_moments
from warpzoo.classical.placing import after, arrays_of, as_bytes, by_displacement, moved_by, package, smooth, swapped
from warpzoo.geometry.transforms import Transform
from warpzoo.images.image import Image

STEPS, CLOSE = 100, 1e-5
"""Of ECC: at most, and the change of the correlation that is none."""


def affine_of(method: str, one: np.ndarray, other: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """ECC from the moments of both, or from what is known; the start if it does not converge."""
    cv2 = package(method, "cv2")
    begun = from_moments(one, other) if known is None else known
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, STEPS, CLOSE)
    try:
        matrix = swapped(begun).astype(np.float32)
        found = cv2.findTransformECC(one, other, matrix, cv2.MOTION_AFFINE, criteria, None, 5)[1]
    except cv2.error:
        return begun
    return swapped(np.asarray(found, np.float64))


@dataclass(frozen=True)
class EccFlow:
    """Moments, then ECC, then dense inverse search; `sigma` smooths the images, `stiffness` the flow, in voxels."""

    sigma: float = 2.0
    stiffness: float = 4.0
    name: str = "ecc_flow"
    linear: bool = False
    expectations: Mapping[str, Any] = field(default_factory=lambda: {"displacement": float("inf")})

    def __call__(self, fixed: Image, moving: Image, start: Transform | None, guidance: Any = None) -> Transform:
        cv2 = package(self.name, "cv2")
        one, other = (smooth(image, self.sigma) for image in arrays_of(self.name, fixed, moving, start))
        matrix = affine_of(self.name, one, other)
        aligned = moved_by(other, matrix)
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*as_bytes(one, aligned), None)
        displacement = np.moveaxis(flow, -1, 0)[::-1]
        displacement = np.stack([gaussian_filter(part, self.stiffness) for part in displacement])
        return by_displacement(after(matrix, displacement), fixed.grid, start)


@dataclass(frozen=True)
class LocalFlow:
    """An affine map by ECC, then a flow that explains the frame and its neighbours in time together: at each voxel
    the least squares of the constancy of brightness, weighted by a Gaussian in space and another in time.

    neighbours: frames beside the moving one, with how many frames they are away.
    reach: deviation in space, voxels, of the weights; time: the same in frames.
    """

    sigma: float = 2.0
    reach: float = 6.0
    time: float = 0.8
    neighbours: Sequence[tuple[int, Image]] = ()
    name: str = "local_flow"
    linear: bool = False
    expectations: Mapping[str, Any] = field(default_factory=lambda: {"displacement": float("inf")})

    LEVELS = (4, 2, 1)
    WARPS = 4

    def near(self, neighbours: Sequence[tuple[int, Image]]) -> LocalFlow:
        """The method for a frame that has these neighbours."""
        return replace(self, neighbours=neighbours)

    def __call__(self, fixed: Image, moving: Image, start: Transform | None, guidance: Any = None) -> Transform:
        one, other = (smooth(image, self.sigma) for image in arrays_of(self.name, fixed, moving, start))
        matrix = affine_of(self.name, one, other)
        aligned, weights = [moved_by(other, matrix)], [1.0]
        for away, image in self.neighbours:
            beside = smooth(arrays_of(self.name, fixed, image, start)[1], self.sigma)
            aligned.append(moved_by(beside, affine_of(self.name, one, beside, matrix)))
            weights.append(float(np.exp(-0.5 * (away / self.time) ** 2)))
        flow = self._flow(one, aligned, weights)
        return by_displacement(after(matrix, flow), fixed.grid, start)

    def _flow(self, one: np.ndarray, others: list[np.ndarray], weights: list[float]) -> np.ndarray:
        flow = np.zeros((2, *one.shape), np.float32)
        identity = np.eye(2, 3)
        standard = [(image - image.mean()) / max(float(image.std()), 1e-12) for image in (one, *others)]
        for factor in self.LEVELS:
            if min(one.shape) < 16 * factor:
                continue
            small = [zoom(gaussian_filter(image, 0.4 * factor), 1 / factor, order=1) for image in standard]
            size = small[0].shape
            scale = [new / old for new, old in zip(size, flow.shape[1:], strict=True)]
            flow = np.stack([zoom(part, scale, order=1) * ratio for part, ratio in zip(flow, scale, strict=True)])
            for _ in range(self.WARPS):
                normal, right = np.zeros((2, 2, *size)), np.zeros((2, *size))
                for image, weight in zip(small[1:], weights, strict=True):
                    warped = moved_by(image, identity, flow)
                    slopes = np.stack(np.gradient(0.5 * (warped + small[0])))
                    normal += weight * slopes[:, None] * slopes[None]
                    right += weight * slopes * (small[0] - warped)
                normal = np.stack([[gaussian_filter(part, self.reach) for part in row] for row in normal])
                right = np.stack([gaussian_filter(part, self.reach) for part in right])
                damping = 1e-3 + 0.05 * float(normal[0, 0].max())
                determinant = (normal[0, 0] + damping) * (normal[1, 1] + damping) - normal[0, 1] ** 2
                step = np.stack(
                    [
                        (normal[1, 1] + damping) * right[0] - normal[0, 1] * right[1],
                        (normal[0, 0] + damping) * right[1] - normal[0, 1] * right[0],
                    ]
                )
                flow = flow + (step / determinant).clip(-2, 2).astype(np.float32)
        return flow
