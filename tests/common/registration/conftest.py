"""What the tests of registering files share: bundles whose network gives a known displacement, images, the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pytest
import torch

from warpzoo.__main__ import main

ROOT = Path(__file__).parents[3]
NETWORK = '''
import torch
from torch import nn
from warpzoo.geometry.sampling import voxel_coordinates, warp


class Known(nn.Module):
    """A shift along the first axis and a wave along the last, in voxels: no more and no less."""

    def __init__(self, dims):
        super().__init__()
        self.known = nn.Parameter(torch.zeros(dims + 1))

    def forward(self, image):
        shape = list(image.shape[2:])
        place = voxel_coordinates(shape, torch.float32, image.device)
        field = self.known[:-1].view([-1] + [1] * len(shape)).expand_as(place).clone()
        field[-1] += self.known[-1] * torch.sin(2 * torch.pi * place[0] / (shape[0] - 1))
        return torch.cat([warp(image[:, :1], field[None]), field[None]], 1)
'''


@pytest.fixture
def make_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """`make_bundle("wavy", [0, 2.5], wave=1.5)`: a bundle in a folder of its own, around dirnet's inference.json."""
    folder = tmp_path / "bundles of mine"
    monkeypatch.setenv("WARPZOO_BUNDLES", str(folder))
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)

    def make(name: str, shift: list[float], wave: float = 0.0, weights: Any = None, **override: Any) -> Path:
        root, dims = folder / name, len(shift)
        config = json.loads((ROOT / "bundles/dirnet/configs/inference.json").read_text())
        config["network_def"] = {"_target_": f"{name}_network.Known", "dims": dims}
        config["method"] |= override
        config["spatial_dims"] = dims
        metadata = json.loads((ROOT / "bundles/dirnet/configs/metadata.json").read_text())
        metadata["training_data"] = {"content": "anything"}
        metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = ["*"] * dims
        (root / "configs").mkdir(parents=True)
        (root / "models").mkdir()
        (root / "configs/inference.json").write_text(json.dumps(config))
        (root / "configs/metadata.json").write_text(json.dumps(metadata))
        objective = {
            "_target_": "warpzoo.training.objectives.RegistrationObjective",
            "network": "@network_def",
            "similarity": {"_target_": "warpzoo.losses.LNCCLoss"},
        }
        (root / "configs/train.json").write_text(json.dumps({"network_def": None, "objective": objective}))
        (root / f"{name}_network.py").write_text(NETWORK)
        if weights is None:
            weights = {"known": torch.tensor([*map(float, shift), wave])}
        torch.save(weights, root / "models/model.pt")
        return root

    yield make
    for module in set(sys.modules) - modules:
        if module.endswith("_network"):
            del sys.modules[module]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def warpzoo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """`warpzoo("register", "a.png", …)` in this process, as the shell would see it."""

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["warpzoo", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        return Ended(code, *capsys.readouterr())

    return call


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Blurred noise between 0 and 3000: something to see everywhere, finer than a few voxels nowhere."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0, mode="wrap")
    return 3000 * (noise - noise.min()) / (noise.max() - noise.min())


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    image.set_qform(image.affine, 1)
    nibabel.save(image, path)
    return path


def oblique(spacing: list[float], origin: list[float], degrees: float, flip: bool = False) -> np.ndarray:
    """Turned about z and x, with other signs and another order of axes if flipped."""
    z, x = np.deg2rad([degrees, 0.6 * degrees])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    affine = np.eye(4)
    axes = np.eye(3)[[1, 0, 2]] * [1, -1, 1] if flip else np.eye(3)
    affine[:3, :3] = about_z @ about_x @ axes @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine
