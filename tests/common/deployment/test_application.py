"""What is in an application, what it finds in its input, and that it gives what `warpzoo register` gives."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from pydicom import dcmread

from warpzoo.__main__ import main
from warpzoo.bundles import METADATA, Bundle, find_bundle
from warpzoo.deployment.application.inputs import find_image, find_pair
from warpzoo.deployment.writing import write_application
from warpzoo.sharing.archive import pack, sha1
from warpzoo.sharing.release import Release

ROOT = Path(__file__).parents[3]
WITHOUT_SDK = """
import json, sys
from pathlib import Path
sys.modules["monai.deploy"] = None
application, root, study, out = map(Path, sys.argv[1:])
sys.path[:0] = [str(root)]
import warpzoo
assert Path(warpzoo.__file__).is_relative_to(root), warpzoo.__file__
warpzoo.__path__.append(str(application / "warpzoo"))
from warpzoo.deployment.application.bundle import Released
from warpzoo.deployment.application.dicom_objects import Maker
from warpzoo.deployment.application.inputs import find_pair
from warpzoo.deployment.application.results import write_dicom
released = Released(root, {"report": False})
pair = released.read_pair(find_pair(study, {}, out / "work"))
done = released.register(pair)
released.write_pair(pair, done, out)
write_dicom(done, pair["files"], Maker(released.bundle.name, released.version), out)
"""


@pytest.fixture
def without_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release without its exports and checks, which have tests of their own and take long."""
    import warpzoo.sharing.release as module

    monkeypatch.setattr(module, "broken_rules", lambda bundle: [])
    for name in ("export_torchscript", "export_onnx"):
        monkeypatch.setattr(module, name, lambda bundle, path: path.write_bytes(b""))


@pytest.fixture
def metadata_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of the metadata alone."""
    import warpzoo.deployment.writing as module

    def release(bundle: Bundle, output: Path) -> Release:
        source = output / bundle.name / METADATA
        source.parent.mkdir(parents=True)
        shutil.copyfile(bundle.root / METADATA, source)
        path = pack(output / bundle.name, output / "released.zip")
        return Release(path, sha1(path), bundle.metadata, "")

    monkeypatch.setattr(module, "release", release)


@pytest.mark.usefixtures("without_exports")
def test_an_application_runs_its_own_copy_and_gives_what_register_gives(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["warpzoo", "deploy", "fcn_multires", f"--output={tmp_path / 'app'}"])
    main()
    app = tmp_path / "app"
    assert f"-m {app}/models" in capsys.readouterr().out
    root = app / "models" / "fcn_multires"
    command = [sys.executable, "-c", WITHOUT_SDK, *map(str, (app / "application", root, study, tmp_path / "out"))]
    done = subprocess.run(command, env={"PATH": ""}, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    options = [f"--method={ROOT / 'bundles' / 'fcn_multires'}", "--report=False", f"--output={tmp_path / 'ours'}"]
    monkeypatch.setattr(sys, "argv", ["warpzoo", "register", str(study / "fixed"), str(study / "moving"), *options])
    main()
    for name in ("warped.nii.gz", "displacement.nii.gz"):
        found, expected = (nibabel.load(tmp_path / side / name) for side in ("out", "ours"))
        assert np.array_equal(found.affine, expected.affine)
        values = np.asarray(expected.dataobj)
        assert np.ptp(values) > 0
        np.testing.assert_allclose(np.asarray(found.dataobj), values, rtol=0, atol=1e-5 * np.ptp(values))
    fixed = sitk.ReadImage(str(tmp_path / "out" / "warped.nii.gz"))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(study / "fixed")))
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(fixed, name)(), getattr(reader.Execute(), name)(), atol=1e-5)
    made = dcmread(tmp_path / "out" / "registration.dcm")
    assert made.SOPClassUID.name == "Deformable Spatial Registration Storage"
    assert made.SoftwareVersions == "0.1.0"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["ncc"] > -1


@pytest.mark.usefixtures("metadata_only")
@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("dirnet", None, "pair"),
        ("dirnet", "sequence", "sequence"),
        ("denoisereg", None, "sequence"),
        ("denoisereg", "pair", "pair"),
        ("psf_blindspot", None, "denoising"),
    ],
)
def test_what_is_in_an_application(name: str, kind: str | None, expected: str, tmp_path: Path) -> None:
    app = write_application(find_bundle(name), tmp_path / "app", kind)
    config = yaml.safe_load((app / "application" / "app.yaml").read_text())["application"]
    assert (config["kind"], config["settings"]) == (expected, {})
    assert [path.name for path in (app / "models").iterdir()] == [name]
    requirements = (app / "application" / "requirements.txt").read_text().splitlines()
    metadata = json.loads((ROOT / "bundles" / name / "configs" / "metadata.json").read_text())
    named = {f"{one}=={version}" for one, version in metadata["required_packages_version"].items()}
    assert {*named, f"torch=={metadata['pytorch_version']}", "monai-deploy-app-sdk==4.0.0"} <= {*requirements}
    readme = (app / "README.md").read_text()
    assert "Not run by those who wrote this" in readme
    assert "monai-deploy package application" in readme
    assert "COPY models models" in (app / "Dockerfile").read_text()
    for path in [*app.glob("*"), *(app / "application").glob("*.*")]:
        assert not path.is_file() or "{{" not in path.read_text()
    with pytest.raises(ValueError, match=r"app must be a new or an empty folder"):
        write_application(find_bundle(name), tmp_path / "app")


def test_what_an_application_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind must be denoising for psf_blindspot, got 'pair'"):
        write_application(find_bundle("psf_blindspot"), tmp_path / "app", "pair")
    assert not (tmp_path / "app").exists()


def test_the_packages_of_an_application_are_those_of_the_extra_and_nothing_else_imports_them() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    from warpzoo.deployment.writing import SDK

    named = [one.replace(">=4,<5", "==4.0.0") for one in extras["deploy"]]
    assert named == [*SDK]
    for path in (ROOT / "common" / "warpzoo").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        foreign = re.findall(r"^\s*(?:from|import) (?:monai\.deploy|pydicom|highdicom|starlette|uvicorn)", text, re.M)
        assert not foreign or {"deployment", "commands"} & {*path.parts}, path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "fixed"),
    [
        (("fixed.nii.gz", "moving.mha"), "fixed.nii.gz"),
        (("fixed/1.dcm", "moving.nii.gz"), "fixed"),
        (("fixed/a/b/1.dcm", "fixed/a/b/2.dcm", "moving/1.dcm"), "fixed/a/b"),
        (("fixed.ome.zarr/zarr.json", "moving.tif", ".hidden"), "fixed.ome.zarr"),
    ],
)
def test_a_pair_is_found_by_its_names(names: tuple[str, ...], fixed: str, tmp_path: Path) -> None:
    touch(tmp_path / "in", *names)
    found = find_pair(tmp_path / "in", {}, tmp_path / "work")
    assert found["fixed"] == tmp_path / "in" / fixed
    assert found["moving"].name.startswith("moving")


def test_a_pair_is_found_in_a_study_by_descriptions(study: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    for side in ("fixed", "moving"):
        for path in (study / side).iterdir():
            shutil.copyfile(path, both / f"{side[0]}{path.name}")
    (both / "notes.txt").write_text("nothing")
    found = find_pair(both, {"fixed": "BEFORE", "moving": "after$"}, tmp_path / "work")
    described = {side: {dcmread(path).SeriesDescription for path in found[side].iterdir()} for side in found}
    assert described == {"fixed": {"T1 before"}, "moving": {"T1 after"}}
    assert len([*found["moving"].iterdir()]) == 13
    with pytest.raises(ValueError, match=r"has the DICOM series 'T1 .*say in app.yaml, under series, which descript"):
        find_pair(both, {}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"one series whose description matches 'T1', for fixed; got 2 of"):
        find_pair(both, {"fixed": "T1", "moving": "after"}, tmp_path / "other")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "must have a fixed and a moving image, such as .*; got nothing"),
        (("a.nii", "b.nii"), r"got a.nii, b.nii"),
        (("fixed.nii", "fixed.mha", "moving.nii"), "must have one fixed and one moving image, got 2 and 1"),
        (("fixed.nii", "removing.nii"), "must have one fixed and one moving image, got 1 and 0"),
    ],
)
def test_what_is_no_pair(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    touch(tmp_path / "in", *names)
    with pytest.raises(ValueError, match=message):
        find_pair(tmp_path / "in", {}, tmp_path / "work")


def test_the_one_image(study: Path, tmp_path: Path) -> None:
    touch(tmp_path / "in", "image.tif")
    assert find_image(tmp_path / "in") == find_image(tmp_path / "in" / "image.tif") == tmp_path / "in" / "image.tif"
    assert find_image(study / "fixed") == study / "fixed"
    with pytest.raises(
        ValueError, match="must have one image, a file or a folder with one DICOM series; got fixed, mo"
    ):
        find_image(study)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn_multires", "stn_affine", "psf_blindspot", "denoisereg"])
def test_it_is_a_holoscan_application(name: str) -> None:
    pytest.importorskip("monai.deploy.core", reason="monai-deploy-app-sdk is not installed (the extra deploy)")
    command = [sys.executable, str(ROOT / "scripts" / "try_application.py"), name]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


def test_a_setting_that_the_bundle_does_not_have_is_said(study: Path) -> None:
    from warpzoo.deployment.application.bundle import Released

    files: dict[str, Any] = {side: study / side for side in ("fixed", "moving")}
    with pytest.raises(ValueError, match=r"entries of dirnet's inference.json, got 'refin' \(did you mean refine\?\)"):
        Released(ROOT / "bundles" / "dirnet", {"refin": 3}).read_pair(files)
