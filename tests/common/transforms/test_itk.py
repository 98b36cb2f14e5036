"""Transform files, with SimpleITK as the judge: it applies those we write, and we read those it writes."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from warpzoo.files import FileError
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.inversion import inverted
from warpzoo.geometry.transforms import Affine, Composition, DisplacementField, Transform, resample
from warpzoo.images.image import Image, flip_lps, read_image, write_image
from warpzoo.transforms.itk import read_transform, write_affine, write_transforms

SHAPES = {2: ((30, 23), (26, 33)), 3: ((20, 17, 14), (18, 21, 16))}


def oblique(dims: int, seed: int) -> np.ndarray:
    """Voxel → RAS: oblique, anisotropic, possibly mirrored, with an origin far from zero."""
    generator = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.eye(dims) + 0.25 * generator.standard_normal((dims, dims)))
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = turn * generator.uniform(0.7, 2.0, dims)
    affine[:dims, dims] = generator.uniform(-80, 80, dims)
    return affine


def smooth_image(shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape)
    for axis in range(noise.ndim):
        for _ in range(6):
            noise = (np.roll(noise, 1, axis) + 2 * noise + np.roll(noise, -1, axis)) / 4
    noise -= noise.min()
    return (1000 * noise / noise.max()).astype(np.float32)


def as_volume(affine: np.ndarray) -> np.ndarray:
    volume = np.eye(4)
    dims = len(affine) - 1
    volume[:dims, :dims], volume[:dims, 3] = affine[:dims, :dims], affine[:dims, dims]
    return volume


def make_pair(folder: Path, dims: int) -> tuple[Image, Image]:
    """Two images on different oblique grids whose middles lie at about the same place."""
    images = []
    for name, shape, seed in zip(("fixed", "moving"), SHAPES[dims], (1, 2), strict=True):
        affine = oblique(dims, seed)
        affine[:dims, dims] = 7.0 - affine[:dims, :dims] @ (0.5 * (np.array(shape) - 1))
        path = folder / f"{name}.nii.gz"
        nifti = nibabel.Nifti1Image(smooth_image(shape, seed), as_volume(affine))
        nifti.set_qform(as_volume(affine), 1)
        nibabel.save(nifti, path)
        images.append(read_image(path))
    return images[0], images[1]


def make_transform(kind: str, grid: Grid) -> Transform:
    generator = torch.Generator().manual_seed(3)
    dims = grid.dims
    matrix = torch.eye(dims, dims + 1) + 0.08 * torch.randn(dims, dims + 1, generator=generator)
    affine = Affine(matrix[None], grid)
    coarse = 0.7 * torch.randn(1, dims, *[4] * dims, generator=generator)
    mode = "bicubic" if dims == 2 else "trilinear"
    field = torch.nn.functional.interpolate(coarse, grid.shape, mode=mode, align_corners=True)
    dense = DisplacementField(field, grid)
    return {"affine": affine, "dense": dense, "composition": Composition(affine, dense)}[kind]


def sitk_warp(transform: sitk.Transform, moving: Path, fixed: Path) -> np.ndarray:
    moving_image, fixed_image = (sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (moving, fixed))
    return sitk.GetArrayFromImage(sitk.Resample(moving_image, fixed_image, transform, sitk.sitkLinear, -1.0)).T


def disagreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, in intensity ranges, where both see the moving image."""
    seen = (ours != -1) & (theirs != -1)
    assert seen.mean() > 0.3
    assert (seen != ((ours != -1) | (theirs != -1))).mean() < 0.01
    return float(np.abs(ours - theirs)[seen].max() / 1000)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["affine", "dense", "composition"])
def test_sitk_reproduces_the_warped_image_from_every_file(dims: int, kind: str, tmp_path: Path) -> None:
    fixed, moving = make_pair(tmp_path, dims)
    transform = make_transform(kind, fixed.grid)
    warped = resample(moving.array[None], moving.grid, transform, fixed.grid, value=-1.0)[0]
    write_image(tmp_path / "warped.nii.gz", warped, fixed.header, moving.header.dtype)
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "warped.nii.gz"))).T
    file, field_file = write_transforms(tmp_path, transform, fixed, moving)
    assert file.name == ("transform.tfm" if kind == "affine" else "transform.h5")
    field = sitk.ReadImage(str(field_file), sitk.sitkVectorFloat64)
    for theirs in (sitk.ReadTransform(str(file)), sitk.DisplacementFieldTransform(field)):
        result = sitk_warp(theirs, moving.header.path, fixed.header.path)
        assert disagreement(ours, result) < 1e-3
    assert nibabel.load(field_file).header["intent_code"] == 1007


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["affine", "dense", "composition"])
def test_written_transforms_come_back(dims: int, kind: str, tmp_path: Path) -> None:
    fixed, moving = make_pair(tmp_path, dims)
    transform = make_transform(kind, fixed.grid)
    for file in write_transforms(tmp_path, transform, fixed, moving):
        assert torch.allclose(read_transform(file).field(fixed.grid).float(), transform.field(fixed.grid), atol=2e-5)


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".h5"])
@pytest.mark.parametrize("dims", [2, 3])
def test_an_affine_keeps_all_digits_in_every_kind_of_file(dims: int, suffix: str, tmp_path: Path) -> None:
    matrix = oblique(dims, 5)
    path = write_affine(tmp_path / f"a{suffix}", matrix)
    read = read_transform(path)
    assert isinstance(read, Affine)
    assert np.allclose(read.world_matrix()[0], matrix[:dims], atol=1e-12)
    point = np.arange(1.0, dims + 1)
    flip = np.diag(flip_lps(dims))[:dims]
    lps = np.array(sitk.ReadTransform(str(path)).TransformPoint(point * flip))
    assert np.allclose(lps * flip, matrix[:dims, :dims] @ point + matrix[:dims, dims], atol=1e-10)


@pytest.mark.parametrize("kind", ["affine", "dense"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_of_one_slice_get_a_transform_in_space(axis: int, kind: str, tmp_path: Path) -> None:
    images = []
    for name, seed, offset in (("fixed", 1, 4.0), ("moving", 2, -3.0)):
        shape = list(SHAPES[2][seed - 1])
        values = smooth_image(tuple(shape), seed)
        shape.insert(axis, 1)
        affine = oblique(3, 7)
        # the slices lie in one pair of parallel planes, `offset` apart, each with a grid of its own in its plane
        in_plane = [other for other in range(3) if other != axis]
        affine[:3, in_plane] *= 1 + 0.1 * seed
        affine[:3, 3] = 5.0 + offset * affine[:3, axis] - affine[:3, :3] @ (0.5 * (np.array(shape) - 1))
        nifti = nibabel.Nifti1Image(values.reshape(shape), affine)
        nifti.set_qform(affine, 1)
        nibabel.save(nifti, tmp_path / f"{name}.nii.gz")
        images.append(read_image(tmp_path / f"{name}.nii.gz"))
    fixed, moving = images
    assert fixed.grid.dims == 2
    assert np.allclose(
        fixed.grid.spacing,
        np.delete(np.linalg.norm(nibabel.load(fixed.header.path).affine[:3, :3], axis=0), axis),
        atol=1e-5,
    )
    transform = make_transform(kind, fixed.grid)
    warped = resample(moving.array[None], moving.grid, transform, fixed.grid, value=-1.0)[0]
    write_image(tmp_path / "warped.nii.gz", warped, fixed.header)
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "warped.nii.gz"))).T
    for file in write_transforms(tmp_path, transform, fixed, moving):
        theirs = (
            sitk.DisplacementFieldTransform(sitk.ReadImage(str(file), sitk.sitkVectorFloat64))
            if file.suffix == ".gz"
            else sitk.ReadTransform(str(file))
        )
        # one slice is thinner than what float32 headers are worth: repeated on both sides it is the same image
        padded = tmp_path / "padded.nii.gz"
        slab = nibabel.load(moving.header.path)
        affine = slab.affine.copy()
        affine[:3, 3] -= affine[:3, axis]
        nibabel.save(nibabel.Nifti1Image(np.repeat(slab.get_fdata(dtype=np.float32), 3, axis), affine), padded)
        assert disagreement(ours, sitk_warp(theirs, padded, fixed.header.path)) < 1e-3


def sitk_transforms(dims: int) -> dict[str, sitk.Transform]:
    """One of every kind that is read, with parameters that are none of the neutral ones."""
    generator = np.random.default_rng(11)

    def some(count: int, scale: float = 0.2) -> list[float]:
        return (scale * generator.standard_normal(count)).tolist()

    centre, shift = some(dims, 30), some(dims, 5)
    kinds: dict[str, sitk.Transform] = {
        "identity": sitk.Transform(dims, sitk.sitkIdentity),
        "translation": sitk.TranslationTransform(dims, shift),
        "scale": sitk.ScaleTransform(dims, (1 + np.array(some(dims))).tolist()),
    }
    affine = sitk.AffineTransform(
        (np.eye(dims) + np.reshape(some(dims * dims), (dims, dims))).ravel().tolist(), shift, centre
    )
    kinds["scale"].SetCenter(centre)
    kinds["affine"] = affine
    if dims == 2:
        kinds["euler"] = sitk.Euler2DTransform(centre, 0.4, shift)
        kinds["similarity"] = sitk.Similarity2DTransform(1.2, -0.3, shift, centre)
    else:
        kinds["euler"] = sitk.Euler3DTransform(centre, 0.1, -0.2, 0.3, shift)
        kinds["euler zyx"] = sitk.Euler3DTransform(centre, 0.1, -0.2, 0.3, shift)
        kinds["euler zyx"].SetComputeZYX(True)
        versor = [0.1, -0.2, 0.3, float(np.sqrt(1 - 0.14))]
        kinds["versor"] = sitk.VersorTransform(versor, centre)
        kinds["versor rigid"] = sitk.VersorRigid3DTransform(versor, shift, centre)
        kinds["similarity"] = sitk.Similarity3DTransform(1.2, versor, shift, centre)
        kinds["scale versor"] = sitk.ScaleVersor3DTransform([1.1, 0.9, 1.2], versor, shift, centre)
        kinds["scale skew versor"] = sitk.ScaleSkewVersor3DTransform([1.1, 0.9, 1.2], some(6), versor, shift, centre)
    spline = sitk.BSplineTransform(dims, 3)
    turn = oblique(dims, 13)[:dims, :dims]
    spline.SetTransformDomainDirection((turn / np.linalg.norm(turn, axis=0)).ravel().tolist())
    spline.SetTransformDomainOrigin([-40.0, -30.0, -35.0][:dims])
    spline.SetTransformDomainPhysicalDimensions([70.0, 65.0, 80.0][:dims])
    spline.SetTransformDomainMeshSize([5, 6, 4][:dims])
    spline.SetParameters(some(len(spline.GetParameters()), 3))
    kinds["bspline"] = spline
    field = sitk.GetImageFromArray(np.reshape(some(dims * 15**dims, 3), (*[15] * dims, dims)), isVector=True)
    field.SetSpacing([4.0, 5.0, 6.0][:dims])
    field.SetOrigin([-35.0, -40.0, -30.0][:dims])
    field.SetDirection((turn / np.linalg.norm(turn, axis=0)).ravel().tolist())
    kinds["field"] = sitk.DisplacementFieldTransform(field)
    kinds["composite"] = sitk.CompositeTransform([affine, kinds["field"], kinds["euler"], spline])
    return kinds


NAMES = [(dims, name) for dims in (2, 3) for name in sitk_transforms(dims)]


@pytest.mark.parametrize(("dims", "name"), NAMES)
def test_transforms_written_by_sitk_take_points_to_the_same_places(dims: int, name: str, tmp_path: Path) -> None:
    theirs = sitk_transforms(dims)[name]
    suffixes = [".h5", ".tfm"] + ([".mat"] if name in ("affine", "euler", "translation") else [])
    points = np.random.default_rng(17).uniform(-60, 60, (60, dims))
    flip = np.diag(flip_lps(dims))[:dims]
    expected = np.array([theirs.TransformPoint(point) for point in points * flip]) * flip
    for suffix in suffixes:
        path = tmp_path / f"transform{suffix}"
        sitk.WriteTransform(theirs, str(path))
        carried = read_transform(path).world(torch.from_numpy(points))[0].numpy()
        assert np.abs(carried - expected).max() < (1e-4 if name in ("field", "composite") else 1e-8)


@pytest.mark.parametrize(("dims", "suffix"), list(product([2, 3], [".nii.gz", ".mha", ".nrrd"])))
def test_displacement_fields_written_by_sitk_are_read(dims: int, suffix: str, tmp_path: Path) -> None:
    theirs = sitk.DisplacementFieldTransform(sitk_transforms(dims)["field"])
    path = tmp_path / f"field{suffix}"
    sitk.WriteImage(theirs.GetDisplacementField(), str(path))
    points = np.random.default_rng(17).uniform(-30, 30, (40, dims))
    flip = np.diag(flip_lps(dims))[:dims]
    expected = np.array([theirs.TransformPoint(point) for point in points * flip]) * flip
    assert np.abs(read_transform(path).world(torch.from_numpy(points))[0].numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("dims", [2, 3])
def test_the_inverse_takes_points_back(dims: int, tmp_path: Path) -> None:
    fixed, _ = make_pair(tmp_path, dims)
    transform = make_transform("composition", fixed.grid).double()
    inner = fixed.grid.coordinates(torch.float64)[::7] * 0.6 + 0.2 * torch.tensor(fixed.grid.shape)
    points = fixed.grid.to_world(inner)
    back = inverted(transform).world(transform.world(points)[0])[0]
    assert (back - points).abs().max() < 1e-3


def test_the_same_transform_gives_the_same_bytes(tmp_path: Path) -> None:
    fixed, moving = make_pair(tmp_path, 3)
    transform = make_transform("dense", fixed.grid)
    first = write_transforms(tmp_path / "first", transform, fixed, moving)
    second = write_transforms(tmp_path / "second", transform, fixed, moving)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_what_is_no_transform_is_said_in_one_sentence(tmp_path: Path) -> None:
    fixed, moving = make_pair(tmp_path, 3)
    file, field = write_transforms(tmp_path, make_transform("dense", fixed.grid), fixed, moving)
    for path in (file, field):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(FileError, match=f"{path.name} cannot be read"):
            read_transform(path)
    with pytest.raises(FileError, match="no displacement field"):
        read_transform(fixed.header.path)
    with pytest.raises(FileError, match="does not exist"):
        read_transform(tmp_path / "nowhere.h5")
    (tmp_path / "empty.tfm").write_text("#Insight Transform File V1.0\n")
    with pytest.raises(FileError, match="holds no transform"):
        read_transform(tmp_path / "empty.tfm")
    text = "Transform: ThinPlateSplineKernelTransform_double_3_3\nParameters: 1\nFixedParameters: 1\n"
    (tmp_path / "kernel.tfm").write_text(text)
    with pytest.raises(FileError, match="convert it"):
        read_transform(tmp_path / "kernel.tfm")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["affine", "dense"])
def test_ants_reproduces_the_warped_image(kind: str, tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    fixed, moving = make_pair(tmp_path, 3)
    transform = make_transform(kind, fixed.grid)
    ours = resample(moving.array[None], moving.grid, transform, fixed.grid, value=-1.0)[0, 0].numpy()
    fixed_image, moving_image = (ants.image_read(str(image.header.path)) for image in (fixed, moving))
    for file in write_transforms(tmp_path, transform, fixed, moving):
        theirs = ants.apply_transforms(fixed_image, moving_image, [str(file)], defaultvalue=-1).numpy()
        assert disagreement(ours, theirs) < 1e-3
