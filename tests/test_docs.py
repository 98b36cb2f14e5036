"""The examples of docs/python.md run."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

import warpzoo

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
README = PAGE.parents[1] / "README.md"
TOPICS = ("arrays", "files", "monai", "denoise")


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the page takes for given: images as files in the current folder, and a noisy array."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(48, 40)), 3)
    fixed = np.pad(1000 * (noise - noise.min()) / np.ptp(noise), 8).astype(np.float32)
    moving = ndimage.shift(fixed, (2, -3), order=1, mode="nearest")
    monkeypatch.chdir(tmp_path)
    for name, values in {"fixed": fixed, "moving": moving, "moving_labels": (moving > 500).astype(np.uint8)}.items():
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.2, 1, 1])), f"{name}.nii.gz")
    warpzoo.register("fixed.nii.gz", "moving.nii.gz", method="rigid").transform.save("transform.tfm")
    random = np.random.default_rng(1)
    return {"warpzoo": warpzoo, "noisy": random.poisson(20 + fixed / 10).astype(np.uint16)}


def examples() -> list[tuple[str, str]]:
    """The page's blocks, each with its topic."""
    return re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("topic", TOPICS)
def test_the_examples_run(names: dict[str, object], topic: str) -> None:
    blocks = examples()
    assert {name for name, _ in blocks} == set(TOPICS)
    for name, code in blocks:
        if name == topic:
            exec(compile(code, f"docs/python.md: {topic}", "exec"), names)
    if topic == "arrays":
        assert Path("page.html").exists()
        assert Path("folder/warped.nii.gz").exists()
        metrics = names["result"].metrics  # type: ignore[attr-defined]
        assert metrics["ncc"] > 0.99 > metrics["ncc_before"]


def test_the_readme_has_the_first_example() -> None:
    assert f"```python\n{examples()[0][1]}```" in README.read_text(encoding="utf-8")
