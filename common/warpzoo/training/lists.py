"""Which images there are: from a folder, a CSV or JSON list, an .npz archive or a sequence, always as the same records.

A record is {"id", "group", "subject", "image"[, "label"]}: image and label are a path or an array (*spatial). Images
of one group (a slice of a subject, a class) may be paired with each other; those of one subject never stand on both
sides of a split into training and validation.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from warpzoo.errors import nearest
from warpzoo.files import FileError, reading, shortened
from warpzoo.images.formats import SUFFIXES
from warpzoo.images.image import Image
from warpzoo.images.series import open_series
from warpzoo.training.run_folder import RECORD

Record = dict[str, Any]
COLUMNS = ("image", "label", "group", "subject", "id")
"""What a list says of an image; other columns are nobody's business."""
ALIKE = 0.75
"""How similar a column's name must be to one of these that is not there to be a misspelt one."""
IMAGE_SUFFIXES = (*SUFFIXES["nifti"], ".mha", ".mhd", ".nrrd", *SUFFIXES["picture"], *SUFFIXES["tiff"])


def list_images(source: str | Path, without: Sequence[str] = (), missing: bool = False, **options: Any) -> list[Record]:
    """Records of a folder, a .csv or .json list, or an .npz archive, but for those of the ids `without`; `options` are
    those of the reader it comes to. Files that are not there are refused, but with `missing`."""
    path = Path(source)
    if not path.exists():
        raise ValueError(f"{path} does not exist; it must be a folder of images, a .csv or .json list or an .npz.")
    readers = {".npz": images_in_archive, ".csv": images_in_list, ".tsv": images_in_list, ".json": images_in_list}
    reader: Any = images_in_folder if path.is_dir() else readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is neither a folder nor a .csv, .json or .npz file; it must be one of these.")
    records: list[Record] = reader(path, **options)
    ids = {record["id"] for record in records}
    for name in without:
        if name not in ids:
            raise ValueError(f"without must be ids of images in {path}, got {name!r}{nearest(name, ids)}.")
    kept = [(number, record) for number, record in enumerate(records, 1) if record["id"] not in without]
    for number, record in kept if not missing else ():
        for key in ("image", "label"):
            file = record.get(key)
            if isinstance(file, Path) and not os.path.isfile(file):  # False for a name that is too long as well
                name = shortened(str(file), 400)
                if path.is_dir():
                    raise FileError(f"{name} does not exist; it must be the label map of the image {record['image']}.")
                raise FileError(f"{path}, entry {number}: {name} does not exist.")
    return [record for _, record in kept]


def options_of(source: str | Path, **given: str | None) -> dict[str, Any]:
    """What a command line says about the images of a source, as options of `list_images`.

    Args:
        given: `labels`, a folder where the images are in one; of an .npz `images`, `labels`, `group` and `subject`,
            names of its arrays joined by commas.
    """
    said = {name: value for name, value in given.items() if value is not None}
    if Path(source).suffix == ".npz":
        return {name: value if name == "subject" else value.split(",") for name, value in said.items()}
    for name in said:
        if name != "labels":
            raise ValueError(f"{name} must be given for an .npz of arrays alone, got {source}.")
        if not Path(source).is_dir():
            raise ValueError(
                f"labels must be given for a folder or an .npz alone, got {source}: use its column `label`."
            )
    return {name: str(Path(value).absolute()) for name, value in said.items()}


def images_in_folder(folder: Path, pattern: str = "*", labels: str | Path | None = None) -> list[Record]:
    """Every image file below the folder that matches; `labels` is a folder with label maps of the same names, and none
    of the images if it lies below, and neither are the pictures that a training has left there (`runs_below`)."""
    root = folder.resolve()
    maps = [] if labels is None else [one for one in [Path(labels).resolve()] if root in one.parents]
    others = {*runs_below(root), *maps} - {root}
    paths = sorted(
        path
        for path in folder.rglob(pattern)
        if path.name.lower().endswith(IMAGE_SUFFIXES) and others.isdisjoint((root / path.relative_to(folder)).parents)
    )
    if not paths:
        raise ValueError(
            f"{folder} holds no image that matches {pattern!r} (of the kinds {', '.join(IMAGE_SUFFIXES)})."
        )
    records = []
    for path in paths:
        name = path.relative_to(folder)
        record: Record = {"id": str(name), "group": str(name.parent), "subject": str(name), "image": path}
        if labels is not None:
            record["label"] = Path(labels) / name
        records.append(record)
    return records


def runs_below(folder: Path) -> list[Path]:
    """The folders below it that trainings have written into."""
    return sorted(path.parent for path in folder.rglob(RECORD))


def images_in_list(path: Path) -> list[Record]:
    """A table with a header, its columns parted by commas, semicolons or tabs, or a JSON list of objects: `image` and
    optionally `id`, `group`, `subject`, `label`; paths may be relative to the list."""
    kind = path.suffix[1:].upper()
    with reading(path, kind), open(path, newline="", encoding="utf-8-sig") as file:  # a CSV may start with such a mark
        if kind == "JSON":
            rows = json.load(file)
        else:
            header = file.readline()
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=max(",;\t", key=header.count)))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f'{path} must be a list of objects, such as [{{"image": "a.nii.gz"}}, …].')
    if not rows:
        raise ValueError(f"{path} lists no image.")
    records: list[Record] = []
    numbers: dict[str, int] = {}
    _check_columns(path, [key for row in rows for key in row if key])
    for number, row in enumerate(rows):
        filled = {key.strip(): str(value).strip() for key, value in row.items() if key and value not in (None, "")}
        if "image" not in filled:
            raise FileError(f"{path}, entry {number + 1}: no `image`; it has {shortened(str(sorted(filled)))}.")
        name = filled.get("id", filled["image"])
        if name in numbers:
            way_out = "another one" if "id" in filled else "an `id` of its own, or be there once"
            raise FileError(
                f"{path}, entry {number + 1}: {name} is the id of entry {numbers[name]}; give it {way_out}."
            )
        numbers[name] = number + 1
        record: Record = {"id": name, "group": filled.get("group", ""), "subject": filled.get("subject", name)}
        for key in ("image", "label"):
            if key in filled:
                record[key] = path.parent / filled[key]
        records.append(record)
    return records


def _check_columns(path: Path, names: Sequence[str]) -> None:
    """That no column, but for blanks around it, is called almost as one that would count."""
    there = {name.strip() for name in names}
    for name in sorted(there - {*COLUMNS}):
        if meant := get_close_matches(name.lower(), {*COLUMNS} - there, 1, ALIKE):
            raise FileError(
                f"{path}: the column {name!r} is not known; rename it to {meant[0]!r}, or remove it if it is something "
                "else."
            )


def images_in_archive(
    path: Path,
    images: str | Sequence[str] = (),
    labels: str | Sequence[str] = (),
    group: str | Sequence[str] = (),
    subject: str | None = None,
    where: Mapping[str, Sequence[Any]] | None = None,
) -> list[Record]:
    """Arrays (count, *spatial) of an .npz.

    `images` names them (the only one of three axes or more needs no name) and `labels` their label maps, in the same
    order; `group` and `subject` name the arrays (count,) whose values tell groups and subjects apart. `where` keeps the
    entries whose array has one of the values.
    """
    images, labels, group = ([one] if isinstance(one, str) else list(one) for one in (images, labels, group))
    with reading(path, "an .npz of arrays"), np.load(path) as archive:
        if not images:
            several = len(archive.files) > 1
            images = [name for name in archive.files if not several or archive[name].ndim > 2]
            if len(images) != 1:
                raise FileError(
                    f"{path} has the arrays {', '.join(archive.files)}; images must name those that are images, joined "
                    f"by commas."
                )
        names = [*images, *labels, *group, *([subject] if subject else []), *(where or {})]
        missing = [name for name in names if name not in archive]
        if missing:
            raise FileError(f"{path} has no array {', '.join(missing)}; it has {', '.join(archive.files)}.")
        arrays = {name: np.asarray(archive[name]) for name in dict.fromkeys(names)}  # bytes if it is damaged
        counts = {name: len(array) for name, array in arrays.items()}
    for name in (*images, *labels):
        if arrays[name].dtype.kind not in "biuf":
            raise FileError(f"{path}: the array {name} must hold real numbers, got {arrays[name].dtype}.")
    if len(set(counts.values())) > 1 or len(labels) not in (0, len(images)):
        raise ValueError(
            f"{path} has arrays of {counts} entries, {len(images)} of images and {len(labels)} of labels; each "
            "must have as many entries, and all images label maps or none."
        )
    keep = np.ones(len(arrays[images[0]]), dtype=bool)
    for name, values in (where or {}).items():
        keep &= np.isin(arrays[name], list(values))
    if not keep.any():
        raise ValueError(f"{path} has no entry where {dict(where or {})}.")
    records = []
    for index in np.flatnonzero(keep):
        belongs = "/".join(str(arrays[name][index]) for name in group)
        for position, name in enumerate(images):
            record: Record = {
                "id": "/".join(part for part in (belongs, str(index), name) if part),
                "group": belongs,
                "subject": str(arrays[subject][index]) if subject else str(index),
                "image": arrays[name][index],
            }
            if labels:
                record["label"] = arrays[labels[position]][index]
            records.append(record)
    return records


def list_frames(source: Any, most: int = 64, without: Sequence[str] = ()) -> list[Record]:
    """Records of the frames of one sequence, at most so many, evenly spaced: all may be paired with each other.

    `source` is a file with time, a folder of images, or the frames themselves, (frames, *spatial).
    """
    if isinstance(source, (str, Path)) and Path(source).is_dir() and not str(source).lower().endswith(".zarr"):
        frames: dict[str, Any] = {record["id"]: record["image"] for record in images_in_folder(Path(source))}
    else:
        series = open_series(source) if isinstance(source, (str, Path)) else source
        chosen = np.unique(np.linspace(0, len(series) - 1, most).round().astype(int)).tolist()
        frames = {f"frame {number}": _values(series[number]) for number in chosen}
    return [
        {"id": name, "group": "", "subject": name, "image": frame}
        for name, frame in frames.items()
        if name not in without
    ]


def _values(frame: Any) -> np.ndarray:
    return np.asarray(frame.array[0] if isinstance(frame, Image) else frame, dtype=np.float32)


def of_subjects(records: Sequence[Record], subjects: Sequence[str]) -> list[Record]:
    """The records of these subjects."""
    chosen = set(subjects)
    if not chosen:
        raise ValueError("subjects must be named (--subjects), such as those of the test set, got none.")
    _check_subjects(records, chosen)
    return [record for record in records if record["subject"] in chosen]


def not_of_subjects(records: Sequence[Record], subjects: Sequence[str]) -> list[Record]:
    """The records of all other subjects."""
    left_out = set(subjects)
    _check_subjects(records, left_out)
    return [record for record in records if record["subject"] not in left_out]


def _check_subjects(records: Sequence[Record], subjects: set[str]) -> None:
    """A misspelt subject that is to be held out would be trained on."""
    there = {record["subject"] for record in records}
    for name in sorted(subjects - there):
        raise ValueError(
            f"subjects must be among those of the images, such as {sorted(there)[:3]}, got {name!r}"
            f"{nearest(name, there)}."
        )


def can_be_paired(data: Sequence[Record], pairing: str) -> bool:
    """Whether two of the images make a pair."""
    sizes = Counter(record["group"] if pairing == "same_group" else "" for record in data)
    return max(sizes.values(), default=0) > 1


def draw_subjects(records: Sequence[Record], fraction: float, seed: int = 0, most: int = 20) -> list[str]:
    """A random share of the subjects to be held out for validation: one at least, two where each has one image alone,
    since one image makes no pair, and `most` of a large number, as each is paired with all others."""
    counts = Counter(record["subject"] for record in records)
    drawn = np.random.default_rng(seed).permutation(sorted(counts)).tolist()
    count = min(most, max(1, round(fraction * len(drawn))))
    if sum(counts[subject] for subject in drawn[:count]) == 1:
        count = 2
    return sorted(drawn[:count])
