"""Bundles published to registries and fetched from there: whole, checked, and without running them."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

import warpzoo
from warpzoo.bundles import find_bundle
from warpzoo.commands.methods import methods
from warpzoo.commands.publish import publish
from warpzoo.files import FileError
from warpzoo.sharing.archive import pack, sha1
from warpzoo.sharing.fetching import fetch
from warpzoo.sharing.release import Release, add_to_index

from .conftest import Evil

Files = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def shelf(made: Release, tmp_path: Path) -> Path:
    """A folder into which the bundle was published."""
    publish(str(made.path), "folder", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


@pytest.fixture
def is_whole(made: Release, fetched: Path, files: Files) -> Callable[[], bool]:
    """Whether what was fetched is what was published."""

    def is_whole() -> bool:
        there = files(fetched / "dirnet")
        return there.pop("fetched.json") is not None and there == files(made.path)

    return is_whole


# A folder, and a file server


def test_a_folder_lists_what_is_in_it(made: Release, shelf: Path) -> None:
    content = (shelf / "dirnet_v0.1.0.zip").read_bytes()
    assert json.loads((shelf / "model_info.json").read_text()) == {
        "dirnet_v0.1.0": {"checksum": hashlib.sha1(content).hexdigest(), "source": "dirnet_v0.1.0.zip"}
    }
    assert content == made.path.read_bytes()


@pytest.mark.parametrize("name", ["dirnet", "dirnet_v0.1.0", "dirnet_v0.1.0.zip"])
def test_what_is_fetched_is_what_was_published(
    name: str, shelf: Path, fetched: Path, is_whole: Callable[[], bool]
) -> None:
    found = fetch(f"{shelf}/{name}")
    assert found.bundle.root == fetched / "dirnet"
    assert not found.replaced
    assert is_whole()
    assert [path.name for path in fetched.iterdir()] == ["dirnet"]
    assert fetch(f"{shelf}/{name}").replaced


def test_the_latest_version_is_taken_as_numbers_go(shelf: Path) -> None:
    index = json.loads((shelf / "model_info.json").read_text())
    metadata_as(lambda content: content.update(version="0.10.0"))(shelf, shelf.parent / "scratch", None)
    (shelf / "dirnet_v0.1.0.zip").rename(shelf / "dirnet_v0.10.0.zip")
    index["dirnet_v0.10.0"] = {"checksum": sha1(shelf / "dirnet_v0.10.0.zip"), "source": "dirnet_v0.10.0.zip"}
    for key in ("dirnet_v0.1.0", "dirnet_v0.9.0", "dirnet_more_v9.0.0"):
        index[key] = {"checksum": "0" * 40, "source": "nowhere.zip"}
    (shelf / "model_info.json").write_text(json.dumps(index))
    assert fetch(f"{shelf}/dirnet").bundle.metadata["version"] == "0.10.0"
    with pytest.raises(FileError, match="must list dirnet_v0.2.0, got dirnet_more_v9.0.0, dirnet_v0.1.0, "):
        fetch(f"{shelf}/dirnet_v0.2.0")


@pytest.fixture
def server(shelf: Path) -> Iterator[str]:
    """The address of a file server for the folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(shelf))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_server_is_a_folder(server: str, fetched: Path, shelf: Path, is_whole: Callable[[], bool]) -> None:
    fetch(f"{server}/dirnet")
    assert is_whole()
    shutil.rmtree(fetched)
    index = json.loads((shelf / "model_info.json").read_text())
    index["dirnet_v0.1.0"]["source"] = (shelf / "dirnet_v0.1.0.zip").as_uri()
    (shelf / "model_info.json").write_text(json.dumps(index))
    with pytest.raises(FileError, match="must only name files of its own folder, got 'file:"):
        fetch(f"{server}/dirnet")
    with pytest.raises(FileError, match="x/model_info.json cannot be fetched .*404"):
        fetch(f"{server}/x/dirnet")
    assert not fetched.exists()


# What is done with it


@pytest.mark.usefixtures("forget")
def test_a_fetched_bundle_comes_before_a_shipped_one_and_says_so(
    shelf: Path, fetched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods()
    before = capsys.readouterr().out.splitlines()
    fetch(f"{shelf}/dirnet")
    methods()
    after = capsys.readouterr().out.splitlines()
    assert sorted(set(after) - set(before)) == [
        next(line for line in before if line.startswith("dirnet ")) + f" (version 0.1.0, fetched from {shelf}/dirnet)"
    ]
    assert len(after) == len(before)
    assert find_bundle("dirnet", "registration").root == fetched / "dirnet"


def test_it_registers_as_the_shipped_one_does(
    shelf: Path, fetched: Path, tmp_path: Path, forget: Callable[[], None]
) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(72, 64)), 4)
    fixed = (1000 * (noise - noise.min()) / np.ptp(noise)).astype(np.float32)
    moving = ndimage.shift(fixed, (1.5, -2), order=1, mode="nearest")
    shipped = warpzoo.register(fixed, moving, method="dirnet").warped
    fetch(f"{shelf}/dirnet")
    forget()
    for name, image in (("fixed", fixed), ("moving", moving)):
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / f"{name}.nii.gz")
    assert np.array_equal(warpzoo.register(fixed, moving, method="dirnet").warped, shipped)
    import dirnet.network

    assert Path(dirnet.network.__file__).is_relative_to(fetched)


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Makes Python forget the bundle's package, now and at the end."""
    import sys

    monkeypatch.setattr("warpzoo.bundles._PACKAGES.opened", {})
    monkeypatch.setattr(sys, "path", list(sys.path))

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "dirnet"]:
            del sys.modules[name]

    forget()
    yield forget
    forget()


# What is refused


@pytest.mark.parametrize("kind", ["altered", "weights that run"])
def test_what_is_published_is_looked_through(
    kind: str, made: Release, shelf: Path, files: Files, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    shutil.copy(made.path, tmp_path / "own")
    listed_anew(shelf)
    REFUSED[kind][0](tmp_path / "own", tmp_path / "scratch", Evil(tmp_path / "evil"))
    before = files(tmp_path)
    with pytest.raises(FileError, match=r"cannot be read as a zip file|model.pt cannot be read as weights"):
        publish(str(tmp_path / "own" / made.path.name), "folder", str(shelf))
    assert files(tmp_path) == before


def test_publishing_at_once_loses_no_entry(made: Release, tmp_path: Path) -> None:
    versions = [replace(made, path=tmp_path / f"dirnet_v0.{number}.0.zip") for number in range(1, 17)]
    with ThreadPoolExecutor(len(versions)) as threads:
        list(threads.map(partial(add_to_index, tmp_path / "model_info.json"), versions))
    assert set(json.loads((tmp_path / "model_info.json").read_text())) == {one.name for one in versions}
    assert [one.name for one in tmp_path.iterdir()] == ["model_info.json"]


def test_a_version_that_is_published_stays(made: Release, shelf: Path, files: Files, tmp_path: Path) -> None:
    publish(str(made.path), "folder", str(shelf))  # the same again
    (tmp_path / "own").mkdir()
    shutil.copy(made.path, tmp_path / "own")
    metadata_as(lambda content: content.update(description="Other."))(tmp_path / "own", tmp_path / "scratch", None)
    before = files(shelf)
    with pytest.raises(FileError, match="is published already, with other bytes: raise the version of dirnet"):
        publish(str(tmp_path / "own" / made.path.name), "folder", str(shelf))
    assert files(shelf) == before
    (shelf / "model_info.json").write_text("[]")
    with pytest.raises(FileError, match="model_info.json cannot be read as an index of bundles"):
        publish(str(made.path), "folder", str(shelf))
    with pytest.raises(ValueError, match="address must be a folder of this machine"):
        publish(str(made.path), "folder", "https://example.org/bundles")


def rewritten(change: Callable[[Path, object], object]) -> Callable[[Path, Path, object], None]:
    """The bundle in the folder changed, packed and listed anew, with its new checksum."""

    def apply(shelf: Path, scratch: Path, evil: object) -> None:
        path = shelf / "dirnet_v0.1.0.zip"
        with zipfile.ZipFile(path) as zipped:
            zipped.extractall(scratch)
        root = change(scratch / "dirnet", evil)
        pack(root if isinstance(root, Path) else scratch / "dirnet", path)
        listed_anew(shelf)

    return apply


def listed_anew(shelf: Path, **entry: str) -> None:
    checksum = sha1(shelf / "dirnet_v0.1.0.zip")
    entry = {"checksum": checksum, "source": "dirnet_v0.1.0.zip"} | entry
    (shelf / "model_info.json").write_text(json.dumps({"dirnet_v0.1.0": entry}))


def truncated(shelf: Path, scratch: Path, evil: object) -> None:
    path = shelf / "dirnet_v0.1.0.zip"
    path.write_bytes(path.read_bytes()[:-5000])
    listed_anew(shelf)


def altered(shelf: Path, scratch: Path, evil: object) -> None:
    path = shelf / "dirnet_v0.1.0.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def leading_elsewhere(shelf: Path, scratch: Path, evil: object) -> None:
    with zipfile.ZipFile(shelf / "dirnet_v0.1.0.zip", "a") as zipped:
        zipped.writestr("dirnet/../../evil", "evil")
    listed_anew(shelf)


def metadata_as(change: Callable[[dict], object]) -> Callable[[Path, Path, object], None]:
    def apply(root: Path, evil: object) -> None:
        path = root / "configs" / "metadata.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return rewritten(apply)


REFUSED: dict[str, tuple[Callable[[Path, Path, object], object], str]] = {
    "altered": (altered, "must have the sha1 .*, got"),
    "truncated": (truncated, "cannot be read as a zip file"),
    "leading elsewhere": (leading_elsewhere, r"must only have files of its own folder, got 'dirnet/../../evil'"),
    "an index that leads elsewhere": (
        lambda shelf, *_: listed_anew(shelf, source="../shelf/dirnet_v0.1.0.zip"),
        "model_info.json must only name files of its own folder",
    ),
    "an index without checksums": (
        lambda shelf, *_: (shelf / "model_info.json").write_text('{"dirnet_v0.1.0": {"source": "dirnet_v0.1.0.zip"}}'),
        "model_info.json must have a checksum and a source for dirnet_v0.1.0",
    ),
    "no index": (lambda shelf, *_: (shelf / "model_info.json").unlink(), "model_info.json does not exist"),
    "a damaged index": (lambda shelf, *_: (shelf / "model_info.json").write_text("{"), "cannot be read as an index"),
    "weights that run": (
        rewritten(lambda root, evil: torch.save({"a": evil}, root / "models" / "model.pt")),
        r"is refused: models/model.pt cannot be read as weights",
    ),
    "a pickle": (
        rewritten(lambda root, evil: (root / "docs" / "a.pkl").write_bytes(pickle.dumps(evil))),
        r"is refused: docs/a.pkl must not be there",
    ),
    "no metadata": (
        rewritten(lambda root, evil: (root / "configs" / "metadata.json").unlink()),
        r"is refused: configs/metadata.json must be there",
    ),
    "metadata that are none": (
        rewritten(lambda root, evil: (root / "configs" / "metadata.json").write_text("[]")),
        r"is refused: configs/metadata.json must be a JSON object",
    ),
    "no inference": (
        rewritten(lambda root, evil: (root / "configs" / "inference.json").write_text("{")),
        r"is refused: configs/inference.json cannot be read as JSON",
    ),
    "another task": (
        metadata_as(lambda content: content["network_data_format"]["outputs"]["pred"].update(format="segmentation")),
        r"is refused: the bundle must be for registration or denoising",
    ),
    "weights that run, by other names": (
        rewritten(lambda root, evil: torch.save({"a": evil}, root / "models" / "other.PT")),
        r"is refused: models/other.PT cannot be read as weights",
    ),
    "objects that run, as PyTorch packs them": (
        rewritten(lambda root, evil: torch.save({"a": evil}, root / "models" / "other.bin")),
        r"is refused: models/other.bin cannot be read as weights",
    ),
    "a pickle by another name": (
        rewritten(lambda root, evil: (root / "models" / "model.ts").write_bytes(pickle.dumps(evil))),
        r"is refused: models/model.ts must not be there: reading such a file runs",
    ),
    "another bundle": (
        rewritten(lambda root, evil: (root / "dirnet").rename(root / "other") and root.rename(root.with_name("other"))),
        r"is refused: it must be dirnet_v0.1.0, got other_v0.1.0",
    ),
    "another version": (
        metadata_as(lambda content: content.update(version="9.9.9")),
        r"is refused: it must be dirnet_v0.1.0, got dirnet_v9.9.9",
    ),
    "a version that is none": (
        metadata_as(lambda content: content.update(version="0.1\x1b[2J")),
        r"is refused: version of the metadata must be numbers such as 0.1.0, got '0.1\\x1b\[2J'",
    ),
    "seven axes": (
        metadata_as(lambda content: content["network_data_format"]["inputs"]["image"].update(spatial_shape=["n"] * 7)),
        r"is refused: spatial_shape of the metadata must have 2 or 3 axes, got 7",
    ),
    "no version": (metadata_as(lambda content: content.pop("version")), r"is refused: version of the metadata must be"),
    "the name of a package": (
        rewritten(lambda root, evil: root.rename(root.with_name("numpy"))),
        r"is refused: the bundle's name must be a word that is no package's, got 'numpy'",
    ),
    "no package": (
        rewritten(lambda root, evil: shutil.rmtree(root / "dirnet")),
        r"is refused: dirnet/__init__.py must be",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_wrong_is_refused_in_a_sentence_and_leaves_nothing(
    kind: str, shelf: Path, fetched: Path, files: Files, evil: object, tmp_path: Path
) -> None:
    spoil, message = REFUSED[kind]
    spoil(shelf, tmp_path / "scratch", evil)
    before = files(tmp_path)
    with pytest.raises(FileError, match=message) as raised:
        fetch(f"{shelf}/dirnet")
    assert "\n" not in str(raised.value)
    assert files(tmp_path) == before
    assert not fetched.parent.exists()


def test_what_was_there_stays_when_another_is_refused(shelf: Path, fetched: Path, files: Files, tmp_path: Path) -> None:
    fetch(f"{shelf}/dirnet")
    before = files(fetched)
    altered(shelf, tmp_path, None)
    with pytest.raises(FileError, match="must have the sha1"):
        fetch(f"{shelf}/dirnet")
    assert files(fetched) == before


def test_nothing_of_it_runs_before_it_is_used(shelf: Path, tmp_path: Path, ran: Path) -> None:
    def arm(root: Path, _: object) -> None:
        for path in [*root.rglob("*.py")]:
            path.write_text(f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n" + path.read_text())
        path = root / "configs" / "inference.json"
        content = json.loads(path.read_text())
        content["imports"] = [f"$__import__('pathlib').Path({str(ran)!r}).touch()"]
        path.write_text(json.dumps(content))

    rewritten(arm)(shelf, tmp_path / "scratch", None)
    fetch(f"{shelf}/dirnet")
    methods()
