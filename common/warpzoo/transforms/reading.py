"""Transforms from the files of ITK, ANTs, SimpleITK, elastix and Slicer: see `warpzoo.transforms.itk`."""

from __future__ import annotations

from pathlib import Path

from warpzoo.files import FileError, reading
from warpzoo.geometry.transforms import Composition, Transform
from warpzoo.images.formats import SUFFIXES
from warpzoo.transforms.containers import HDF5, MATLAB, TEXT, read_itk_transforms
from warpzoo.transforms.displacement_images import ITK_IMAGES, read_displacement_image
from warpzoo.transforms.itk import from_itk

KINDS = "an ITK transform (.tfm, .txt, .mat, .h5) or a displacement field (.nii.gz, .mha, .nrrd)"


def read_transform(path: str | Path) -> Transform:
    """Any ITK transform or displacement field as a function on points, from the fixed to the moving space.

    Affine kinds (translation, Euler, versor, similarity, scale …) become `Affine`, B-splines `BSpline`, displacement
    fields `DisplacementField`, composites `Composition`; float64 but for dense fields.

    Example:
        >>> transform = read_transform("0GenericAffine.mat")
        >>> moved = transform.world(points)  # RAS millimetres of the fixed image → of the moving image
    """
    path = Path(path)
    name = path.name.lower()
    with reading(path, KINDS):
        if name.endswith((*SUFFIXES["nifti"], *ITK_IMAGES)):
            return read_displacement_image(path)
        if not name.endswith((*TEXT, *HDF5, *MATLAB)):
            raise FileError(f"{path} must be {KINDS}, got another suffix.")
        stored = [one for one in read_itk_transforms(path) if one.kind != "CompositeTransform"]
        for one in stored:
            if not one.is_read:
                order = f" of order {one.order}" if one.kind == "BSplineTransform" else ""
                raise FileError(
                    f"{path} holds a {one.dims}-D {one.kind}{order}, which is not read; convert it to an "
                    f"AffineTransform or a displacement field."
                )
        if not stored:
            raise FileError(f"{path} holds no transform; it must be {KINDS}.")
        parts = [from_itk(one) for one in reversed(stored)]
        return parts[0] if len(parts) == 1 else Composition(*parts)
