"""Affine registration by SimpleITK, ANTs and greedy, one thread each: the displacement (1, dims, *spatial) in voxels of
two images (*spatial) on one grid."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SEARCHED = 1000
SEED = 1
"""Of greedy, whose search is another one each time without it."""
SETTINGS = {
    "SimpleITK": "CenteredTransformInitializer by moments, affine, Mattes mutual information (32 bins, all voxels), "
    "regular step gradient descent (rate 1, 200 iterations at most), a quarter, half and all of the resolution, scales "
    "from physical shift",
    "ANTs": "antsRegistration, initial transform by centres of mass, affine 0.1, Mattes mutual information (32 bins, "
    "20 % of the voxels), 2100, 1200 and 200 iterations at 6, 4 and 2 times coarser voxels, as ANTsPy's `Affine`",
    "greedy": f"-a -dof 12, NCC 4×4×4, 100×50×10 iterations, from image centres with a search of {SEARCHED} random "
    "rotations of any angle and shifts of a deviation of 10 voxels",
}
PACKAGES = {"SimpleITK": "SimpleITK", "ANTs": "antspyx", "greedy": "picsl_greedy"}


def centres_of_mass(fixed: Tensor, moving: Tensor) -> Tensor:
    apart = np.subtract(*(ndimage.center_of_mass(image.numpy()) for image in (moving, fixed)))
    return torch.from_numpy(apart).float().reshape(1, -1, *[1] * fixed.dim()).expand(1, -1, *fixed.shape)


def simpleitk(fixed: Tensor, moving: Tensor) -> Tensor:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    one, other = (sitk.GetImageFromArray(image.contiguous().numpy().T) for image in (fixed, moving))
    affine = sitk.AffineTransform(fixed.dim())
    start = sitk.CenteredTransformInitializer(one, other, affine, sitk.CenteredTransformInitializerFilter.MOMENTS)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(start)
    found = method.Execute(one, other)
    return _by_points(lambda point: found.TransformPoint(point), fixed)


def ants(fixed: Tensor, moving: Tensor) -> Tensor:
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # ITK looks when it first runs
    import ants

    one, other = (ants.from_numpy(image.contiguous().numpy()) for image in (fixed, moving))
    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(one, other, "Affine", outprefix=str(Path(folder) / "ants"), random_seed=1)
        transform = ants.read_transform(found["fwdtransforms"][0])
        return _by_points(lambda point: ants.apply_ants_transform_to_point(transform, point), fixed)


def greedy(fixed: Tensor, moving: Tensor) -> Tensor:
    import SimpleITK as sitk
    from picsl_greedy import Greedy2D, Greedy3D

    dims = fixed.dim()
    one, other = (sitk.GetImageFromArray(image.contiguous().numpy().T) for image in (fixed, moving))
    tool = Greedy2D() if dims == 2 else Greedy3D()
    radius = "x".join(["4"] * dims)
    tool.execute(
        f"-d {dims} -V 0 -threads 1 -a -dof 12 -i fixed moving -m NCC {radius} -n 100x50x10 -ia-image-centers "
        f"-search {SEARCHED} any 10 -seed {SEED} -o found",
        fixed=one,
        moving=other,
        found=None,
    )
    # of RAS, whose first two axes run against those of ITK
    flip = np.diag([-1.0, -1.0] + [1.0] * (dims - 1))
    matrix = flip @ np.asarray(tool["found"]) @ flip
    return _by_points(lambda point: matrix[:-1, :-1] @ point + matrix[:-1, -1], fixed)


def _by_points(moved: Callable[[list[float]], object], fixed: Tensor) -> Tensor:
    """The displacement of an affine map, from where it takes the corners of a unit simplex."""
    dims = fixed.dim()
    corners = np.vstack([np.zeros(dims), 100 * np.eye(dims)])
    there = np.array([np.asarray(moved([float(one) for one in corner])) for corner in corners])
    linear = torch.from_numpy((there[1:] - there[:1]).T / 100)
    voxels = torch.stack(torch.meshgrid(*[torch.arange(size).double() for size in fixed.shape], indexing="ij"))
    points = torch.einsum("ij,j...->i...", linear, voxels) + torch.from_numpy(there[0]).view(-1, *[1] * dims)
    return (points - voxels)[None].float()


PEERS = {"SimpleITK": simpleitk, "ANTs": ants, "greedy": greedy}
