"""A registration as DICOM: what is written is read by pydicom and highdicom and means the same to SimpleITK."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image as Picture
from pydicom import Dataset, dcmread

import warpzoo
from warpzoo.deployment.application.dicom_objects import Maker, deformable_registration, read_headers
from warpzoo.deployment.application.results import write_dicom
from warpzoo.geometry.transforms import Affine, DisplacementField
from warpzoo.images.image import read_image
from warpzoo.registration.pair import Registration

MAKER = Maker("a_bundle", "0.1.0")
MATRIX = [[1.02, 0.1, 0.0, 3.0], [-0.08, 0.97, 0.05, -2.0], [0.02, 0.0, 1.05, 4.0]]


def registered(study: Path, kind: str) -> tuple[Registration, dict[str, Path]]:
    paths = {side: study / side for side in ("fixed", "moving")}
    fixed, moving = (read_image(path) for path in paths.values())
    if kind == "affine":
        transform = Affine.from_world(torch.tensor([MATRIX], dtype=torch.float64), fixed.grid)
    elif kind == "rigid":
        cosine, sine = np.cos(0.1), np.sin(0.1)
        turned = [[cosine, -sine, 0.0, 2.0], [sine, cosine, 0.0, -1.0], [0.0, 0.0, 1.0, 1.5]]
        transform = Affine.from_world(torch.tensor([turned], dtype=torch.float64), fixed.grid)
    else:
        noise = torch.randn(1, 3, 4, 5, 3, generator=torch.Generator().manual_seed(0))
        field = torch.nn.functional.interpolate(noise, fixed.grid.shape, mode="trilinear", align_corners=True)
        transform = DisplacementField(field, fixed.grid)
    return Registration(fixed, moving, transform, kind), paths


def resampled(transform: sitk.Transform, study: Path) -> np.ndarray:
    """The moving series on the fixed grid by SimpleITK, whose transforms take points of the fixed world."""
    series = []
    for side in ("fixed", "moving"):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(study / side)))
        series.append(reader.Execute())
    fixed, moving = series
    return sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, -1, sitk.sitkFloat64))


def assert_same_warp(transform: sitk.Transform, registration: Registration, study: Path) -> None:
    found = resampled(transform, study)
    ours = registration.warped.array[0].numpy().T
    inside = found >= 0
    assert 0.4 < inside.mean() <= 1
    assert np.abs(found - ours)[inside].max() < 0.05  # of 1000


@pytest.mark.parametrize("kind", ["affine", "rigid"])
def test_a_matrix_is_a_spatial_registration(study: Path, tmp_path: Path, kind: str) -> None:
    registration, paths = registered(study, kind)
    assert [path.name for path in write_dicom(registration, paths, MAKER, tmp_path / "out")] == ["registration.dcm"]
    made = dcmread(tmp_path / "out" / "registration.dcm")
    assert made.SOPClassUID.name == "Spatial Registration Storage"
    fixed, moving = (read_headers(path) for path in paths.values())
    assert made.FrameOfReferenceUID == fixed[0].FrameOfReferenceUID
    first, second = made.RegistrationSequence
    assert (first.FrameOfReferenceUID, second.FrameOfReferenceUID) == (
        fixed[0].FrameOfReferenceUID,
        moving[0].FrameOfReferenceUID,
    )
    (own,), (to_fixed,) = (one.MatrixRegistrationSequence[0].MatrixSequence for one in (first, second))
    assert np.array_equal(np.array(own.FrameOfReferenceTransformationMatrix, float).reshape(4, 4), np.eye(4))
    assert to_fixed.FrameOfReferenceTransformationMatrixType == kind.upper()
    matrix = np.linalg.inv(np.array(to_fixed.FrameOfReferenceTransformationMatrix, float).reshape(4, 4))
    ras = np.diag([-1, -1, 1, 1]) @ matrix @ np.diag([-1, -1, 1, 1])
    np.testing.assert_allclose(ras[:3], registration.transform.world_matrix()[0].numpy(), atol=1e-7)  # type: ignore[attr-defined]
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    assert_same_warp(transform, registration, study)


def field_of(made: Dataset) -> sitk.DisplacementFieldTransform:
    grid = made.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0]
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(*grid.GridDimensions[::-1], 3).astype(float)
    image = sitk.GetImageFromArray(vectors, isVector=True)
    rows, columns = np.array(grid.ImageOrientationPatient, float).reshape(2, 3)
    image.SetDirection(np.stack([rows, columns, np.cross(rows, columns)], 1).ravel().tolist())
    image.SetSpacing(list(grid.GridResolution))
    image.SetOrigin([float(one) for one in grid.ImagePositionPatient])
    return sitk.DisplacementFieldTransform(image)


def test_a_field_is_a_deformable_registration(study: Path, tmp_path: Path) -> None:
    registration, paths = registered(study, "field")
    write_dicom(registration, paths, MAKER, tmp_path / "out")
    made = dcmread(tmp_path / "out" / "registration.dcm")
    assert made.SOPClassUID.name == "Deformable Spatial Registration Storage"
    assert made.FrameOfReferenceUID == read_headers(paths["fixed"])[0].FrameOfReferenceUID
    assert (
        made.DeformableRegistrationSequence[0].SourceFrameOfReferenceUID
        == read_headers(paths["moving"])[0].FrameOfReferenceUID
    )
    assert_same_warp(field_of(made), registration, study)


def test_a_field_of_a_left_handed_grid_is_turned_over(study: Path) -> None:
    headers = [read_headers(study / side) for side in ("fixed", "moving")]
    field = np.random.default_rng(1).normal(size=(3, 4, 5, 6)).astype(np.float32)
    affine = np.array([[-1.0, 0, 0, 7], [0, -2.0, 0, 8], [0, 0, 3.0, 9], [0, 0, 0, 1]])
    mirrored = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1]])
    place = (-5.4, -3.3, 16.2)
    found = [
        field_of(deformable_registration(values, matrix, *headers, MAKER)).TransformPoint(place)
        for values, matrix in ((field, affine), (field[..., ::-1], mirrored))
    ]
    np.testing.assert_allclose(*found, atol=1e-6)
    sheared = affine + np.array([[0, 0.5, 0, 0], *np.zeros((3, 4))])
    with pytest.raises(ValueError, match="axes must be at right angles"):
        deformable_registration(field, sheared, *headers, MAKER)


def test_the_report_is_a_secondary_capture(study: Path, tmp_path: Path) -> None:
    registration, paths = registered(study, "rigid")
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 3), dtype=np.uint8)
    Picture.fromarray(pixels).save(tmp_path / "report.png")
    write_dicom(registration, paths, MAKER, tmp_path, tmp_path / "report.png")
    image = highdicom.imread(tmp_path / "report.dcm")
    assert np.array_equal(image.get_frame(1, apply_icc_profile=False), pixels)
    assert image.StudyInstanceUID == read_headers(paths["fixed"])[0].StudyInstanceUID
    assert (image.PatientID, str(image.PatientName)) == ("7", "Doe^Jane")


@pytest.mark.parametrize("kind", ["affine", "field"])
def test_nothing_that_the_standard_asks_for_is_missing(study: Path, tmp_path: Path, kind: str) -> None:
    """By the standard's tables in highdicom: attributes of type 1 have a value, those of type 2 are there."""
    registration, paths = registered(study, kind)
    Picture.new("RGB", (8, 8)).save(tmp_path / "report.png")
    tables = {
        name: json.loads((files("highdicom") / "_standard" / f"{name}.json").read_text())
        for name in ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
    }
    for path in write_dicom(registration, paths, MAKER, tmp_path, tmp_path / "report.png"):
        made = dcmread(path)
        iod = tables["sop_class_iod_map"][made.SOPClassUID]
        checked = 0
        for module in tables["iod_module_map"][iod]:
            if module["usage"] != "M":
                continue
            for attribute in tables["module_attribute_map"][module["key"]]:
                if attribute["type"] in ("1", "2"):
                    for item in _items(made, attribute["path"]):
                        checked += 1
                        assert attribute["keyword"] in item, (path.name, module["key"], attribute)
                        if attribute["type"] == "1":
                            assert item[attribute["keyword"]].VM, (path.name, module["key"], attribute)
        assert checked > 20


def _items(made: Dataset, path: list[str]) -> list[Dataset]:
    found = [made]
    for keyword in path:
        found = [one for item in found for one in item.get(keyword, [])]
    return found


def test_all_images_are_referenced_by_study(study: Path, tmp_path: Path) -> None:
    registration, paths = registered(study, "field")
    write_dicom(registration, paths, MAKER, tmp_path)
    made = dcmread(tmp_path / "registration.dcm")
    fixed, moving = (read_headers(path) for path in paths.values())
    (own,) = made.ReferencedSeriesSequence
    assert own.SeriesInstanceUID == fixed[0].SeriesInstanceUID
    (other,) = made.StudiesContainingOtherReferencedInstancesSequence
    assert other.StudyInstanceUID == moving[0].StudyInstanceUID
    named = {one.ReferencedSOPInstanceUID for one in other.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named == {one.SOPInstanceUID for one in moving}


def test_images_of_other_kinds_give_no_dicom_and_no_frame_of_reference_is_said(study: Path, tmp_path: Path) -> None:
    registration, paths = registered(study, "affine")
    assert write_dicom(registration, {**paths, "moving": tmp_path / "moving.nii.gz"}, MAKER, tmp_path) == []
    for path in sorted(paths["moving"].iterdir()):
        header = dcmread(path)
        del header.FrameOfReferenceUID
        header.save_as(path)
    with pytest.raises(ValueError, match=r"moving/.*\.dcm must have the frame of reference of its whole series"):
        write_dicom(registration, paths, MAKER, tmp_path)


def test_a_known_shift_is_in_the_matrix_of_dicom(tmp_path: Path, series: Any, scene: Any) -> None:
    """The whole way: two series that differ by their place in the world."""
    values = scene((16, 24, 22))
    series().write(tmp_path / "fixed", values)
    series().write(tmp_path / "moving", values, origin=(-16.0, 9.0, 32.5))
    done = warpzoo.register(tmp_path / "fixed", tmp_path / "moving", "rigid").registration
    paths = {side: tmp_path / side for side in ("fixed", "moving")}
    write_dicom(done, paths, MAKER, tmp_path)
    made = dcmread(tmp_path / "registration.dcm").RegistrationSequence[1].MatrixRegistrationSequence[0].MatrixSequence
    matrix = np.array(made[0].FrameOfReferenceTransformationMatrix, float).reshape(4, 4)
    np.testing.assert_allclose(matrix @ [-16.0, 9.0, 32.5, 1], [-20, 12, 30, 1], atol=0.05)
