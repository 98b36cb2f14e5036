"""Registration by elastix as the DIRNet paper ran it: cubic B-spline, grid spacing 16, normalised cross-correlation,
two resolutions of 100 iterations each."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from torch import Tensor

from warpzoo.geometry.sampling import warp

PACKAGE = "itk-elastix"
SETTINGS = {
    "Registration": "MultiResolutionRegistration",
    "Metric": "AdvancedNormalizedCorrelation",
    "FinalGridSpacingInPhysicalUnits": "16",
    "MaximumNumberOfIterations": "100",
    "AutomaticTransformInitialization": "false",
    "RandomSeed": "121212",
}
RESOLUTIONS = 2


def register(image: Tensor) -> tuple[Tensor, float]:
    """(1, 2, *spatial), moving and fixed → [warped | displacement] as the networks give it, and the seconds of the
    registration itself, on one thread.

    The displacement is elastix', in voxels; images and labels are warped by it as by any other.
    """
    import itk

    moving, fixed = (itk.image_from_array(channel.contiguous().numpy()) for channel in image[0])
    settings = parameters(itk)
    start = time.perf_counter()
    _, transform = itk.elastix_registration_method(
        fixed, moving, parameter_object=settings, number_of_threads=1, log_to_console=False
    )
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:  # transformix leaves a copy of the field there
        field = itk.transformix_deformation_field(moving, transform, output_directory=folder, log_to_console=False)
        vectors = torch.as_tensor(itk.array_from_image(field))  # (*spatial, dims), of the last axis first
    displacement = vectors.flip(-1).movedim(-1, 0)[None].float()
    return torch.cat([warp(image[:, :1], displacement), displacement], dim=1), seconds


def parameters(itk: Any) -> Any:
    settings = itk.ParameterObject.New()
    values = settings.GetDefaultParameterMap("bspline", RESOLUTIONS)
    for name, value in SETTINGS.items():
        values[name] = [value]
    values["GridSpacingSchedule"] = ["1"] * RESOLUTIONS
    settings.AddParameterMap(values)
    return settings
