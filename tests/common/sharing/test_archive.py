"""Zip files: reproducible, and refused whole where something is wrong with them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from warpzoo.files import FileError
from warpzoo.sharing.archive import pack, sha1, unpack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "here" / "mine"
    for name, text in (("a.txt", "one"), ("b/c.txt", "two" * 1000), ("b/.d", "three")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_files_give_the_same_bytes_whenever_they_were_written(folder: Path, tmp_path: Path) -> None:
    first = pack(folder, tmp_path / "first.zip").read_bytes()
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
        path.chmod(0o700)
    assert pack(folder, tmp_path / "new" / "second.zip").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "first.zip") as zipped:
        assert zipped.testzip() is None
        assert {name.partition("/")[0] for name in zipped.namelist()} == {"mine"}


def test_what_is_packed_comes_out(folder: Path, tmp_path: Path) -> None:
    path = pack(folder, tmp_path / "mine.zip")
    out = unpack(path, tmp_path / "out", sha1(path))
    assert out == tmp_path / "out" / "mine"
    assert contents(out) == contents(folder)
    with pytest.raises(FileError, match="mine is there already"):
        unpack(path, tmp_path / "out")


def damaged(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "altered":
        place = content.index(b"a.txt") + 6
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    elif kind == "empty":
        with zipfile.ZipFile(path, "w"):
            pass
    else:
        with zipfile.ZipFile(path, "a") as zipped:
            entry = zipfile.ZipInfo(kind)
            if kind == "mine/link":
                entry.external_attr = 0o120777 << 16
            zipped.writestr(entry, "evil")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "cannot be read as a zip file"),
        ("altered", "cannot be read as a zip file"),
        ("empty", "must have one folder, got nothing"),
        ("mine/../../evil", "must only have files of its own folder, got 'mine/../../evil'"),
        ("../evil", "must only have files of its own folder"),
        ("/evil", "must only have files of its own folder"),
        ("mine/C:evil", "must only have files of its own folder"),
        ("mine/link", "must only have files of its own folder"),
        ("theirs/evil", "must have one folder, got mine, theirs"),
    ],
)
def test_damaged_and_hostile_archives_leave_nothing(folder: Path, tmp_path: Path, kind: str, message: str) -> None:
    path = pack(folder, tmp_path / "mine.zip")
    damaged(path, kind)
    before = contents(tmp_path)
    with pytest.raises(FileError, match=message):
        unpack(path, tmp_path / "out")
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_another_checksum(folder: Path, tmp_path: Path) -> None:
    path = pack(folder, tmp_path / "mine.zip")
    with pytest.raises(FileError, match="must have the sha1 0000, got"):
        unpack(path, tmp_path / "out", "0000")
    assert not (tmp_path / "out").exists()
