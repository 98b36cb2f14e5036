"""What goes wrong ends as one sentence, an exit code, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image as Picture

from warpzoo.errors import plain_reason
from warpzoo.images.formats import nifti
from warpzoo.registration.listing import list_pairs

from .conftest import Ended, save, smooth

Call = Callable[..., Ended]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_bundle: Callable[..., Path]) -> Path:
    """Two images in the current folder, and a method for them."""
    monkeypatch.chdir(tmp_path)
    make_bundle("shift", [1.0, 0.0])
    for seed, name in enumerate(("a", "b")):
        save(tmp_path / f"{name}.nii.gz", smooth((40, 36), seed).astype(np.float32))
    return tmp_path


def failed(ended: Ended, *words: str) -> None:
    assert ended.code not in (0, None)
    assert len(ended.err.strip().splitlines()) == 1, ended.err
    assert ended.err.startswith("warpzoo register: ")
    for word in words:
        assert word in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "fixed and moving"),
        (["a.nii.gz"], "moving is not given"),
        (["a.nii.gz", "none.nii.gz"], "none.nii.gz does not exist"),
        (["a.nii.gz", "b.nii.gz", "--method", "voxelmorf"], "got 'voxelmorf'"),
        (["a.nii.gz", "b.nii.gz", "--output", "a.nii.gz"], "got the file a.nii.gz"),
        (["a.nii.gz", "b.nii.gz", "--refine", "many"], "got 'many'"),
        (["a.nii.gz", "b.nii.gz", "--refine", "-3"], "got '-3'"),
        (["a.nii.gz", "b.nii.gz", "--fixed_labels", "a.nii.gz"], "without moving_labels"),
        (["a.nii.gz", "b.nii.gz", "--also", "a.nii.gz,a.nii.gz"], "two results"),
        (["a.nii.gz", "b.nii.gz", "--pairs", "x.csv"], "both given"),
        (["--pairs", "x.csv"], "x.csv does not exist"),
    ],
)
def test_said_at_once(warpzoo: Call, folder: Path, arguments: list[str], words: str) -> None:
    failed(warpzoo("register", "--method", "shift", *arguments), words)
    assert not (folder / "registered").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["register", "a.nii.gz", "b.nii.gz", "--bogus", "1"],
            "--bogus is no option of it; see warpzoo register --help.",
        ),
        (["register", "a.nii.gz", "b.nii.gz", "--metod=affine"], "--metod is no option of it (did you mean method?)"),
        (["register", "a.nii.gz", "b.nii.gz", "c.nii.gz"], "'c.nii.gz' is one argument too many"),
        (["denoise"], "image must be given; see warpzoo denoise --help."),
    ],
)
def test_unknown_arguments_run_nothing(warpzoo: Call, folder: Path, arguments: list[str], words: str) -> None:
    ended = warpzoo(*arguments)
    assert ended.code == 2
    assert ended.err.startswith(f"warpzoo {arguments[0]}: {words}")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err
    assert not (folder / "registered").exists()


def bad_files(folder: Path) -> dict[str, tuple[str, str]]:
    """Every kind of file that cannot be registered: its name, and a word of what is said."""
    whole = (folder / "a.nii.gz").read_bytes()
    (folder / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii.gz").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "empty folder").mkdir()
    save(folder / "series.nii.gz", smooth((20, 20, 4, 3)).astype(np.float32))
    save(folder / "volume.nii.gz", smooth((20, 20, 20)).astype(np.float32))
    save(folder / "nan.nii.gz", np.full((20, 20), np.nan, np.float32))
    Picture.fromarray(smooth((30, 30, 3)).astype(np.uint8)).save(folder / "colour.png")
    return {
        "truncated": ("truncated.nii.gz", "damaged"),
        "text": ("text.nii.gz", "damaged"),
        "empty": ("empty.png", "damaged"),
        "folder": ("empty folder", "DICOM"),
        "series": ("series.nii.gz", "series"),
        "volume": ("volume.nii.gz", "3-D"),
        "nan": ("nan.nii.gz", "NaN"),
        "colour": ("colour.png", "colour"),
    }


KINDS = ["truncated", "text", "empty", "folder", "series", "volume", "nan", "colour"]


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_that_cannot_be_registered(warpzoo: Call, folder: Path, kind: str, role: str) -> None:
    name, word = bad_files(folder)[kind]
    other = {"fixed": "moving", "moving": "fixed"}[role]
    failed(warpzoo("register", f"--{role}", name, f"--{other}=a.nii.gz", "--method=shift"), name, word)
    assert not (folder / "registered").exists()


@pytest.mark.parametrize("role", ["moving_labels", "also", "moving_points"])
def test_what_comes_along_is_read_before_the_network_runs(warpzoo: Call, folder: Path, role: str) -> None:
    (folder / "bad.csv").write_text("no numbers\n")
    name = "bad.csv" if role == "moving_points" else "a.nii.gz" if role == "moving_labels" else "bad.csv"
    failed(warpzoo("register", "a.nii.gz", "b.nii.gz", f"--{role}", name, "--method=shift"), name)
    assert not (folder / "registered").exists()


def test_strict_turns_warnings_into_errors(warpzoo: Call, folder: Path) -> None:
    image = nibabel.load("b.nii.gz")
    image.affine[:2, 3] += 30
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine), "far.nii.gz")
    arguments = ("register", "a.nii.gz", "far.nii.gz", "--method", "shift", "--noreport")
    ended = warpzoo(*arguments)
    assert ended.code == 0, ended.err
    assert "warning: " in ended.out
    failed(warpzoo(*arguments, "--strict"), "Without strict")
    assert not list((folder / "registered").iterdir()), "what an earlier run wrote is not this run's"


@pytest.mark.parametrize("weights", ["none", "another", "text"])
def test_weights(warpzoo: Call, folder: Path, weights: str) -> None:
    path = folder / "bundles of mine/shift/models/model.pt"
    if weights == "none":
        path.unlink()
    elif weights == "text":
        path.write_text("no weights")
    else:
        torch.save({"other": torch.zeros(3)}, path)
    words = {"none": "does not exist", "another": "another network", "text": "cannot be read as weights"}
    failed(warpzoo("register", "a.nii.gz", "b.nii.gz", "--method", "shift"), words[weights], "model.pt")


def test_own_weights_know_other_sizes(warpzoo: Call, folder: Path) -> None:
    path = folder / "bundles of mine/shift/configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["training_data"] = {"size": [1000, 2000]}
    path.write_text(json.dumps(metadata))
    arguments = ("register", "a.nii.gz", "b.nii.gz", "--method", "shift", "--noreport")
    assert "trained on sides of 1000 to 2000" in warpzoo(*arguments).out
    shutil.copy(folder / "bundles of mine/shift/models/model.pt", "own.pt")
    own = warpzoo(*arguments, "--weights", "own.pt")
    assert own.code == 0, own.err
    assert "trained on" not in own.out
    failed(warpzoo(*arguments, "--weights", str(folder)), "is a folder", folder.name)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "you may not write there"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "memory"),
    ],
)
@pytest.mark.parametrize("first", [0, 2])
def test_writing_that_fails_leaves_nothing(
    warpzoo: Call,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    words: str,
    first: int,
) -> None:
    """The first or the third file of the results cannot be finished, over the results of an earlier run."""
    assert warpzoo("register", "a.nii.gz", "b.nii.gz", "--method", "shift", "--noreport").code == 0
    calls = []

    def replace(*paths: object) -> None:
        calls.append(paths)
        if len(calls) > first:
            raise error
        os.rename(*paths)

    monkeypatch.setattr("warpzoo.files.os.replace", replace)
    ended = warpzoo("register", "a.nii.gz", "b.nii.gz", "--method", "shift", "--noreport")
    failed(ended, words)
    assert ended.code == code
    assert len(calls) == first + 1
    assert not list((folder / "registered").iterdir())


def test_interruption_in_mid_write(warpzoo: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_values(values: np.ndarray, file: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(nifti, "write_values", write_values)
    failed(warpzoo("register", "a.nii.gz", "b.nii.gz", "--method", "shift", "--noreport"), "interrupted")
    assert not list((folder / "registered").iterdir())


@pytest.mark.parametrize("letter", ["@", "$", "%"])
def test_names_are_never_evaluated(warpzoo: Call, folder: Path, letter: str) -> None:
    names = []
    for name in ("a", "b"):
        names.append(f"{letter}{name}.nii.gz")
        os.rename(f"{name}.nii.gz", names[-1])
    ended = warpzoo("register", *names, "--method", "shift", "--output", f"{letter}bundle_root", "--noreport")
    assert ended.code == 0, ended.err
    assert (folder / f"{letter}bundle_root/warped.nii.gz").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fixed\na.nii.gz\n", "must have fixed and moving"),
        ("fixed,moving,age\na,b,3\n", "age"),
        ("fixed,moving\na.nii.gz,\n", "row 1: moving is not given"),
        ("fixed,moving\na,b,c\n", "row 1: it has more fields"),
        ("id,fixed,moving\nx,a,b\nx,a,b\n", "row 2: the id 'x'"),
        ("id,fixed,moving\n2,a,b\n,a,b\n", "row 2: the id '2'"),
        ("fixed,moving,fixed_points\na,b,c\n", "without moving_points"),
        ("fixed,moving\n", "lists no pair"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        list_pairs("pairs.csv", tmp_path)


def test_ids_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("id,fixed,moving\n../../x,a,b\n..,a,b\n.,a,b\n")
    assert [pair["id"] for pair in list_pairs("pairs.csv", tmp_path)] == ["_.._x", "2", "3"]


def test_a_report_that_cannot_be_drawn_costs_nothing_else(
    warpzoo: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_report(*_: object, **__: object) -> None:
        raise ValueError("no font is there")

    monkeypatch.setattr("warpzoo.report.page.write_report", write_report)
    ended = warpzoo("register", "a.nii.gz", "b.nii.gz", "--method", "shift")
    assert ended.code == 0, ended.err
    assert "warning: the report could not be drawn: no font is there" in ended.out
    assert {"metrics.json", "warped.nii.gz", "transform.h5"} <= {
        path.name for path in (folder / "registered").iterdir()
    }


def test_debugging_shows_the_way_to_a_failure(warpzoo: Call, folder: Path) -> None:
    with pytest.raises(ValueError, match="method must be one of"):
        warpzoo("register", "a.nii.gz", "b.nii.gz", "--method", "none", "--debug")


def test_monais_command_names_a_missing_bundle_root(folder: Path) -> None:
    config = ConfigWorkflow(str(folder / "bundles of mine/shift/configs/inference.json"), workflow_type="inference")
    config.initialize()
    with pytest.raises(RuntimeError) as failure:
        config.run()
    assert plain_reason(failure.value).startswith("bundle_root must be the folder of a bundle, with configs/metadata")


def test_pairs_may_be_read_by_other_processes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pairs.csv").write_text("fixed,moving\na.nii.gz,b.nii.gz\nb.nii.gz,a.nii.gz\n")
    root = folder / "bundles of mine/shift"
    options = {"bundle_root": str(root), "pairs": "pairs.csv", "output_dir": str(folder / "out"), "report": "false"}
    for workers in (0, 1):
        options["evaluator#num_workers"] = workers
        config = ConfigWorkflow(str(root / "configs/inference.json"), workflow_type="inference", **options)
        config.initialize()
        config.run()
        assert f"{folder / 'out' / '2'}: ncc" in capsys.readouterr().out
        numbers = json.loads((folder / "out/2/metrics.json").read_text())
        assert numbers["method"] == "shift"
        assert not (folder / "out/2/report.html").exists()
