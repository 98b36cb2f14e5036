"""The documentation's site is made strictly: no link leads nowhere, no page is left out, every bundle has its card."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_site_is_made_of_all_pages(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: bash scripts/setup.sh test")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("bundles/*/docs/*.md")]:
        page = path.relative_to(ROOT).with_suffix("")
        made = tmp_path / (page.parent if page.name == "README" else page) / "index.html"
        title = re.search(r"^# (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert title is not None
        assert title[1].split("`")[0].strip() in made.read_text(encoding="utf-8")
    for root in ROOT.glob("bundles/*/configs"):
        card = (tmp_path / "bundles" / root.parent.name / "card" / "index.html").read_text(encoding="utf-8")
        assert json.loads((root / "metadata.json").read_text(encoding="utf-8"))["data_source"] in card


def test_the_front_page_has_every_bundle_with_the_numbers_of_its_results() -> None:
    """Numbers beside a link to results are in the rows that the bundle's metadata name."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1] for row in re.findall(r"^\| \[`(\w+)`\]\S* +\|(.*)\|$", readme, re.MULTILINE)}
    assert rows.keys() == {path.parents[1].name for path in ROOT.glob("bundles/*/configs/metadata.json")}
    for name, row in rows.items():
        results = json.loads((ROOT / "bundles" / name / "configs" / "metadata.json").read_text())["results"]
        page = (ROOT / "bundles" / name / results["page"]).read_text(encoding="utf-8")
        numbers = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", row.rpartition("|")[2])
        assert numbers, name
        assert all(re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", page) for number in numbers), (name, numbers)
