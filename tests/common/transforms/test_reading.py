"""Transform files that SimpleITK writes, and damaged ones: the same places to 1e-8, or one sentence."""

from __future__ import annotations

import os
import struct
from itertools import product
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.io import savemat

from warpzoo.files import FileError
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import BSpline
from warpzoo.images.image import flip_lps
from warpzoo.transforms import read_transform


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
    turn, _ = np.linalg.qr(np.eye(dims) + 0.25 * generator.standard_normal((dims, dims)))
    spline.SetTransformDomainDirection(turn.ravel().tolist())
    spline.SetTransformDomainOrigin([-40.0, -30.0, -35.0][:dims])
    spline.SetTransformDomainPhysicalDimensions([70.0, 65.0, 80.0][:dims])
    spline.SetTransformDomainMeshSize([5, 6, 4][:dims])
    spline.SetParameters(some(len(spline.GetParameters()), 3))
    kinds["bspline"] = spline
    field = sitk.GetImageFromArray(np.reshape(some(dims * 15**dims, 3), (*[15] * dims, dims)), isVector=True)
    field.SetSpacing([4.0, 5.0, 6.0][:dims])
    field.SetOrigin([-35.0, -40.0, -30.0][:dims])
    field.SetDirection(turn.ravel().tolist())
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
        moved = read_transform(path).world(torch.from_numpy(points))[0].numpy()
        assert np.abs(moved - expected).max() < (1e-4 if name in ("field", "composite") else 1e-8)


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
@pytest.mark.parametrize("order", [2, 3])
def test_a_bspline_comes_as_one_and_moves_nothing_outside_its_domain(dims: int, order: int, tmp_path: Path) -> None:
    theirs = sitk.BSplineTransform(dims, order)
    theirs.SetTransformDomainPhysicalDimensions([20.0, 30.0, 25.0][:dims])
    theirs.SetTransformDomainMeshSize([5, 6, 4][:dims])
    theirs.SetParameters(np.random.default_rng(1).standard_normal(len(theirs.GetParameters())).tolist())
    sitk.WriteTransform(theirs, str(tmp_path / "a.h5"))
    read = read_transform(tmp_path / "a.h5")
    assert isinstance(read, BSpline)
    flip = np.diag(flip_lps(dims))[:dims]
    for turn in (0.0, 0.3):  # parallel to the lattice, and not
        matrix = np.diag([*(1.3 * flip), 1.0])
        matrix[:2, :2] = matrix[:2, :2] @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        matrix[:-1, -1] = -5.2 * flip
        grid = Grid([25, 32, 24][:dims], matrix)
        points = grid.to_world(grid.coordinates(torch.float64)).numpy()
        expected = np.array([theirs.TransformPoint(point) for point in points * flip]) * flip
        voxels = grid.coordinates(torch.float64) + read.field(grid)[0].flatten(1).T
        assert np.abs(grid.to_world(voxels).numpy() - expected).max() < 1e-8
        assert (expected == points).all(-1).mean() > 0.1
    own = read.grid.to_world(read.grid.coordinates(torch.float64) + read.field()[0].flatten(1).T)
    assert torch.allclose(own, read.world(read.grid.to_world(read.grid.coordinates(torch.float64)))[0], atol=1e-9)


AFFINE = ("AffineTransform_double_3_3", np.arange(12.0), np.zeros(3))
GEOMETRY = np.array([4, 5, 6, 0, 0, 0, 1, 1, 1, *np.eye(3).ravel()])
SPLINE = ("BSplineTransform_double_3_3", np.zeros(3 * 4 * 5 * 6), GEOMETRY)
FIELD = ("DisplacementFieldTransform_float_3_3", np.zeros(3 * 4 * 5 * 6, np.float32), GEOMETRY)
DAMAGED = {
    "too few parameters": (AFFINE[0], AFFINE[1][:9], AFFINE[2], "must be 12 numbers, got 9"),
    "too many fixed parameters": (*AFFINE[:2], np.zeros(4), "must be 0 or 3 numbers, got 4"),
    "not finite": (AFFINE[0], np.full(12, np.nan), AFFINE[2], "must be finite"),
    "other dimensions": ("AffineTransform_double_4_4", np.zeros(20), np.zeros(4), "2-D to 2-D or 3-D to 3-D"),
    "from 3-D to 2-D": ("AffineTransform_double_3_2", np.zeros(8), np.zeros(2), "2-D to 2-D or 3-D to 3-D"),
    "no kind": ("KernelTransform_double_3_3", np.zeros(3), np.zeros(3), "convert it"),
    "a linear spline": ("BSplineTransform_double_3_3_1", *SPLINE[1:], "BSplineTransform of order 1, which is not read"),
    "coefficients missing": (SPLINE[0], SPLINE[1][:-1], GEOMETRY, "must be 360 numbers, got 359"),
    "geometry missing": (*SPLINE[:2], GEOMETRY[:-3], "must be 18 numbers, got 15"),
    "absurd geometry": (*FIELD[:2], np.array([1e9, 1e9, 1e9, *GEOMETRY[3:]]), "got 360"),
    "no spacing": (*FIELD[:2], np.array([*GEOMETRY[:6], 0, 1, 1, *GEOMETRY[9:]]), "invertible"),
    "no voxel": (FIELD[0], FIELD[1][:0], np.array([0, *GEOMETRY[1:]]), "shape"),
    "endless geometry": (*FIELD[:2], np.array([np.inf, *GEOMETRY[1:]]), "must be finite"),
}


def write_as(path: Path, name: str, parameters: np.ndarray, fixed: np.ndarray) -> Path:
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            one = file.create_group("TransformGroup/0")
            one.create_dataset("TransformType", data=[name], dtype=h5py.string_dtype())
            one.create_dataset("TransformParameters", data=parameters)
            one.create_dataset("TransformFixedParameters", data=fixed)
    elif path.suffix == ".mat":
        savemat(path, {name: parameters[:, None], "fixed": fixed[:, None]}, format="4")
    else:
        lists = [" ".join(map(str, values.tolist())) for values in (parameters, fixed)]
        path.write_text(f"Transform: {name}\nParameters: {lists[0]}\nFixedParameters: {lists[1]}\n")
    return path


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".mat"])
@pytest.mark.parametrize("damage", list(DAMAGED))
def test_wrong_numbers_are_one_sentence_that_names_the_file(damage: str, suffix: str, tmp_path: Path) -> None:
    name, parameters, fixed, message = DAMAGED[damage]
    path = write_as(tmp_path / f"damaged{suffix}", name, parameters, fixed)
    with pytest.raises(FileError, match=message) as caught:
        read_transform(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".mat", ".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_half_a_file_is_one_sentence_that_names_it(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"half{suffix}"
    if suffix in (".h5", ".tfm", ".mat"):
        write_as(path, *FIELD)
    else:
        values = np.random.default_rng(0).standard_normal((6, 5, 4, 3)).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(path), useCompression=suffix != ".mha")
    read_transform(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(FileError) as caught:
        read_transform(path)
    assert str(path) in str(caught.value)


def test_shapes_beyond_the_file_are_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "absurd.h5"
    side = 20_000
    with h5py.File(path, "w") as file:
        one = file.create_group("TransformGroup/0")
        one.create_dataset("TransformType", data=[FIELD[0]], dtype=h5py.string_dtype())
        one.create_dataset("TransformParameters", shape=(3 * side**3,), dtype=np.float32, chunks=(2**20,))
        one.create_dataset("TransformFixedParameters", data=[side, side, side, *GEOMETRY[3:]])
    nifti = nibabel.Nifti1Header()
    nifti.set_data_dtype(np.float32)
    nifti.set_data_shape((side, side, side, 1, 3))
    nifti.set_intent("vector")
    (tmp_path / "absurd.nii").write_bytes(nifti.binaryblock + bytes(1000))
    mha = f"ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = {side} {side} {side}\n"
    (tmp_path / "absurd.mha").write_bytes(
        f"{mha}ElementNumberOfChannels = 3\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n".encode() + bytes(1000)
    )
    mat = struct.pack("<5i", 0, 2**30, 1, 0, 5) + b"Name\0"
    (tmp_path / "absurd.mat").write_bytes(mat + bytes(100))
    for suffix in (".h5", ".nii", ".mha", ".mat"):
        with pytest.raises(FileError, match=f"absurd{suffix} "):
            read_transform(tmp_path / f"absurd{suffix}")


@pytest.mark.parametrize("name", ["a.tfm", "a.h5", "a.mat", "a.nii.gz", "a.mha"])
def test_pipes_are_not_opened(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileError, match=f"{name} is a pipe or a device"):
        read_transform(tmp_path / name)


def test_values_of_a_field_are_held_against_their_own_file(tmp_path: Path) -> None:
    head = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 20000 20000 20000\nElementNumberOfChannels = 3\n"
    )
    (tmp_path / "a.mhd").write_text(f"{head}ElementType = MET_FLOAT\nElementDataFile = a.raw\n")
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(FileError, match=r"a\.mhd is incomplete or has a wrong header"):
        read_transform(tmp_path / "a.mhd")


def test_the_name_of_a_kind_is_held_against_the_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        one = file.create_group("TransformGroup/0")
        one.create_dataset("TransformType", shape=(10**6,), dtype="S1000000", chunks=(1,))
    with pytest.raises(FileError, match=r"a\.h5 is incomplete or has a wrong header"):
        read_transform(tmp_path / "a.h5")


def test_matlab_files_are_those_that_itk_writes(tmp_path: Path) -> None:
    """scipy crashes at one damaged file of version 5 in a hundred; ITK reads and writes version 4 alone."""
    savemat(tmp_path / "a.mat", {AFFINE[0]: AFFINE[1][:, None], "fixed": AFFINE[2][:, None]}, format="5")
    with pytest.raises(FileError, match=r"a\.mat must be a Matlab file of version 4"):
        read_transform(tmp_path / "a.mat")
    theirs = sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3)
    sitk.WriteTransform(theirs, str(tmp_path / "a.mat"))
    read = read_transform(tmp_path / "a.mat")
    point, flip = np.array([4.0, -5.0, 6.0]), np.diag(flip_lps(3))[:3]
    expected = theirs.TransformPoint(point * flip) * flip
    assert np.allclose(read.world(torch.from_numpy(point[None]))[0, 0].numpy(), expected)
    content = (tmp_path / "a.mat").read_bytes()
    for place, number in ((8, -1), (4, -1), (4, 2**31 - 1), (12, 1), (16, -1), (16, 2**31 - 1)):
        (tmp_path / "a.mat").write_bytes(content[:place] + struct.pack("<i", number) + content[place + 4 :])
        with pytest.raises(FileError, match=r"a\.mat "):  # scipy never ended at the first
            read_transform(tmp_path / "a.mat")


def test_what_is_no_transform_is_said_in_one_sentence(tmp_path: Path) -> None:
    files = {
        "empty.tfm": ("#Insight Transform File V1.0\n", "holds no transform"),
        "words.tfm": ("Transform: AffineTransform_double_3_3\nParameters: 1 2 three\n", "three"),
        "elastix.txt": ('(Transform "EulerTransform")\n', "holds no transform"),
        "a.docx": ("", "another suffix"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(FileError, match=message) as caught:
            read_transform(tmp_path / name)
        assert name in str(caught.value)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), tmp_path / "image.nii.gz")
    sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkFloat32), str(tmp_path / "image.mha"))
    for name, message in (("image.nii.gz", "no displacement field"), ("image.mha", "must be a displacement field")):
        with pytest.raises(FileError, match=message):
            read_transform(tmp_path / name)
    with pytest.raises(FileError, match="does not exist"):
        read_transform(tmp_path / "nowhere.h5")
    savemat(tmp_path / "a.mat", {"one": 1.0, "two": 2.0}, format="4")
    with pytest.raises(FileError, match="must hold one transform"):
        read_transform(tmp_path / "a.mat")
