"""Registration from files to files by warpzoo and by the tools that people use instead, each by its own commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping


def by_warpzoo(*options: str) -> Callable[[str], list[list[str]]]:
    def commands(step: str) -> list[list[str]]:
        tool = [sys.executable, "-m", "warpzoo"]
        if step == "register":
            files = ["--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz", "--output", "out", "--threads", "1"]
            return [[*tool, "register", *files, *options, "--save", "warped,transform"]]
        line = [*tool, "apply", "out/transform.h5", f"{step}.nii.gz", "--reference", "fixed.nii.gz", "--outside", "0"]
        return [[*line, "--output", f"warped_{step}.nii.gz"]]

    return commands


GREEDY = "from sys import argv; from picsl_greedy import Greedy3D; Greedy3D().execute(argv[1])"


def by_greedy(similarity: str) -> Callable[[str], list[list[str]]]:
    """Affine and deformation, as its documentation has it for brains."""

    def commands(step: str) -> list[list[str]]:
        pair = f"-i fixed.nii.gz moving.nii.gz -m {similarity} -n 100x50x10"
        warps = "-r warp.nii.gz affine.mat"
        if step == "register":
            lines = [
                f"-a -dof 12 -ia-image-centers -o affine.mat {pair}",
                f"-it affine.mat -o warp.nii.gz {pair}",
                f"-rf fixed.nii.gz -rm moving.nii.gz warped.nii.gz {warps}",
            ]
        else:
            lines = [f"-rf fixed.nii.gz -rm {step}.nii.gz warped_{step}.nii.gz {warps}"]
        return [[sys.executable, "-c", GREEDY, f"-d 3 -threads 1 {line}"] for line in lines]

    return commands


ANTS = """
import ants
from sys import argv
fixed, moving = ants.image_read("fixed.nii.gz"), ants.image_read("moving.nii.gz")
found = ants.registration(fixed, moving, argv[1], outprefix="ants", random_seed=1)
ants.image_write(found["warpedmovout"], "warped.nii.gz")
"""
ANTS_APPLY = """
import ants
from sys import argv
fixed, image = ants.image_read("fixed.nii.gz"), ants.image_read(argv[1] + ".nii.gz")
warped = ants.apply_transforms(fixed, image, ["ants1Warp.nii.gz", "ants0GenericAffine.mat"])
ants.image_write(warped, f"warped_{argv[1]}.nii.gz")
"""


def by_ants(kind: str) -> Callable[[str], list[list[str]]]:
    """ANTsPy's own settings: SyN takes mutual information, SyNCC cross-correlation."""

    def commands(step: str) -> list[list[str]]:
        code, word = (ANTS, kind) if step == "register" else (ANTS_APPLY, step)
        return [[sys.executable, "-c", code, word]]

    return commands


ELASTIX = """
import itk
fixed, moving = itk.imread("fixed.nii.gz", itk.F), itk.imread("moving.nii.gz", itk.F)
settings = itk.ParameterObject.New()
for stage in ("affine", "bspline"):
    settings.AddParameterMap(settings.GetDefaultParameterMap(stage))
warped, _ = itk.elastix_registration_method(
    fixed, moving, parameter_object=settings, number_of_threads=1, log_to_console=False, output_directory=".")
itk.imwrite(warped, "warped.nii.gz")
"""
TRANSFORMIX = """
import itk
from sys import argv
settings = itk.ParameterObject.New()
settings.ReadParameterFiles(["TransformParameters.0.txt", "TransformParameters.1.txt"])
for stage in range(2):
    settings.SetParameter(stage, "FinalBSplineInterpolationOrder", "1")
itk.imwrite(itk.transformix_filter(itk.imread(argv[1] + ".nii.gz", itk.F), settings), f"warped_{argv[1]}.nii.gz")
"""


def by_elastix(step: str) -> list[list[str]]:
    """Its default affine and B-spline parameter maps."""
    if step == "register":
        return [[sys.executable, "-c", ELASTIX]]
    return [[sys.executable, "-c", TRANSFORMIX, step]]


CONVEX_ADAM = """
import numpy as np
import SimpleITK as sitk
import torch
from convexAdam.convex_adam_MIND import convex_adam_pt
torch.set_num_threads(1)
fixed, moving = (sitk.ReadImage(f"{side}.nii.gz", sitk.sitkFloat32) for side in ("fixed", "moving"))
both = [sitk.GetArrayFromImage(image) for image in (fixed, sitk.Resample(moving, fixed))]
voxels = convex_adam_pt(*both)[..., ::-1]  # of z, y, x
turn = np.array(fixed.GetDirection()).reshape(3, 3) * fixed.GetSpacing()
field = sitk.GetImageFromArray(np.ascontiguousarray(voxels.astype(np.float64) @ turn.T), isVector=True)
field.CopyInformation(fixed)
sitk.WriteImage(field, "field.nii.gz")
found = sitk.DisplacementFieldTransform(field)
sitk.WriteImage(sitk.Resample(moving, fixed, found), "warped.nii.gz")
"""
CONVEX_ADAM_APPLY = """
import SimpleITK as sitk
from sys import argv
found = sitk.DisplacementFieldTransform(sitk.ReadImage("field.nii.gz", sitk.sitkVectorFloat64))
image = sitk.ReadImage(argv[1] + ".nii.gz")
sitk.WriteImage(sitk.Resample(image, sitk.ReadImage("fixed.nii.gz"), found), f"warped_{argv[1]}.nii.gz")
"""


def by_convex_adam(step: str) -> list[list[str]]:
    """Its default settings, on the fixed grid, from where the headers place the images; it has no affine stage."""
    if step == "register":
        return [[sys.executable, "-c", CONVEX_ADAM]]
    return [[sys.executable, "-c", CONVEX_ADAM_APPLY, step]]


TOOLS: Mapping[str, Callable[[str], list[list[str]]]] = {
    "fast": by_warpzoo("--quality", "fast"),
    "usual": by_warpzoo("--quality", "usual"),
    "best": by_warpzoo("--quality", "best"),
    "affine,svf": by_warpzoo("--method", "affine,svf"),
    "affine,svf, mi": by_warpzoo("--method", "affine,svf", "--similarity", "mi"),
    "affine,ffd": by_warpzoo("--method", "affine,ffd"),
    "greedy": by_greedy("NCC 2x2x2"),
    "greedy, NMI": by_greedy("NMI"),
    "ANTs SyN": by_ants("SyN"),
    "ANTs SyNCC": by_ants("SyNCC"),
    "elastix": by_elastix,
    "convexAdam": by_convex_adam,
}
"""What each runs for `register`, and then to warp an image by what it has found."""
