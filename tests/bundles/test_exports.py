"""A network for other programs: of any size, with variants, looking several times."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from scipy.ndimage import map_coordinates

from warpzoo.__main__ import main
from warpzoo.geometry.grid import Grid
from warpzoo.registration import find_methods
from warpzoo.registration.network import NetworkMethod, in_passes

SIZES = {"fcn_multires:any": [21, 26, 19], "fcn_multires:any_2d": [53, 46]}


def moved(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """An image at the places that a displacement (dims, *spatial) says, by SciPy; the edge is repeated."""
    return map_coordinates(image, np.indices(image.shape) + displacement, order=1, mode="nearest")


@pytest.mark.parametrize("suffix", ["onnx", "ts"])
@pytest.mark.parametrize("network", SIZES)
def test_it_gives_two_looks_of_the_network_composed(
    network: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = tmp_path / f"twice.{suffix}"
    monkeypatch.setattr(sys, "argv", ["warpzoo", "export", f"{network},{network}", "--output", str(exported)])
    main()
    (method,) = find_methods(f"{network},{network}", device="cpu")
    assert isinstance(method, NetworkMethod)
    size = SIZES[network]
    coarse = torch.rand(1, 2, *[5, 6, 5][: len(size)], generator=torch.Generator().manual_seed(0))
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    image = 50 * torch.nn.functional.interpolate(coarse, size=size, mode=mode, align_corners=True)
    if exported.suffix == ".onnx":
        (found,) = InferenceSession(str(exported)).run(["pred"], {"image": image.numpy()})
    else:
        found = torch.jit.load(str(exported))(image).detach().numpy()
    with torch.no_grad():
        first = method.ready()(image)[0].numpy()
        again = np.stack([moved(image[0, 0].numpy(), first[1:]), image[0, 1].numpy()])
        then = method.ready()(torch.from_numpy(again)[None])[0, 1:].numpy()
    expected = then + np.stack([moved(part, then) for part in first[1:]])
    assert np.abs(expected - first[1:]).max() > 0.5
    np.testing.assert_allclose(found[0, 1:], expected, atol=0.01)
    np.testing.assert_allclose(found[0, 0], moved(image[0, 0].numpy(), found[0, 1:]), atol=0.05)
    grid = Grid(list(image.shape[2:]), np.eye(1 + len(size)))
    registered = in_passes(method.ready(), image, grid, 2).field(grid)[0].numpy()
    assert np.abs(found[0, 1:] - registered).mean() < 0.03  # there velocities are interpolated


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["affine,svf"], "method must be one network"),
        (["fcn_multires,fcn_multires:any"], "method must be one network"),
        (["fcn_multires", "--output", "network.pth"], "output must end in .onnx, .ts or .pt"),
        (["fcn_multirez"], "fcn_multires"),
        (["fcn_multires:anny"], "did you mean any"),
    ],
)
def test_what_cannot_be_exported(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["warpzoo", "export", *arguments])
    with pytest.raises(SystemExit, match=message):
        main()
    assert not list(tmp_path.iterdir())
