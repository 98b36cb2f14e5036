"""Classical methods for frames of a microscope, by other packages, behind the interface of every method.

Convention: a method is called as `method(fixed, moving, start, guidance)` and returns a transform from the fixed image
to the moving one; it is given the moving image as it is placed by the start. Masks and landmarks do not steer it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


class Classical(NamedTuple):
    """Where a method is, what it does, and what it needs."""

    place: str
    task: str
    package: str
    dims: str = "2-D"


CLASSICAL = {
    "stackreg": Classical("intensity:StackReg", "affine, as Fiji's StackReg (pystackreg)", "pystackreg"),
    "phase_correlation": Classical("intensity:PhaseCorrelation", "translation (scikit-image)", "scikit-image", "2/3-D"),
    "demons": Classical("demons:Demons", "deformation by Thirion's demons (SimpleITK)", "SimpleITK", "2/3-D"),
    "ecc_flow": Classical(
        "flow:EccFlow", "moments, ECC, dense inverse search flow (OpenCV)", "opencv-python-headless"
    ),
    "local_flow": Classical(
        "flow:LocalFlow", "affine, flow over several frames as of Gao and Rohr (OpenCV)", "opencv-python-headless"
    ),
    "contour": Classical("contour:Contour", "contours and an elastic body, as of Sorokin", "scikit-image"),
}
"""By their names in chains of methods."""


def classical_method(name: str) -> Any:
    """The method of that name, which may be called if its package is installed."""
    module, _, kind = CLASSICAL[name].place.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), kind)()
