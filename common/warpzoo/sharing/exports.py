"""A bundle's network for other programs: TorchScript and ONNX of any size, held against the network itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from warpzoo.bundles import METADATA, Bundle, open_bundle
from warpzoo.geometry.velocity import compose
from warpzoo.networks import load_weights, warp_and_concatenate

SIZES = {2: ((64, 48), (51, 33)), 3: ((16, 24, 16), (19, 16, 13))}
"""On which an exported network is tried: the first is what it is exported with."""
TOLERANCE = 2e-3
"""Of intensities of some 100 and of displacements in voxels."""
WAY_OUT = "pip install 'warpzoo[release]', or, in a checkout, bash scripts/setup.sh release"
OPSET = 20
"""The first in which a volume can be sampled."""


class Passes(nn.Module):
    """A registration network that looks several times, each time at the moving image as it is warped so far."""

    def __init__(self, network: nn.Module, passes: int) -> None:
        super().__init__()
        self.network = network
        self.passes = passes

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 2, *spatial) → (batch, 1 + dims, *spatial)."""
        prediction = self.network(image)
        for _ in range(self.passes - 1):
            then = self.network(torch.cat([prediction[:, :1], image[:, 1:]], 1))
            prediction = warp_and_concatenate(image, compose(then[:, 1:], prediction[:, 1:]))
        return prediction


def export_torchscript(bundle: Bundle, path: Path, variants: Sequence[str] = (), passes: int = 1) -> None:
    """A file that holds metadata and inference configuration as MONAI's own export has them.

    The same bytes every time: TorchScript writes a module's constants in the order of their hashes, which Python draws
    anew for each process, so one without that does it.
    """
    command = [sys.executable, "-m", __name__, str(bundle.root), str(path), str(passes), *variants]
    surroundings = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}
    ended = subprocess.run(command, env=surroundings, capture_output=True, text=True, encoding="utf-8")
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["it was stopped"])[-1]
        raise ValueError(f"{bundle.name} cannot be exported as TorchScript ({reason}).")


def _write_torchscript(bundle: Bundle, path: Path, variants: Sequence[str], passes: int) -> None:
    network = trained_network(bundle, variants, passes)
    stored = {
        "metadata.json": json.dumps(bundle.metadata),
        "inference.json": (bundle.root / "configs" / "inference.json").read_text(encoding="utf-8"),
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), str(path), _extra_files=stored)
        again = torch.jit.load(str(path))
        for number, image in enumerate(examples(bundle, variants)):
            _check(path, again(image), network(image), number)


def export_onnx(bundle: Bundle, path: Path, variants: Sequence[str] = (), passes: int = 1) -> None:
    """A file for any batch and size."""
    try:
        import onnx  # noqa: F401 (torch's exporter asks for it)
        from onnxruntime import InferenceSession
    except ImportError as error:
        raise ValueError(f"ONNX must have onnx and onnxruntime installed ({error}): {WAY_OUT}.") from error
    network, images = trained_network(bundle, variants, passes), examples(bundle, variants)
    dynamic = {0: "batch"} | {2 + axis: f"size_{axis}" for axis in range(bundle.dims_of(variants))}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (images[0],),
            str(path),
            input_names=["image"],
            output_names=["pred"],
            dynamic_axes={"image": dynamic, "pred": dynamic},
            opset_version=OPSET,
            dynamo=False,  # the other takes minutes for a pyramid of volumes
        )
        session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for number, image in enumerate(images):
            (found,) = session.run(["pred"], {"image": image.numpy()})
            _check(path, torch.from_numpy(found), network(image), number)


def trained_network(bundle: Bundle, variants: Sequence[str] = (), passes: int = 1) -> nn.Module:
    network: nn.Module = bundle.part("network_def", "inference", variants)
    load_weights(bundle.weights(variants), network)
    return (network if passes == 1 else Passes(network, passes)).eval()


def examples(bundle: Bundle, variants: Sequence[str] = ()) -> list[Tensor]:
    """Smooth positive images of two sizes and batches, with the channels that the metadata state."""
    image: dict[str, Any] = bundle.metadata["network_data_format"]["inputs"]["image"]
    dims = bundle.dims_of(variants)
    mode = {2: "bilinear", 3: "trilinear"}[dims]
    made = []
    for batch, size in zip((2, 1), SIZES[dims], strict=True):
        random = torch.Generator().manual_seed(batch)
        coarse = torch.rand(batch, image["num_channels"], *[5] * len(size), generator=random)
        fine: Tensor = nn.functional.interpolate(coarse, size=list(size), mode=mode, align_corners=True)
        made.append(100 * fine + 20)
    return made


def _check(path: Path, found: Tensor, expected: Tensor, number: int) -> None:
    apart = float((found - expected).abs().max())
    if not apart <= TOLERANCE:
        raise ValueError(
            f"{path} must give what the network gives, got {apart:.3g} apart on example {number + 1}; "
            f"see {METADATA.as_posix()} for what it promises."
        )


if __name__ == "__main__":
    _write_torchscript(open_bundle(sys.argv[1]), Path(sys.argv[2]), sys.argv[4:], int(sys.argv[3]))
