"""Weights of networks: initialisation, the tag of an architecture, files that must fit it, folding for prediction."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import fuse_conv_bn_eval

from warpzoo.files import FileError, shortened, whole_file

MADE_WITH = "made_with_"
"""What the name of an architecture's tag starts with."""
ABOUT = "warpzoo"
"""The attribute of a state dict that says what its network is."""


def zero_initialised(layer: Any) -> Any:
    """The layer with zero weights and bias; as a network's last layer: an untrained network predicts the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def tag_architecture(network: nn.Module, *choices: str) -> None:
    """Registers an empty buffer named after choices that are not visible in a network's weights otherwise, so that
    weights load only into a network of the same choices."""
    network.register_buffer(MADE_WITH + "_".join(choices), torch.empty(0))


def save_weights(path: str | Path, network: nn.Module, about: Mapping[str, Any]) -> None:
    """Writes a network's weights: a plain state dict, and `about` beside them as its attribute, which `torch.load`
    keeps and `load_state_dict` does not see. The same weights give the same bytes, whatever the file's name; they are
    the processor's, wherever the network is: MONAI's own commands load them as they are."""
    state = described(network.state_dict(), about)
    for name, value in state.items():
        state[name] = value.cpu()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with whole_file(path) as unfinished:
        unfinished.write_bytes(buffer.getvalue())


def described(state: Any, about: Mapping[str, Any]) -> Any:
    """The state dict, which says that about its network when it is saved."""
    setattr(state, ABOUT, json.dumps(about, sort_keys=True))
    return state


def read_about(path: str | Path) -> dict[str, Any]:
    """What `save_weights` was told about the weights; empty if nothing."""
    try:
        about = json.loads(getattr(_weights_in(_read(path)), ABOUT, "{}"))
    except FileError:
        raise
    except (TypeError, ValueError) as error:
        raise FileError(f"{path} cannot be read as weights ({type(error).__name__}); it may be damaged.") from error
    return about if isinstance(about, dict) else {}


def read_weights(path: str | Path) -> dict[str, Any]:
    """The plain state dict in a file, without running any code; a missing or damaged file is a ValueError that names
    it. Of the state of a training it is that of the network whose weights are kept."""
    state = _weights_in(_read(path))
    for name, values in state.items():
        if isinstance(values, torch.Tensor) and not _is_plain(values):
            raise _no_numbers(path, name)
    return state


def is_unfinished(path: str | Path) -> bool:
    """Whether a file is the state of a training to go on from, and not the weights that it has found."""
    content = _read(path)
    return isinstance(content, dict) and isinstance(content.get("network"), dict)


def _weights_in(content: Any) -> dict[str, Any]:
    """The state dict itself, or that in the state of a training: of averaged weights, if there are any."""
    state = content.get("averaged", content.get("network", content)) if isinstance(content, dict) else {}
    return state if isinstance(state, dict) else {}


def _read(path: str | Path) -> Any:
    if not Path(path).is_file():
        if (Path(path) / "model.pt").is_file():
            raise FileError(f"{path} is a folder: the file of its weights is {Path(path) / 'model.pt'}.")
        problem = "is a folder" if Path(path).is_dir() else "does not exist"
        raise FileError(f"{path} {problem}: the network has no weights. Train some, or give the file by `weights`.")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(record.file_size for record in archive.infolist()) > Path(path).stat().st_size:
                    raise ValueError("compressed records")  # torch writes none; they may unpack to any size
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise FileError(f"{path} cannot be read as weights ({type(error).__name__}); it may be damaged.") from error


def load_weights(path: str | Path, network: nn.Module) -> None:
    """Loads a file of weights into the network, in place; weights of another network are a ValueError as well."""
    state = read_weights(path)
    own = network.state_dict()
    differing = sorted(
        str(name)
        for name in own.keys() | state.keys()
        if getattr(own.get(name), "shape", 0) != getattr(state.get(name), "shape", 1)
    )
    made = [[str(name) for name in names if str(name).startswith(MADE_WITH)] for names in (state, own)]
    if all(made) and made[0] != made[1]:
        theirs, ours = (
            ", ".join(sorted(name.removeprefix(MADE_WITH).replace("_", " ") for name in one)) for one in made
        )
        raise FileError(
            f"{path} holds the weights of another network: it was trained with other choices ({theirs}) than the "
            f"configuration has ({ours}). All variants that it was trained with must be given, joined by commas."
        )
    if differing:
        telling = min(differing, key=lambda name: name not in state)
        raise FileError(
            f"{path} holds the weights of another network: {len(differing)} parameters are missing, extra or of "
            f"another shape, such as {shortened(telling)}. Use the configuration (variant) it was trained with."
        )
    for name, values in state.items():
        if not values.isfinite().all():
            raise _no_numbers(path, name)
    network.load_state_dict(state)


def _is_plain(values: torch.Tensor) -> bool:
    """Whether a tensor's numbers are all there, and real."""
    there = values.layout == torch.strided and values.device.type == "cpu"
    return there and not values.is_quantized and not values.is_complex()


def _no_numbers(path: str | Path, name: Any) -> FileError:
    return FileError(
        f"{path} holds no finite real numbers as {shortened(str(name))}; it is damaged, or its training "
        f"went astray: train again."
    )


def fold_norms(network: nn.Module) -> nn.Module:
    """The same network for prediction only, in place: each batch norm is merged into the convolution before it.

    That takes less time, and memory for the largest features only once.
    """
    network.eval()
    for layers in network.modules():
        if isinstance(layers, nn.Sequential):
            for index, (layer, following) in enumerate(pairwise(list(layers))):
                if isinstance(layer, _ConvNd) and isinstance(following, _BatchNorm):
                    layers[index] = fuse_conv_bn_eval(layer, following, layer.transposed)
                    layers[index + 1] = nn.Identity()
    return network
