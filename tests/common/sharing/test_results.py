"""The numbers of a bundle's shipped weights, and its card, from pages as they are written by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from warpzoo.bundles import Bundle, open_bundle
from warpzoo.sharing.card import card
from warpzoo.sharing.results import results

ROOT = Path(__file__).parents[3]
PAGE = """# Results

## Hearts: one onto another

Text | with a bar.

|  | Dice | folded, % | s | Dice in the paper |
| :-- | --: | --: | --: | --: |
| before | 0.1 ± 0.1 | 0 | – | 0.3 |
| ours | 0.908 ± 0.063 | 0.006 | 12 | 0.5 |
| ours + more | 0.95 | 0 | 13 | – |

### Others

| PSNR / SSIM | field | PSF |
| :-- | --: | --: |
| ours | 35.9 / 0.96 | 1 × 1 |

## Digits

| NCC, moved | 0 |
| :-- | --: |
| ours | -0.5 |
"""


@pytest.fixture
def toy(tmp_path: Path) -> Bundle:
    (tmp_path / "page.md").write_text(PAGE, encoding="utf-8")
    return Bundle(tmp_path, {"results": {"page": "page.md", "row": "ours"}})


def test_numbers_are_those_of_the_row(toy: Bundle) -> None:
    assert results(toy) == {
        "Hearts / Dice": 0.908,
        "Hearts / folded, %": 0.006,
        "Hearts / s": 12,
        "Hearts, Others / field / PSNR": 35.9,
        "Hearts, Others / field / SSIM": 0.96,
        "Digits / 0 / NCC, moved": -0.5,
    }


def test_a_row_that_is_not_there_is_said(toy: Bundle, tmp_path: Path) -> None:
    for page, row, message in (("page.md", "theirs", "must have a row 'theirs'"), ("none.md", "ours", "must be there")):
        with pytest.raises(ValueError, match=message):
            results(Bundle(tmp_path, {"results": {"page": page, "row": row}}))
    assert results(Bundle(tmp_path, {})) == {}


@pytest.mark.parametrize("root", sorted(ROOT.glob("bundles/*")), ids=lambda root: root.name)
def test_every_bundle_has_a_card_with_its_numbers(root: Path) -> None:
    bundle = open_bundle(root)
    top, text = card(bundle).removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(top)["library_name"] == "monai"
    metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    page = (root / metadata["results"]["page"]).read_text(encoding="utf-8")
    shown = re.findall(r"^\| .* / .* \| ([-\d.]+) \|$", text, re.MULTILINE)
    assert len(shown) > 3
    row = next(line for line in page.splitlines() if line.startswith(f"| {metadata['results']['row']} |"))
    first = re.search(r"\d+\.\d+", row.split("|")[2])
    assert first is not None
    assert float(shown[0]) == float(first[0])
    assert metadata["intended_use"] in text
    assert all(one in text for one in metadata["references"])
