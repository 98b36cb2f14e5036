"""A training in stages, by the script, on small images: from one stage to the next, and on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from warpzoo.bundles import find_bundle

ROOT = Path(__file__).parents[2]
TINY = {
    "validation_subjects": ["s1"],
    "test_subjects": ["s2"],
    "epochs": 1,
    "steps_per_epoch": 2,
    "batch_size": 4,
    "val_interval": 1,
    "network_def#channels": 4,
    "augmentation#crop": [48, 48],
    "augmentation#shift": 3,
}


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import train_in_stages

    return train_in_stages


def weights(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def test_every_stage_goes_on_from_the_one_before(
    stages: ModuleType, hearts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = stages.Recipe(
        [],
        TINY,
        {
            "first": {"similarity": {"_target_": "warpzoo.losses.NCCLoss"}, "epochs": 2},
            "second": {"similarity#window": 15, "learning_rate": 0.0},
        },
    )
    monkeypatch.setitem(stages.RECIPES, "dirnet", recipe)
    command = ["dirnet", "--data", str(hearts.parent), "--output", str(tmp_path / "out")]
    stages.main(command)
    first, second = (json.loads((tmp_path / "out" / name / "run.json").read_text()) for name in recipe.stages)
    assert [len(run["epochs"]) for run in (first, second)] == [2, 1]
    one, other = (weights(tmp_path / "out" / name / "model.pt") for name in recipe.stages)
    learnt = [name for name in one if name.endswith(("weight", "bias"))]
    assert len(learnt) > 10
    for name in learnt:  # at a rate of 0
        torch.testing.assert_close(one[name], other[name])
    assert (tmp_path / "out" / "model.pt").read_bytes() == (tmp_path / "out/second/model.pt").read_bytes()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.pt")}
    (tmp_path / "out" / "second" / stages.DONE).unlink()  # as if it had been stopped
    stages.main(command)
    changed = {path.parent.name for path, then in before.items() if path.stat().st_mtime_ns != then}
    assert "first" not in changed
    assert (tmp_path / "out" / "second" / stages.DONE).exists()

    monkeypatch.setitem(stages.RECIPES, "dirnet", recipe._replace(shared={**TINY, "batch_size": 2}))
    assert stages.main(command) == 2
    assert "was trained with other settings" in capfd.readouterr().err
    monkeypatch.setitem(stages.RECIPES, "dirnet", recipe)
    assert stages.main([*command, "--seed", "7"]) == 2  # what is passed on counts as well
    assert stages.main(command) == 0
    assert stages.main(["dirnet", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "other")]) > 0
    assert "Traceback" not in capfd.readouterr().err


def test_recipes_are_of_settings_that_their_bundle_has(stages: ModuleType) -> None:
    for name, recipe in stages.RECIPES.items():
        bundle = find_bundle(name.partition(":")[0], "registration")
        known = bundle.settings("train", recipe.variants)
        for stage, own in recipe.stages.items():
            for option in {**recipe.shared, **own}:
                part: Any = known
                for key in option.split("#"):
                    assert key in part, (name, stage, option)
                    part = part[key]
