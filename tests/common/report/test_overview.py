"""The page of a list: nothing is missing, the worst is first, bars hold what numpy counts, and its script works."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warpzoo.report.overview import AT_ONCE, write_overview

from .test_report import Elements, text_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def made_up(count: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Pairs whose Dice rises with their number, and whose correlation and time are random."""
    random = np.random.default_rng(seed)
    return {
        f"pair {number}": {
            "ncc_before": 0.5,
            "ncc": float(random.uniform(0.6, 1)),
            "dice_before": {"1": 0.3, "2": None},
            "dice": {"1": 0.2 + 0.7 * number / count, "2": None},
            "dice_before_mean": 0.3,
            "dice_mean": 0.2 + 0.7 * number / count,
            "folding": 0.0,
            "folding_corners": 0.001 * (number == 1),
            "interrupted": number == 2,
            "seconds": {"read": 0.5, "svf": float(random.gamma(3))},
            "warnings": ["<b>odd</b> header of nothing"] * (number == 3),
            "method": "affine,svf",
            "files": {"fixed": f"../f{number}.nii", "moving": f"../m{number}.nii"},
        }
        for number in range(count)
    }


def page(folder: Path, pairs: Mapping[str, Any], **others: Any) -> str:
    others = {"failures": {}, **others}
    text = write_overview(folder / "overview.html", pairs, **others).read_text(encoding="utf-8")
    Elements(text)
    return text


def names(text: str) -> list[str]:
    return re.findall(r'<div role="cell"><a href="[^"]*">([^<]*)</a>', text)


def test_pairs_come_from_the_worst_to_the_best(tmp_path: Path) -> None:
    pairs = made_up(2 * AT_ONCE + 7)
    assert names(page(tmp_path, dict(reversed(pairs.items())))) == list(pairs)
    for numbers in pairs.values():  # without labels, by the target registration error, which had better be small
        numbers |= {"tre_before": 9.0, "tre": numbers["dice_mean"]}
        for name in ("dice", "dice_before", "dice_mean", "dice_before_mean"):
            del numbers[name]
    assert names(page(tmp_path, pairs)) == list(reversed(pairs))
    del pairs["pair 5"]["tre"]
    assert names(page(tmp_path, pairs))[0] == "pair 5", "what was not measured is looked at first"


def test_nothing_is_lost_and_names_are_escaped(tmp_path: Path) -> None:
    failures = {"<i>7</i>": "<script>alert(1)</script>.nii cannot be read."}
    text = page(tmp_path, made_up(6), failures=failures, missing=3)
    assert "<script>alert" not in text
    assert "<b>odd" not in text
    words = text_of(text)
    for phrase in (
        "6 registered, 1 failed, 3 not registered yet · method affine,svf",
        "<i>7</i> <script>alert(1)</script>.nii cannot be read.",
        "<b>odd</b> header of nothing",
        "m4.nii → f4.nii",
        "with warnings 1",
        "worse than before 1",
        "with folds 1",
        "interrupted 1",
        "0.200 0.300 before",
        "0.1 %",
    ):
        assert phrase in words, phrase


def test_pages_and_pictures_are_linked_where_they_are(tmp_path: Path) -> None:
    pairs = made_up(3)
    for name in list(pairs)[:2]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thumbnail.jpg").write_bytes(b"")
    (tmp_path / "pair 0/report.html").write_text("")
    elements = Elements(page(tmp_path, pairs)).found
    assert {a["href"] for tag, a in elements if tag == "a"} == {
        "pair%200/report.html",
        "pair%201/metrics.json",
        "pair%202/metrics.json",
    }
    pictures = [attributes for tag, attributes in elements if tag == "img"]
    assert [a["src"] for a in pictures] == ["pair%200/thumbnail.jpg", "pair%201/thumbnail.jpg"]
    assert all(a["loading"] == "lazy" for a in pictures)


def test_the_bars_hold_every_pair(tmp_path: Path) -> None:
    pairs = made_up(500)
    pairs["pair 9"]["seconds"]["svf"] = 1e4  # far away from all others: it must not hide them
    text = page(tmp_path, pairs)
    figures = re.findall(r"<h3>(.*?)</h3>(.*?)</figure>", text, re.DOTALL)
    measured = {
        "Dice": [numbers["dice_mean"] for numbers in pairs.values()],
        "Correlation (NCC)": [numbers["ncc"] for numbers in pairs.values()],
        "Folded cells": [numbers["folding_corners"] for numbers in pairs.values()],
        "Time": [sum(numbers["seconds"].values()) for numbers in pairs.values()],
    }
    assert [name for name, _ in figures] == list(measured)
    for name, figure in figures:
        edges = [tuple(map(float, pair)) for pair in re.findall(r'data-low="(.*?)" data-high="(.*?)"', figure)]
        counts = [int(count) for count in re.findall(r": (\d+) pairs", figure)]
        oracle, _ = np.histogram(measured[name], [low for low, _ in edges] + [edges[-1][1]])
        assert counts == oracle.tolist()
        assert sum(counts) == 500
        assert max(counts) < 400 or name == "Folded cells"
    assert f"<b>{np.median(measured['Time']):.1f} s</b>" in text
    assert f"median 0.300 → <b>{np.median(measured['Dice']):.3f}</b>" in text


def test_a_list_of_failures_alone_has_a_page(tmp_path: Path) -> None:
    words = text_of(page(tmp_path, {}, failures={"1": "is empty"}))
    assert "0 registered, 1 failed" in words
    assert "1 is empty" in words
    assert names(page(tmp_path, {"x": {}})) == ["x"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_script_sorts_searches_and_narrows(tmp_path: Path) -> None:
    path = tmp_path / "overview.html"
    text = page(tmp_path, made_up(300))
    highest = int(re.findall(r": (\d+) pairs", text.partition("</figure>")[0])[-1])
    clicks = """<script>
      const said = [], first = () => [...document.querySelectorAll(".pair a")].slice(0, 2).map(a => a.textContent);
      const say = () => said.push(document.querySelector("output").textContent + ": " + first().join());
      const press = new MouseEvent("click", {bubbles: true});
      const click = what => { document.querySelector(what).dispatchEvent(press); say(); };
      say(); click("[data-sort='0']"); click("[data-sort=name]"); click("[data-kind=warnings]");
      click("[data-kind='']"); click("figure [data-low]:last-child"); click(".range"); click("[data-sort='2']");
      document.querySelector("input").value = "M1 f17"; document.querySelector("input").oninput();
      setTimeout(() => { say(); document.title = said.join("; "); }, 500);
    </script></body>"""
    path.write_text(text.replace("</body>", clicks), encoding="utf-8")
    assert CHROMIUM is not None
    arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=5000",
        "--dump-dom",
        path.as_uri(),
    ]
    ended = subprocess.run([CHROMIUM, *arguments], capture_output=True, text=True, check=True)
    (title,) = re.findall("<title>(.*?)</title>", ended.stdout)[:1]
    assert title.split("; ") == [
        "300 of 300: pair 0,pair 1",
        "300 of 300: pair 299,pair 298",
        "300 of 300: pair 0,pair 1",
        "1 of 300: pair 3",
        "300 of 300: pair 0,pair 1",
        f"{highest} of 300: pair {300 - highest},pair {301 - highest}",
        "300 of 300: pair 0,pair 1",
        "300 of 300: pair 1,pair 0",
        "11 of 300: pair 17,pair 170",
    ]
