"""What the bundles' tests share: tiny images, networks that move something, and workflows in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import optional_import
from torch import Tensor, nn

SIDE = 64


@pytest.fixture
def dirnet(bundle: Callable[[str], Path]) -> Path:
    """The root of the bundle, on sys.path for the test."""
    return bundle("dirnet")


# Images


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


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six volumes of nearly one size with two bright blobs, labelled 1 and 2: NIfTI in folders `images` and `labels`,
    0.nii.gz to 5.nii.gz."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("volumes")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for number in range(6):
        grid = np.indices((15 + number % 3, 18, 16))
        labels, image = np.zeros(grid.shape[1:], np.uint8), random.normal(100, 3, grid.shape[1:])
        for label, row in ((1, 6), (2, 11)):
            centre = np.array([7, row, 8]) + random.uniform(-1.5, 1.5, 3)
            distance = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))
            image += (100 + 40 * label) / (1 + np.exp(2 * (distance - 3)))
            labels[distance < 3] = label
        for name, array in (("images", image.astype(np.float32)), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / name / f"{number}.nii.gz")
    return folder


@pytest.fixture
def pair_of() -> Callable[..., Tensor]:
    """`pair_of((24, 30), batch=2, seed=1)`: smooth positive images, moving and fixed, (batch, 2, *size)."""

    def make(size: tuple[int, ...] | list[int], batch: int = 2, seed: int = 1, channels: int = 2) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        coarse = torch.rand(batch, channels, *[5] * len(size), generator=random)
        mode = {2: "bilinear", 3: "trilinear"}[len(size)]
        return nn.functional.interpolate(coarse, size=list(size), mode=mode, align_corners=True) * 100 + 20

    return make


# Networks


@pytest.fixture
def arouse() -> Callable[[nn.Module, Tensor], nn.Module]:
    """`arouse(network, image)` gives a network, which predicts nothing before it is trained, weights that predict
    something, and its batch norms the statistics of these images; in evaluation mode."""

    def arouse(network: nn.Module, image: Tensor) -> nn.Module:
        for layer in network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = None  # the statistics of this one batch
            elif isinstance(getattr(layer, "weight", None), Tensor) and layer.weight.dim() > 1:
                nn.init.kaiming_normal_(layer.weight)
        for name, parameter in network.named_parameters():
            if name.endswith("trust"):
                nn.init.constant_(parameter, 0.003)
        network.train()(image)
        return network.eval()

    return arouse


@pytest.fixture
def make_network(
    bundle: Callable[[str], Path], arouse: Callable[..., nn.Module], pair_of: Callable[..., Tensor]
) -> Callable[..., nn.Module]:
    """`make_network("dirnet.network.DIRNet", (44, 52), spacing=4)`: in evaluation mode, with weights that displace
    images of that size by voxels, or, where the size is None, fresh from its constructor."""

    def make(target: str, size: tuple[int, ...] | None, **options: Any) -> nn.Module:
        module, _, name = target.rpartition(".")
        bundle(module.partition(".")[0])
        torch.manual_seed(0)
        network = optional_import(module, name=name)[0](**options)
        return network.eval() if size is None else arouse(network, pair_of(size, batch=3))

    return make


# Workflows


@pytest.fixture
def start() -> Callable[..., ConfigWorkflow]:
    """`start(root, "train", "variants/paper", epochs=3, …)`: a bundle's configs on top of each other with overrides,
    initialised."""

    def start(root: Path, *names: str, **override: object) -> ConfigWorkflow:
        made = ConfigWorkflow(
            [str(root / "configs" / f"{name}.json") for name in names],
            meta_file=str(root / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="inference" if "inference" in names else "train",
            **{"bundle_root": str(root), **override},
        )
        made.initialize()
        return made

    return start


@pytest.fixture
def step() -> Callable[[ConfigWorkflow], tuple[int, ...]]:
    """`step(training)` takes one batch through objective and optimiser; returns the batch's shape."""

    def step(training: ConfigWorkflow) -> tuple[int, ...]:
        content = training.parser.get_parsed_content
        batch = next(iter(content("train#trainer").data_loader))["image"]
        objective, optimizer = content("objective"), content("optimizer")
        before = [parameter.clone() for parameter in objective.parameters()]
        loss = objective.train()(batch)["loss"]
        loss.backward()
        optimizer.step()
        assert bool(loss.isfinite())
        assert any(not torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True))
        return tuple(batch.shape)

    return step
