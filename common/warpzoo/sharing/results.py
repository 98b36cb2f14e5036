"""The numbers of a bundle's shipped weights, from the tables of a page of results.

The metadata say where they are: `"results": {"page": "docs/results.md", "row": "ours"}`, a page by its path from the
bundle's folder, and the name that begins the row in every table that has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from warpzoo.bundles import Bundle

OF_OTHERS = re.compile(r"\bin the (paper|study)\b")
"""Columns that repeat what somebody else published."""


def results(bundle: Bundle) -> dict[str, float]:
    """`{"Cardiac MR / Dice": 0.908, …}`: heading of the table and of the column; of "0.908 ± 0.063" the mean. What a
    release already has as MONAI's `eval_metrics` is given as it is."""
    if "eval_metrics" in bundle.metadata:
        return dict(bundle.metadata["eval_metrics"])
    where = bundle.metadata.get("results")
    if where is None:
        return {}
    page = bundle.root / where["page"]
    if not page.is_file():
        raise ValueError(f"{page} must be there: the metadata of {bundle.name} say that it has the results.")
    found = dict(_numbers(page.read_text(encoding="utf-8"), where["row"]))
    if not found:
        raise ValueError(f"{page} must have a row {where['row']!r}, as the metadata of {bundle.name} say.")
    return found


def _numbers(page: str, row: str) -> Iterator[tuple[str, float]]:
    headings: dict[int, str] = {}
    columns: list[str] | None = None
    for line in page.splitlines():
        if heading := re.match(r"(#+) (.*)", line):
            level = len(heading[1])
            headings = {one: text for one, text in headings.items() if one < level} | {level: heading[2].split(":")[0]}
        if not line.startswith("|"):
            columns = None
            continue
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if columns is None:
            corner, columns = first, cells
        elif first == row:
            title = ", ".join(text for level, text in headings.items() if level > 1)
            for column, cell in zip(columns, cells, strict=True):
                if not OF_OTHERS.search(column):
                    yield from _of_cell(title, corner, column, cell)


def _of_cell(title: str, corner: str, column: str, cell: str) -> Iterator[tuple[str, float]]:
    """A cell may have several numbers, "28.43 / 0.697", which the corner of the table then names: "PSNR / SSIM"."""
    parts, kinds = cell.split(" / "), corner.split(" / ")
    if len(parts) < len(kinds):  # another kind of number, which the column names
        kinds = [""] * len(parts)
    for part, kind in zip(parts, kinds, strict=False):
        if number := re.fullmatch(r"([-+]?\d+(?:\.\d+)?)(?: ± \S+)?", part):
            what = [title, column, *([kind] if kind else [])]
            yield " / ".join(what), float(number[1])
