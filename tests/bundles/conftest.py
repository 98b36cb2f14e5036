"""What the bundles' tests share: tiny beating hearts, and a bundle's workflows on them in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

SIDE = 64


@pytest.fixture
def dirnet(bundle: Callable[[str], Path]) -> Path:
    """The root of the bundle, on sys.path for the test."""
    return bundle("dirnet")


@pytest.fixture(scope="session")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs in two sizes, end-diastole and end-systole, of three subjects with two slices each, as an .npz."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    arrays: dict[str, list[np.ndarray]] = {"ed": [], "es": [], "ed_lv": [], "es_lv": []}
    for _ in range(6):
        centre = random.uniform(28, 36, 2)
        for name, radius, offset in (("ed", 16, 0.0), ("es", 12, 1.5)):
            distance = np.hypot(rows - centre[0] - offset, columns - centre[1] + offset)
            texture = 8 * np.sin(rows / 5 + centre[0]) * np.cos(columns / 7)
            arrays[name].append((40 + texture + 180 / (1 + np.exp(distance - radius))).astype(np.uint8))
            arrays[f"{name}_lv"].append(distance < radius)
    path = tmp_path_factory.mktemp("hearts") / "sunnybrook_ed_es_pairs.npz"
    subjects = [f"s{index // 2}" for index in range(6)]
    np.savez(path, subject=subjects, slice=[0, 1] * 3, **{name: np.stack(array) for name, array in arrays.items()})
    return path


@pytest.fixture
def workflow(dirnet: Path, hearts: Path, tmp_path: Path) -> Callable[..., ConfigWorkflow]:
    """`workflow("train", "variants/paper", epochs=3, …)`: configs on top of each other with overrides, initialised.

    The network is small, the images are the hearts, the results are in `tmp_path`.
    """

    def start(*names: str, **override: object) -> ConfigWorkflow:
        tiny: dict[str, object] = {
            "bundle_root": str(dirnet),
            "dataset_dir": str(hearts.parent),
            "output_dir": str(tmp_path),
            "epochs": 2,
            "steps_per_epoch": 2,
            "batch_size": 4,
            "val_interval": 1,
            "network_def#channels": 4,
        }
        if "variants/3d" not in names:
            tiny |= {"validation_subjects": ["s1"], "test_subjects": ["s2"]}
        if not any(name.startswith("variants/") for name in names):
            tiny |= {"augmentation#crop": [48, 48], "augmentation#shift": 3, "similarity#window": 9}
        configs = [str(dirnet / "configs" / f"{name}.json") for name in names]
        made = ConfigWorkflow(
            configs,
            meta_file=str(dirnet / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            **{**tiny, **override},
        )
        made.initialize()
        return made

    return start
