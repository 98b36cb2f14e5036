"""Transform files that we write, with SimpleITK as the judge: it applies them, and they come back as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from warpzoo.files import FileError
from warpzoo.geometry.bspline import control_shape
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, BSpline, Composition, DisplacementField, Transform, Velocity, resample
from warpzoo.images.image import Image, flip_lps, read_image, write_image
from warpzoo.transforms import read_transform, write_transform, write_transforms, write_velocity

Maker = Callable[[Path, int], tuple[Image, Image]]
Matrices = Callable[[int, int], np.ndarray]


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
def test_sitk_reproduces_the_warped_image_from_every_file(
    dims: int, kind: str, tmp_path: Path, make_pair: Maker
) -> None:
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
def test_written_transforms_come_back(dims: int, kind: str, tmp_path: Path, make_pair: Maker) -> None:
    fixed, moving = make_pair(tmp_path, dims)
    transform = make_transform(kind, fixed.grid)
    for file in write_transforms(tmp_path, transform, fixed, moving):
        assert torch.allclose(read_transform(file).field(fixed.grid).float(), transform.field(fixed.grid), atol=2e-5)


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".h5"])
@pytest.mark.parametrize("dims", [2, 3])
def test_an_affine_keeps_all_digits_in_every_kind_of_file(
    dims: int, suffix: str, tmp_path: Path, make_pair: Maker, oblique: Matrices
) -> None:
    matrix = oblique(dims, 5)
    images = make_pair(tmp_path, dims)
    transform = Affine.from_world(torch.from_numpy(matrix[None, :dims]), Grid([2] * dims))
    path = write_transform(tmp_path / f"a{suffix}", transform, *images)
    read = read_transform(path)
    assert isinstance(read, Affine)
    assert np.allclose(read.world_matrix()[0], matrix[:dims], atol=1e-12)
    point = np.arange(1.0, dims + 1)
    flip = np.diag(flip_lps(dims))[:dims]
    lps = np.array(sitk.ReadTransform(str(path)).TransformPoint(point * flip))
    assert np.allclose(lps * flip, matrix[:dims, :dims] @ point + matrix[:dims, dims], atol=1e-10)


@pytest.mark.parametrize("kind", ["affine", "dense"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_of_one_slice_get_a_transform_in_space(
    axis: int, kind: str, tmp_path: Path, oblique: Matrices, smooth_image: Callable[..., np.ndarray]
) -> None:
    images = []
    for name, seed, offset in (("fixed", 1, 4.0), ("moving", 2, -3.0)):
        shape = [(30, 23), (26, 33)][seed - 1]
        values = smooth_image(shape, seed)
        shape = [*shape[:axis], 1, *shape[axis:]]
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


def spline(grid: Grid, order: int = 3, amount: float = 1.5) -> BSpline:
    spacing = [5, 4, 3][: grid.dims]
    shape = control_shape(list(grid.shape), spacing)
    generator = torch.Generator().manual_seed(7)
    points = amount * torch.randn(1, grid.dims, *shape, generator=generator, dtype=torch.float64)
    return BSpline(points, grid, spacing, order)


def velocity(grid: Grid) -> Velocity:
    coarse = torch.randn(1, grid.dims, *[4] * grid.dims, generator=torch.Generator().manual_seed(8))
    mode = "bilinear" if grid.dims == 2 else "trilinear"
    lattice = grid.resized([-(-side // 2) for side in grid.shape])
    return Velocity(torch.nn.functional.interpolate(coarse, lattice.shape, mode=mode), lattice)


def kind_of(transform: Transform) -> list[type[Transform]]:
    """Of every part, in the order in which points go through them."""
    kinds = (Affine, BSpline, DisplacementField, Velocity)
    parts = transform.parts if isinstance(transform, Composition) else [transform]
    return [next(kind for kind in kinds if isinstance(part, kind)) for part in parts]


def by_sitk(path: Path, points: torch.Tensor) -> torch.Tensor:
    theirs, flip = sitk.ReadTransform(str(path)), np.diag(flip_lps(points.shape[1]))[:-1]
    return torch.tensor(np.array([theirs.TransformPoint(point) for point in points.numpy() * flip]) * flip)


KINDS: dict[str, tuple[list[type[Transform]], float]] = {
    "bspline": ([BSpline], 1e-9),
    "bspline, affine": ([BSpline, Affine], 1e-9),
    "affine, bspline of a larger grid": ([Affine, BSpline], 1e-9),
    "affine, bspline of too small a grid": ([DisplacementField], 1e-4),
    "affine, affine": ([Affine, Affine], 1e-9),
    "quadratic": ([DisplacementField], 1e-4),
    "velocity": ([DisplacementField], 1e-4),
    "velocity, affine": ([DisplacementField, Affine], 1e-4),
    "nested": ([BSpline, Affine, Affine], 1e-9),
}


def of_kind(kind: str, grid: Grid) -> Transform:
    affine = make_transform("affine", grid).double()
    wide = grid.affine.copy()
    wide[:-1, -1] -= wide[:-1, :-1] @ np.full(grid.dims, 15.0)
    larger = Grid([side + 30 for side in grid.shape], wide)
    return {
        "bspline": spline(grid),
        "bspline, affine": Composition(spline(grid), affine),
        "affine, bspline of a larger grid": Composition(affine, spline(larger)),
        "affine, bspline of too small a grid": Composition(affine, spline(grid)),
        "affine, affine": Composition(affine, affine),
        "quadratic": spline(grid, order=2),
        "velocity": velocity(grid),
        "velocity, affine": Composition(velocity(grid), affine),
        "nested": Composition(Composition(spline(grid), affine), affine),
    }[kind]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_transform_is_written_as_its_own_kind(dims: int, kind: str, tmp_path: Path, make_pair: Maker) -> None:
    fixed, moving = make_pair(tmp_path, dims)
    transform, (parts, tolerance) = of_kind(kind, fixed.grid), KINDS[kind]
    dense = DisplacementField in parts
    points = fixed.grid.to_world(fixed.grid.coordinates(torch.float64))
    if not dense:  # between the voxels as well
        inside = torch.rand(400, dims, dtype=torch.float64) * (torch.tensor(fixed.grid.shape) - 1)
        points = torch.cat([points[::31], fixed.grid.to_world(inside)])
    expected = transform.world(points)[0].double()
    for suffix in (".h5", ".tfm", ".txt"):
        if dense and suffix != ".h5":
            with pytest.raises(FileError, match=f"a{suffix}: a dense transform's file must be named .h5"):
                write_transform(tmp_path / f"a{suffix}", transform, fixed, moving)
            continue
        path = write_transform(tmp_path / f"a{suffix}", transform, fixed, moving)
        read = read_transform(path)
        assert kind_of(read) == parts
        assert (by_sitk(path, points) - expected).abs().max() < tolerance
        assert (read.world(points)[0] - expected).abs().max() < tolerance
        assert torch.allclose(read.field(fixed.grid).double(), transform.field(fixed.grid).double(), atol=1e-5)
        again = write_transform(tmp_path / f"again{suffix}", read, fixed, moving)
        assert kind_of(read_transform(again)) == parts
        assert (by_sitk(again, points) - expected).abs().max() < tolerance


@pytest.mark.parametrize("dims", [2, 3])
def test_a_velocity_comes_back(dims: int, tmp_path: Path, make_pair: Maker) -> None:
    fixed, _ = make_pair(tmp_path, dims)
    transform = velocity(fixed.grid)
    path = write_velocity(tmp_path / "velocity.nii.gz", transform, fixed)
    read = read_transform(path)
    assert isinstance(read, Velocity)
    assert read.grid == transform.grid
    assert torch.allclose(read.velocity, transform.velocity, atol=1e-5)
    # its values are LPS millimetres per unit time, which ITK reads as vectors
    image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    index = [2, 3, 1][:dims]
    voxels = transform.velocity[0].numpy()[(slice(None), *index)]
    vector = (flip_lps(dims) @ transform.grid.affine)[:dims, :dims] @ voxels
    assert np.allclose(image[index], vector, atol=1e-4)


def test_what_cannot_be_written_names_the_file_or_the_argument(tmp_path: Path, make_pair: Maker) -> None:
    fixed, moving = make_pair(tmp_path, 2)
    transform = spline(fixed.grid)
    for name in ("a.mat", "a.mha", "a"):
        with pytest.raises(FileError, match=f"{name}: a transform's file must be named"):
            write_transform(tmp_path / name, transform, fixed, moving)
    with pytest.raises(FileError, match="must be named .nii"):
        write_velocity(tmp_path / "a.h5", velocity(fixed.grid), fixed)
    several = Affine(torch.eye(2, 3).expand(3, 2, 3), fixed.grid)
    for batch in (several, Composition(several, transform)):
        with pytest.raises(ValueError, match="must be one transform for one file, got a batch of 3"):
            write_transform(tmp_path / "a.h5", batch, fixed, moving)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_inverse_takes_points_back(dims: int, tmp_path: Path, make_pair: Maker) -> None:
    fixed, _ = make_pair(tmp_path, dims)
    transform = make_transform("composition", fixed.grid).double()
    inner = fixed.grid.coordinates(torch.float64)[::7] * 0.6 + 0.2 * torch.tensor(fixed.grid.shape)
    points = fixed.grid.to_world(inner)
    back = transform.inverse().world(transform.world(points)[0])[0]
    assert (back - points).abs().max() < 1e-3


def test_the_same_transform_gives_the_same_bytes(tmp_path: Path, make_pair: Maker) -> None:
    fixed, moving = make_pair(tmp_path, 3)
    transform = make_transform("dense", fixed.grid)
    first = write_transforms(tmp_path / "first", transform, fixed, moving)
    second = write_transforms(tmp_path / "second", transform, fixed, moving)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["affine", "dense", "bspline", "bspline, affine", "velocity, affine"])
def test_ants_reproduces_the_warped_image(kind: str, tmp_path: Path, make_pair: Maker) -> None:
    ants = pytest.importorskip("ants")
    fixed, moving = make_pair(tmp_path, 3)
    transform = of_kind(kind, fixed.grid) if kind in KINDS else make_transform(kind, fixed.grid)
    ours = resample(moving.array[None], moving.grid, transform, fixed.grid, value=-1.0)[0, 0].numpy()
    fixed_image, moving_image = (ants.image_read(str(image.header.path)) for image in (fixed, moving))
    own = write_transform(tmp_path / "own.h5", transform, fixed, moving)
    for file in (own, *write_transforms(tmp_path, transform, fixed, moving)):
        theirs = ants.apply_transforms(fixed_image, moving_image, [str(file)], defaultvalue=-1).numpy()
        assert disagreement(ours, theirs) < 1e-3
