from __future__ import annotations

import json
import zipfile

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from warpzoo.training import PairDataset, draw_subjects, list_frames, list_images, not_of_subjects, of_subjects


def save_png(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5) + np.uint8(value)).save(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("a/1.png", "a/2.PNG", "b/1.png", "top.png"):
        save_png(tmp_path / "images" / name)
        save_png(tmp_path / "labels" / name)
    (tmp_path / "images" / "a" / "notes.txt").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def archive(tmp_path):
    """Three entries of two images each; every voxel of entry i is 10 i, plus 1 in the second, and labels 100 more."""
    path = tmp_path / "pairs.npz"
    first = np.arange(3, dtype=np.uint8)[:, None, None] * 10 + np.zeros((3, 4, 6), dtype=np.uint8)
    np.savez(
        path,
        ed=first,
        es=first + 1,
        ed_lv=first + 100,
        es_lv=first + 101,
        subject=["anna", "anna", "bob"],
        slice=[0, 1, 0],
        short=np.zeros(2),
    )
    return path


def test_folder_gives_every_image_below_it_grouped_by_where_it_lies(folder):
    records = list_images(folder)
    assert [record["id"] for record in records] == ["a/1.png", "a/2.PNG", "b/1.png", "top.png"]
    assert [record["group"] for record in records] == ["a", "a", "b", "."]
    assert all(record["image"] == folder / record["id"] and "label" not in record for record in records)


def test_folder_with_a_pattern_and_labels(folder):
    records = list_images(str(folder), pattern="a/*", labels=str(folder.parent / "labels"))
    assert [record["label"] for record in records] == [
        folder.parent / "labels/a/1.png",
        folder.parent / "labels/a/2.PNG",
    ]


def test_folder_without_images_says_which_and_what_is_looked_for(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no image that matches '\*' \(of the kinds \.nii, .*\.tiff\)"):
        list_images(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"images holds no image that matches '\*\.tif'"):
        list_images(folder, pattern="*.tif")


def test_folder_names_the_label_map_that_is_missing(folder):
    label = folder.parent / "labels" / "b" / "1.png"
    label.unlink()
    with pytest.raises(ValueError, match=f"{label} does not exist.*{folder / 'b' / '1.png'}"):
        list_images(folder, labels=folder.parent / "labels")


CSV = "image,label,group,subject,id\na/1.png,../labels/a/1.png,g,anna,one\nb/1.png,,,,\n"
ROWS = [
    {"image": "a/1.png", "label": "../labels/a/1.png", "group": "g", "subject": "anna", "id": "one"},
    {"image": "b/1.png", "label": None},
]


@pytest.mark.parametrize("kind", ["csv", "csv of a spreadsheet", "json"])
def test_lists_give_what_they_say_relative_to_themselves(folder, kind):
    path = folder / f"list.{kind[:4].strip()}"
    encoding = "utf-8-sig" if "spreadsheet" in kind else "utf-8"
    path.write_text(json.dumps(ROWS) if kind == "json" else CSV, encoding=encoding)
    one, other = list_images(path)
    assert one == {
        "id": "one",
        "group": "g",
        "subject": "anna",
        "image": folder / "a/1.png",
        "label": folder / "../labels/a/1.png",
    }
    assert other == {"id": "b/1.png", "group": "", "subject": "b/1.png", "image": folder / "b/1.png"}


def test_json_with_numbers_for_names_gives_text(folder):
    path = folder / "list.json"
    path.write_text(json.dumps([{"image": "a/1.png", "id": 0, "subject": 7, "group": 1}]))
    (record,) = list_images(path)
    assert (record["id"], record["subject"], record["group"]) == ("0", "7", "1")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "", "lists no image"),
        ("list.csv", "image\n", "lists no image"),
        ("list.csv", "file,subject\na/1.png,anna\n", r"entry 1: no `image`; it has \['file', 'subject'\]"),
        ("list.csv", "image\na/1.png\nmissing.png\n", r"entry 2: .*missing\.png does not exist"),
        ("list.csv", "image,label\na/1.png,none.png\n", r"entry 1: .*none\.png does not exist"),
        ("list.json", "[]", "lists no image"),
        ("list.json", '{"image": "a/1.png"}', "must be a list of objects"),
        ("list.json", '["a/1.png"]', "must be a list of objects"),
        ("list.json", '[{"image": "a/1.png"}', "cannot be read as JSON"),
        ("list.json", "[" * 100_000, "cannot be read as JSON"),
        ("list.csv", "image\na\x1b[31m.png\n", r"entry 1: .*a.\[31m\.png does not exist"),
        ("list.csv", f"image\n{'a' * 5000}\n", r"entry 1: .{,400} does not exist"),
    ],
)
def test_bad_lists_name_the_file_and_the_entry(folder, name, text, message):
    path = folder / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        list_images(path)
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()


class Hostile:
    """A pickle that creates a file when it is read as one."""

    def __reduce__(self):
        return open, ("created", "w")


def test_a_list_in_another_encoding_is_told_so(tmp_path):
    (tmp_path / "list.csv").write_bytes("image\nGehirn für mich.nii.gz\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"list.csv must be CSV in UTF-8; it is text in another encoding"):
        list_images(tmp_path / "list.csv")


@pytest.mark.parametrize("kind", ["no archive", "empty", "a damaged array", "a damaged name", "objects", "a number"])
def test_archives_that_are_none_name_the_file_and_run_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npz"
    arrays = {"objects": np.array([Hostile()], object), "a number": np.array(3)}
    np.savez(path, x=arrays.get(kind, np.zeros((3, 4, 5))))
    if kind == "no archive":
        path.write_bytes(b"x" * 100)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "a damaged array":
        path.write_bytes(path.read_bytes().replace(b"{'descr'", b"{{{{{{{{"))
    elif kind == "a damaged name":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", b"NUMPY" * 10)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as an \.npz of arrays"):
        list_images(path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.npz"]


def test_archive_gives_every_image_with_its_label_group_and_subject(archive):
    records = list_images(
        archive, images=["ed", "es"], labels=["ed_lv", "es_lv"], group=["subject", "slice"], subject="subject"
    )
    assert [record["id"] for record in records[:3]] == ["anna/0/0/ed", "anna/0/0/es", "anna/1/1/ed"]
    assert [record["group"] for record in records] == ["anna/0"] * 2 + ["anna/1"] * 2 + ["bob/0"] * 2
    assert [record["subject"] for record in records] == ["anna"] * 4 + ["bob"] * 2
    assert [int(record["image"][0, 0]) for record in records] == [0, 1, 10, 11, 20, 21]
    assert [int(record["label"][0, 0]) for record in records] == [100, 101, 110, 111, 120, 121]
    assert len({record["id"] for record in records}) == 6


def test_archive_where_keeps_some_entries(archive):
    records = list_images(archive, images=["ed"], where={"slice": [0], "subject": ["bob", "eve"]})
    assert [(record["subject"], int(record["image"][0, 0])) for record in records] == [("2", 20)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": ["ed", "mid"]}, r"has no array mid; it has ed, es, .*subject"),
        ({"images": ["ed"], "where": {"slice": [9]}}, r"no entry where \{'slice': \[9\]\}"),
        ({"images": ["ed"], "subject": "short"}, r"'ed': 3.*'short': 2"),
        ({"images": ["ed", "es"], "labels": ["ed_lv"]}, "2 of images and 1 of labels"),
    ],
)
def test_bad_archives_say_what_they_have(archive, options, message):
    with pytest.raises(ValueError, match=message) as error:
        list_images(archive, **options)
    assert str(archive) in str(error.value)


def test_sources_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "images.txt").write_text("")
    with pytest.raises(ValueError, match=r"images\.txt is neither a folder nor"):
        list_images(tmp_path / "images.txt")


def test_subjects_are_split_without_overlap(archive):
    records = list_images(archive, images=["ed", "es"], subject="subject")
    held_out = of_subjects(records, ["bob"])
    rest = not_of_subjects(records, ["bob"])
    assert [record["id"] for record in held_out + rest] == ["2/ed", "2/es", "0/ed", "0/es", "1/ed", "1/es"]
    # a misspelt subject would be trained on
    for choose in (of_subjects, not_of_subjects):
        with pytest.raises(ValueError, match=r"such as \['anna', 'bob'\], got 'bobb' \(did you mean bob\?\)"):
            choose(records, ["anna", "bobb"])
    with pytest.raises(ValueError, match=r"subjects must be named \(--subjects\), .* got none"):
        of_subjects(records, [])


def test_drawn_subjects_depend_on_the_seed_alone():
    records = [{"subject": f"s{index % 20}"} for index in range(60)]
    drawn = draw_subjects(records, 0.25, seed=3)
    assert len(drawn) == len(set(drawn)) == 5
    assert drawn == draw_subjects(records[::-1], 0.25, seed=3)
    assert drawn != draw_subjects(records, 0.25, seed=4)
    assert len(draw_subjects(records, 0.001)) == 1


def test_drawn_subjects_make_a_pair():
    records = [{"subject": name, "id": name, "group": "", "image": np.eye(4)} for name in "abcde"]
    for fraction in (0.01, 0.2):
        drawn = draw_subjects(records, fraction)
        assert len(PairDataset(of_subjects(records, drawn), pairing="all")) == 2
    assert draw_subjects(records[:1], 0.2) == ["a"]


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 7)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_files_are_read_as_they_are(tmp_path, shape, suffix):
    arrays = np.random.default_rng(0).normal(100, 20, (2, *shape)).astype(np.float32)
    for name, array in zip("ab", arrays, strict=True):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}{suffix}")
    pair = PairDataset(list_images(tmp_path))[0]
    assert pair["image"].shape == (2, *shape)
    np.testing.assert_array_equal(pair["image"].numpy(), arrays[::-1])  # moving b, fixed a
    assert pair["id"] == f"b{suffix} -> a{suffix}"


def test_images_are_left_out_by_their_ids(folder):
    kept = list_images(folder, without=["a/1.png", "top.png"])
    assert [record["id"] for record in kept] == ["a/2.PNG", "b/1.png"]
    with pytest.raises(ValueError, match=r"without must be ids of images in .*got 'b/2.png' \(did you mean"):
        list_images(folder, without=["b/2.png"])


def test_frames_of_a_sequence_are_images_that_may_be_paired(tmp_path, folder):
    frames = np.arange(20 * 6 * 5, dtype=np.float32).reshape(20, 6, 5)
    tifffile.imwrite(tmp_path / "cells.tif", frames, imagej=True, metadata={"axes": "TYX"})
    read = list_frames(tmp_path / "cells.tif")
    assert [record["id"] for record in read] == [f"frame {number}" for number in range(20)]
    np.testing.assert_array_equal(read[7]["image"], frames[7].T)  # x first, as all that is registered
    given = list_frames(frames, most=4, without=["frame 6"])
    assert [record["id"] for record in given] == ["frame 0", "frame 13", "frame 19"]
    np.testing.assert_array_equal(given[1]["image"], frames[13])
    assert len(PairDataset(given, pairing="all")) == 6
    assert len(list_frames(folder)) == len(list_images(folder))


def test_what_a_training_leaves_below_the_images_is_none_of_them(folder):
    before = [record["id"] for record in list_images(folder)]
    save_png(folder / "run" / "pictures" / "epoch_0001.png")
    (folder / "run" / "run.json").write_text("{}")
    assert [record["id"] for record in list_images(folder)] == before
    save_png(folder / "run" / "labels" / "a" / "1.png")
    save_png(folder / "maps" / "a" / "1.png")
    maps = list_images(folder, labels=folder / "maps", pattern="*a/1.png")
    assert [(record["id"], record["label"]) for record in maps] == [("a/1.png", folder / "maps" / "a" / "1.png")]
    assert len(list_images(folder / "run")) == 2  # looked for by its own name, it is a folder like any other
