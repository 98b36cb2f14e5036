"""Pairs of files on their way into a network: which they are, read, checked, and brought onto one working grid."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Transform, resample
from warpzoo.preflight import Finding, preflight, raise_if
from warpzoo.space.images import Image, read_image

COLUMNS = ("id", "fixed", "moving", "fixed_labels", "moving_labels", "fixed_points", "moving_points")


def list_pairs(
    pairs: str | Path | None = None, dataset_dir: str | Path = ".", **files: str | Sequence[str] | None
) -> list[dict[str, Any]]:
    """One pair from `fixed=…, moving=…` (and labels, points, `also`), or all of a CSV; names relative to `dataset_dir`.

    The CSV has the columns fixed and moving, and optionally id, fixed_labels, moving_labels, fixed_points and
    moving_points; names in it are relative to its own folder. Pairs without an id are called by their row, from 1.
    """
    given = {name: value for name, value in files.items() if value}
    if pairs is None:
        if not given:
            return []
        for name in ("fixed", "moving"):
            if name not in given:
                raise ValueError(f"{name} is not given; a pair wants both a fixed and a moving image.")
        located: dict[str, Any] = {
            name: [_locate(dataset_dir, one) for one in value] if name == "also" else _locate(dataset_dir, value)
            for name, value in given.items()
        }
        return [{"id": "", **located}]
    if given:
        raise ValueError(f"pairs and {', '.join(given)} are both given; name one pair or a list of pairs.")
    path = _locate(dataset_dir, pairs)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; a CSV with the columns fixed and moving is wanted.")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        rows = list(reader)
    unknown = [name for name in columns if name not in COLUMNS]
    if "fixed" not in columns or "moving" not in columns or unknown:
        raise ValueError(f"{path} has the columns {list(columns)}; it wants fixed and moving, and may have {COLUMNS}.")
    listed = []
    for number, row in enumerate(rows, start=1):
        for name in ("fixed", "moving"):
            if not row[name]:
                raise ValueError(f"{path}, row {number}: {name} is empty.")
        files_of_row = {name: _locate(path.parent, row[name]) for name in columns if name != "id" and row[name]}
        listed.append({"id": re.sub(r"[^\w.-]+", "_", row.get("id") or str(number)), **files_of_row})
    repeated = sorted({pair["id"] for pair in listed if [other["id"] for other in listed].count(pair["id"]) > 1})
    if repeated:
        raise ValueError(f"{path} has the id {repeated[0]!r} more than once; each pair gets a folder of its own by it.")
    if not listed:
        raise ValueError(f"{path} lists no pair.")
    return listed


@dataclass
class OpenPair:
    """A pair that has been read: both images, what the preflight found, and the grid the network works on."""

    files: Mapping[str, Any]
    fixed: Image
    moving: Image
    findings: list[Finding]
    working: Grid
    initial: Transform | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    ready: float = field(default_factory=time.perf_counter)


class FilePairs(Dataset):
    """Pairs of files as {"image", "index"}: moving and fixed on the working grid, as channels, for the network.

    Args:
        data: pairs of `list_pairs`.
        spatial_dims: what the network takes.
        spacing: of the working grid in the world's unit; None works on the fixed image's own grid.
        expectations: `training_data` of the bundle's metadata, for the preflight.
        strict: whether the preflight's warnings are errors.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        spatial_dims: int,
        spacing: float | Sequence[float] | None = None,
        expectations: Mapping[str, Any] | None = None,
        strict: bool = False,
    ) -> None:
        self.data = list(data)
        self.spatial_dims = spatial_dims
        self.spacing = spacing
        self.expectations = {"spatial_dims": spatial_dims, **(expectations or {})}
        self.strict = strict
        self.initial: dict[str, Transform] = {}
        self.opened: dict[int, OpenPair] = {}

    def __len__(self) -> int:
        if not self.data:
            raise ValueError("there is nothing to register: give fixed and moving, or pairs.")
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        files = self.data[index]
        start = time.perf_counter()
        fixed, moving = read_image(files["fixed"]), read_image(files["moving"])
        seconds = {"read": time.perf_counter() - start}
        initial = self.initial.get(files["id"])
        findings = preflight(fixed, moving, self.expectations, placed=initial is not None)
        raise_if(findings, self.strict)
        working = fixed.grid if self.spacing is None else fixed.grid.with_spacing(self.spacing)
        pair = OpenPair(files, fixed, moving, findings, working, initial, seconds)
        start = time.perf_counter()
        image = self.on_working_grid(pair)
        pair.ready = time.perf_counter()
        seconds["resample"] = pair.ready - start
        self.opened = {index: pair}
        return {"image": image, "index": index}

    @staticmethod
    def on_working_grid(pair: OpenPair) -> Tensor:
        """Moving, through what is known of its transform, and fixed: (2, *working)."""
        still = identity(pair.working)
        place = still if pair.initial is None else pair.initial
        moving = resample(pair.moving.array[None], pair.moving.grid, place, pair.working, padding="border")
        fixed = pair.fixed.array[None]
        if pair.working != pair.fixed.grid:
            fixed = resample(fixed, pair.fixed.grid, still, pair.working, padding="border")
        return torch.cat([moving, fixed], dim=1)[0]


def identity(grid: Grid) -> Affine:
    return Affine(torch.eye(grid.dims, grid.dims + 1)[None], grid)


def _locate(folder: str | Path, name: Any) -> Path:
    return Path(folder) / Path(str(name)).expanduser()
