"""Classical methods for frames of a microscope, by other packages, behind the interface of every method.

Convention: a method is called as `method(fixed, moving, start, guidance)` and returns a transform from the fixed image
to the moving one; it is given the moving image as it is placed by the start. Masks and landmarks do not steer it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple


class Classical(NamedTuple):
    """Where a method is, what it does, and what it needs: a module, and the package that has it."""

    place: str
    task: str
    module: str
    package: str
    dims: str = "2-D"


CLASSICAL = {
    "stackreg": Classical("intensity:StackReg", "affine, as StackReg in Fiji", "pystackreg", "pystackreg"),
    "phase_correlation": Classical(
        "intensity:PhaseCorrelation", "translation, by phase correlation", "skimage", "scikit-image", "2/3-D"
    ),
    "ecc_flow": Classical("flow:EccFlow", "moments, ECC, then optical flow", "cv2", "opencv-python-headless"),
    "local_flow": Classical(
        "flow:LocalFlow", "affine, then optical flow over several frames", "cv2", "opencv-python-headless"
    ),
    "contour": Classical("contour:Contour", "contours, and an elastic body inside", "skimage", "scikit-image"),
    "demons": Classical("demons:Demons", "deformation, by demons", "SimpleITK", "SimpleITK", "2/3-D"),
}
"""By their names in chains of methods."""


def installed(name: str) -> bool:
    """Whether the package that a method needs is there."""
    return find_spec(CLASSICAL[name].module) is not None


def classical_method(name: str) -> Any:
    """The method of that name, which may be called if its package is installed."""
    module, _, kind = CLASSICAL[name].place.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), kind)()
