"""`warpzoo.register` from a program: every kind of image in and back, and the transform against SimpleITK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from scipy import ndimage

import warpzoo
from warpzoo.geometry.transforms import Affine, BSpline, Velocity
from warpzoo.registration.descent import Descent

from .conftest import oblique, save, smooth

SHIFT = np.array([3.0, -2.0])


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """The moving array shows at x + SHIFT what the fixed one shows at x."""
    content = np.pad(smooth((44, 36)), 12).astype(np.float32)
    return content, ndimage.shift(content, SHIFT, order=1, mode="nearest")


def test_a_matrix_stays_a_matrix(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    fixed, moving = arrays
    result = warpzoo.register(fixed, moving, method="rigid", spacing=(2.0, 1.5))
    assert isinstance(result.transform.transform, Affine)
    assert isinstance(result.warped, np.ndarray)
    assert result.warped.dtype == np.float32
    inner = (slice(8, -8),) * 2
    assert np.abs(result.warped - fixed)[inner].mean() < 0.02 * fixed.std()
    assert result.metrics["ncc"] > 0.99 > result.metrics["ncc_before"]

    points = np.array([[30.0, 40.0], [60.5, 51.0]])
    there = points + SHIFT * [2.0, 1.5]
    np.testing.assert_allclose(result.transform.apply(points=there), points, atol=0.2)
    np.testing.assert_allclose(result.transform.inverse.apply(points=points), there, atol=0.2)
    back = result.transform.inverse.apply(points=result.transform.apply(points=there))
    np.testing.assert_allclose(back, there, atol=1e-5)

    # as for a NIfTI with that affine: ITK has the first two axes the other way round
    read = sitk.ReadTransform(str(result.transform.save(tmp_path / "transform.tfm")))
    np.testing.assert_allclose(read.TransformPoint(-points[0]), -there[0], atol=0.2)
    again = warpzoo.read_transform(tmp_path / "transform.tfm", fixed, moving, spacing=(2.0, 1.5))
    assert isinstance(again.transform, Affine)
    np.testing.assert_allclose(again.apply(points=there), result.transform.apply(points=there), atol=1e-6)
    np.testing.assert_allclose(again.apply(moving), result.warped, atol=1e-2)


@pytest.mark.parametrize("outside", [None, -50.0])
def test_the_correlation_is_that_of_what_both_images_show(outside: float | None, tmp_path: Path) -> None:
    content = (100 + 50 * smooth((60, 48))).astype(np.float32)
    fixed, moving = content[9:], content[:-9]
    sitk.WriteTransform(sitk.TranslationTransform(2, (-9.0, 0.0)), str(tmp_path / "start.tfm"))  # the axes of ITK
    result = warpzoo.register(fixed, moving, "rigid", start=tmp_path / "start.tfm", outside=outside)
    assert result.metrics["ncc_before"] == pytest.approx(np.corrcoef(fixed.ravel(), moving.ravel())[0, 1], abs=1e-4)
    assert result.metrics["ncc"] > 0.999
    assert np.corrcoef(fixed.ravel(), np.asarray(result.warped).ravel())[0, 1] < 0.9


@pytest.mark.parametrize(("method", "kind"), [("svf", Velocity), ("ffd", BSpline)])
def test_deformations_keep_their_parameters(
    arrays: tuple[np.ndarray, np.ndarray], method: str, kind: type[torch.nn.Module]
) -> None:
    fixed, moving = arrays
    result = warpzoo.register(torch.from_numpy(fixed), torch.from_numpy(moving), method=method)
    assert isinstance(result.transform.transform, kind)
    assert isinstance(result.warped, torch.Tensor)
    assert float((result.warped - torch.from_numpy(fixed)).abs().mean()) < 0.05 * fixed.std()
    labels = (moving > 1500).astype(np.uint8)
    carried = result.transform.apply(labels=labels)
    assert carried.dtype == np.uint8
    assert set(np.unique(carried)) == {0, 1}
    overlap = ((carried > 0) == (fixed > 1500)).mean()
    assert overlap > 0.95
    chain = warpzoo.register(fixed, moving, method=f"rigid,{method}").transform.transform
    assert [type(part) for part in chain.parts] == [kind, Affine]


def test_images_of_libraries_on_different_grids(tmp_path: Path) -> None:
    """The same result as for files, from images of nibabel, SimpleITK and MONAI in any mixture."""
    affines = oblique([1.5, 1.2, 2.0], [-30.0, -25, -20], 12), oblique([1.5, 1.2, 2.0], [-26.0, -27, -20], 6)
    for name, affine in zip(("fixed", "moving"), affines, strict=True):
        save(tmp_path / f"{name}.nii.gz", smooth((40, 36, 24)).astype(np.float32), affine)
    paths = [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
    expected = warpzoo.register(*paths, method="rigid").warped.array[0].numpy()
    header = nibabel.load(paths[1])
    tensor = MetaTensor(torch.from_numpy(header.get_fdata(dtype=np.float32))[None], affine=header.affine)

    def register(fixed: Any, moving: Any) -> Any:
        return warpzoo.register(fixed, moving, method="rigid").warped

    by_nibabel = register(nibabel.load(paths[0]), nibabel.load(paths[1]))
    np.testing.assert_allclose(by_nibabel.get_fdata(), expected, atol=0.5)
    np.testing.assert_allclose(by_nibabel.affine, affines[0], atol=1e-4)
    by_simpleitk = register(paths[0], sitk.ReadImage(paths[1]))
    np.testing.assert_allclose(sitk.GetArrayFromImage(by_simpleitk).T, expected, atol=0.5)
    by_monai = register(sitk.ReadImage(paths[0]), tensor)
    assert isinstance(by_monai, MetaTensor)
    np.testing.assert_allclose(by_monai.numpy()[0], expected, atol=0.5)
    np.testing.assert_allclose(by_monai.affine, affines[0], atol=1e-4)


def test_labels_and_landmarks_are_measured(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    fixed, moving = arrays
    points = np.array([[30.0, 30.0], [25.0, 35.0]])
    result = warpzoo.register(
        fixed,
        moving,
        method="rigid",
        fixed_labels=(fixed > 1500).astype(int),
        moving_labels=(moving > 1500).astype(int),
        fixed_points=points,
        moving_points=points + SHIFT,
    )
    assert result.metrics["dice"]["1"] > 0.97 > result.metrics["dice_before"]["1"]
    assert result.metrics["tre_before"] == pytest.approx(np.linalg.norm(SHIFT), abs=1e-6)
    assert result.metrics["tre"] < 0.2
    assert result.report(tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    result.save(tmp_path / "folder")
    assert {"metrics.json", "report.html", "transform.tfm", "warped.nii.gz", "warped_points.csv"} <= {
        path.name for path in (tmp_path / "folder").iterdir()
    }


def test_a_start_is_gone_on_from(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    fixed, moving = arrays
    first = warpzoo.register(fixed, moving, method="rigid").transform
    first.save(tmp_path / "rigid.tfm")
    for start in (first, tmp_path / "rigid.tfm"):
        result = warpzoo.register(fixed, moving, method="affine", start=start)
        assert isinstance(result.transform.transform, Affine)
        assert result.metrics["ncc"] > 0.99


def test_in_a_compose(tmp_path: Path) -> None:
    content = np.pad(smooth((40, 36)), 8).astype(np.float32)
    save(tmp_path / "fixed.nii.gz", content)
    save(tmp_path / "moving.nii.gz", ndimage.shift(content, SHIFT, order=1, mode="nearest"))
    save(tmp_path / "labels.nii.gz", (ndimage.shift(content, SHIFT, order=1, mode="nearest") > 1500).astype(np.uint8))
    data = {name: str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving", "labels")}
    steps = [
        LoadImaged(list(data), ensure_channel_first=True),
        warpzoo.Registerd(["moving", "labels"], "fixed", method="rigid", label_keys="labels", metrics_key="metrics"),
    ]
    found = Compose(steps)(data)
    assert isinstance(found["moving"], MetaTensor)
    assert found["metrics"]["ncc"] > 0.99
    assert set(found["labels"].unique().tolist()) == {0, 1}
    assert float(((found["labels"][0] > 0) == (found["fixed"][0] > 1500)).float().mean()) > 0.97
    with pytest.raises(ValueError, match="label_keys must be among keys"):
        warpzoo.Registerd(["moving"], "fixed", label_keys=["labels"])


def test_an_interrupted_optimisation_keeps_its_best(
    arrays: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interrupt(monkeypatch, at=5)
    result = warpzoo.register(*arrays, method="rigid,svf")
    assert result.interrupted
    assert isinstance(result.transform.transform, Affine), "svf did not run"
    assert result.metrics["ncc"] > result.metrics["ncc_before"]
    assert "rigid was interrupted" in result.registration.notes[0]
    assert "svf did not run" in result.registration.notes[0]
    result.save(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["interrupted"] is True
    assert "interrupted" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_second_interruption_ends_a_list(warpzoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair of the first one is written and done again by the next run; that of the second is not written."""
    for seed, name in enumerate("ab"):
        save(tmp_path / f"{name}.nii.gz", np.pad(smooth((40, 36), seed), 8).astype(np.float32))
    (tmp_path / "pairs.csv").write_text("fixed,moving\na.nii.gz,b.nii.gz\nb.nii.gz,a.nii.gz\na.nii.gz,a.nii.gz\n")
    options = ("register", "--pairs", tmp_path / "pairs.csv", "--method=rigid", "--output", tmp_path / "out")
    interrupt(monkeypatch, at=5, every=True)
    ended = warpzoo(*options, "--noreport")
    assert ended.code == 130
    assert json.loads((tmp_path / "out/1/metrics.json").read_text())["interrupted"] is True
    assert not (tmp_path / "out/2").exists() or not list((tmp_path / "out/2").iterdir())
    monkeypatch.undo()
    assert "done already" in warpzoo(*options, "--noreport", "--keep_interrupted").out
    assert warpzoo(*options, "--noreport").code == 0
    assert json.loads((tmp_path / "out/1/metrics.json").read_text())["interrupted"] is False


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, every: bool = False) -> None:
    """Ctrl-C at that iteration of the first optimisation, or of every one."""
    spent = Descent.spent.fget
    assert spent is not None
    seen: list[Descent] = []

    def interrupted(descent: Descent) -> float:
        if descent.iterations >= at and not descent.interrupted and (every or not seen):
            seen.append(descent)
            raise KeyboardInterrupt
        return spent(descent)

    monkeypatch.setattr(Descent, "spent", property(interrupted))


def test_what_cannot_be_registered(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    fixed, moving = arrays
    with pytest.raises(ValueError, match="2-D and moving 3-D"):
        warpzoo.register(fixed, np.stack([moving] * 3, axis=-1), method="rigid")
    with pytest.raises(ValueError, match="method must be one of rigid, affine"):
        warpzoo.register(fixed, moving, method="rigit")
    broken = fixed.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="fixed has 1 voxels that are NaN"):
        warpzoo.register(broken, moving, method="rigid")
    with pytest.raises(ValueError, match="moving_labels must be given"):
        warpzoo.register(fixed, moving, fixed_labels=fixed > 0)
    with pytest.raises(ValueError, match=r"fixed_points must be \(count, 2\)"):
        warpzoo.register(fixed, moving, fixed_points=np.zeros((3, 3)), moving_points=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="one of image, labels and points must be given, got none"):
        warpzoo.register(fixed, moving, method="rigid").transform.apply()


def test_what_belongs_to_an_image_lies_where_it_does(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """An array of an image's shape is on its grid, whatever kind the image is; the warped image is what apply gives."""
    fixed, moving = arrays
    labels = (moving > 1500).astype(np.int16)
    affine = np.diag([2.0, 1.5, 1, 1])
    pairs = {
        "arrays": (fixed, moving, {"spacing": (2.0, 1.5)}),
        "files": (*(nibabel.Nifti1Image(values, affine) for values in arrays), {}),
        "mixed": (fixed, nibabel.Nifti1Image(moving, affine), {"spacing": (2.0, 1.5)}),
    }
    found = {}
    for name, (one, other, options) in pairs.items():
        result = warpzoo.register(one, other, method="rigid", moving_labels=labels, fixed_labels=labels, **options)
        carried = result.transform.apply(labels=labels)
        assert ((carried > 0) == (fixed > 1500)).mean() > 0.97, name
        found[name] = np.asanyarray(getattr(result.warped, "dataobj", result.warped))
        again = result.transform.apply(other)
        np.testing.assert_allclose(np.asanyarray(getattr(again, "dataobj", again)), found[name], atol=1e-2)
        np.testing.assert_allclose(found[name], found["arrays"], atol=0.5)
    data = warpzoo.Registerd(["m", "l"], "f", "rigid", label_keys="l", transform_key="t", spacing=2.0)(
        {"f": fixed, "m": moving, "l": labels}
    )
    assert ((data["l"] > 0) == (fixed > 1500)).mean() > 0.97
    np.testing.assert_allclose(data["t"].apply(moving), data["m"], atol=1e-3)


def test_arrays_and_tensors_with_an_identity_affine_are_one_space(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    fixed, moving = arrays
    meta = MetaTensor(torch.from_numpy(moving)[None], affine=torch.eye(3))
    for one, other in ((fixed, meta), (meta, fixed)):
        result = warpzoo.register(one, other, method="svf", spacing=1.0)
        assert result.metrics["ncc"] > 0.9
        assert result.metrics["ncc_before"] > 0.2, "not turned round"


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.float64])
def test_types_of_values(arrays: tuple[np.ndarray, np.ndarray], dtype: type) -> None:
    fixed, moving = ((values > 1500) if dtype is bool else (values / 15).astype(dtype) for values in arrays)
    result = warpzoo.register(fixed, moving, method="rigid")
    assert result.warped.dtype == dtype
    assert (result.warped == fixed).mean() > 0.9 if dtype is bool else result.metrics["ncc"] > 0.98
    half = torch.from_numpy(arrays[0]).bfloat16(), torch.from_numpy(arrays[1]).bfloat16()
    assert warpzoo.register(*half, method="rigid").warped.dtype == torch.bfloat16


def test_slices_of_volumes_are_images(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    fixed, moving = (values[:, :, None] for values in arrays)
    affine = oblique([1.5, 1.2, 5.0], [10.0, -20, 30], 20)
    for one, other in ((fixed, moving), tuple(nibabel.Nifti1Image(values, affine) for values in (fixed, moving))):
        result = warpzoo.register(one, other, method="rigid")
        assert result.metrics["ncc"] > 0.99
        assert result.warped.shape == fixed.shape
    np.testing.assert_allclose(result.warped.affine, affine, atol=1e-5)


def test_the_value_outside_is_none_of_the_metrics(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    results = [warpzoo.register(*arrays, method="rigid", outside=value) for value in (None, -1000.0)]
    assert results[1].metrics == pytest.approx(results[0].metrics, abs=1e-5)
    assert results[1].warped.min() < results[0].warped.min()


def test_a_start_may_be_several_files(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    halves = [sitk.TranslationTransform(2, shift) for shift in ((1.0, 0.0), (0.0, 2.0))]
    files = [tmp_path / f"{number}.tfm" for number in range(2)]
    for file, half in zip(files, halves, strict=True):
        sitk.WriteTransform(half, str(file))
    listed, joined = (
        warpzoo.register(*arrays, method="rigid", start=one) for one in (files, ",".join(map(str, files)))
    )
    np.testing.assert_array_equal(listed.warped, joined.warped)


def test_inputs_are_not_written_over(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    for name, values in zip(("fixed", "warped"), arrays, strict=True):
        save(tmp_path / f"{name}.nii.gz", values)
    result = warpzoo.register(str(tmp_path / "fixed.nii.gz"), str(tmp_path / "warped.nii.gz"), method="rigid")
    with pytest.raises(ValueError, match="is an input and a result at once"):
        result.save(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": "x"}, "spacing must be"),
        ({"method": 3}, "method must be names"),
        ({"start": 3}, "start must be a transform of warpzoo or files, got int"),
        ({"fixed_labels": np.full((68, 60), 0.5), "moving_labels": np.zeros((68, 60))}, "fixed_labels must be a label"),
        ({"fixed_points": [[1, 2], [3]], "moving_points": [[1, 2], [3, 4]]}, "fixed_points must be"),
        ({"fixed_points": [[1, 2, 3]], "moving_points": [[1, 2, 3]]}, r"fixed_points must be \(count, 2\)"),
    ],
)
def test_bad_options_name_their_argument(
    arrays: tuple[np.ndarray, np.ndarray], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        warpzoo.register(*arrays, **{"method": "rigid", **options})
    with pytest.raises(ValueError, match="spacing must only be given with arrays"):
        warpzoo.register(*(nibabel.Nifti1Image(values, np.eye(4)) for values in arrays), spacing=2)
