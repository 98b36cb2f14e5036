"""Registration by elastix as the DIRNet paper ran it: cubic B-spline, grid spacing 16, normalised cross-correlation,
two resolutions of 100 iterations each."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor

PACKAGE = "itk-elastix"
SETTINGS = {
    "Registration": "MultiResolutionRegistration",
    "Metric": "AdvancedNormalizedCorrelation",
    "FinalGridSpacingInPhysicalUnits": "16",
    "MaximumNumberOfIterations": "100",
    "AutomaticTransformInitialization": "false",
    "RandomSeed": "121212",
    "WriteResultImage": "false",  # it is warped by the displacement, as by any other method's
}
RESOLUTIONS = 2


def displacement(fixed: Tensor, moving: Tensor) -> Tensor:
    """elastix' displacement (1, dims, *spatial) in voxels, on one thread, of two images (*spatial)."""
    import itk

    one, other = (itk.image_from_array(image.contiguous().numpy()) for image in (fixed, moving))
    _, transform = itk.elastix_registration_method(
        one, other, parameter_object=parameters(itk), number_of_threads=1, log_to_console=False
    )
    with tempfile.TemporaryDirectory() as folder:  # transformix leaves a copy of the field there
        field = itk.transformix_deformation_field(other, transform, output_directory=folder, log_to_console=False)
        vectors = torch.as_tensor(itk.array_from_image(field))  # (*spatial, dims), of the last axis first
    return vectors.flip(-1).movedim(-1, 0)[None].float()


def parameters(itk: Any) -> Any:
    settings = itk.ParameterObject.New()
    values = settings.GetDefaultParameterMap("bspline", RESOLUTIONS)
    for name, value in SETTINGS.items():
        values[name] = [value]
    values["GridSpacingSchedule"] = ["1"] * RESOLUTIONS
    settings.AddParameterMap(values)
    return settings
