"""What weights say of their network: its settings, in plain values, so that it can be made again without being told.

A file of weights may come from anywhere: of what it says only plain values are used, and only parts that the bundle's
own configurations make for their networks.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpzoo.bundles import Bundle
from warpzoo.errors import nearest
from warpzoo.files import FileError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

PLAIN = (bool, int, float, str, type(None))


def configuration() -> ConfigParser | None:
    """The configuration that this call is made by, however deep below; None if it is made by none.

    MONAI gives the parts of a configuration their arguments alone; its parser is found among the callers.
    """
    from monai.bundle import ConfigParser

    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigParser):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    return None


def network_settings(config: ConfigParser | None) -> dict[str, Any]:
    """What weights are to say of the network that this configuration makes; empty if it is not made of plain values."""
    if config is None or "network_def" not in config:
        return {}
    root = str(config.get_parsed_content("bundle_root")) if "bundle_root" in config else ""
    try:
        network = _plain(config, "network_def")
        dims = config.get_parsed_content("spatial_dims") if "spatial_dims" in config else None
    except TypeError:
        return {}
    return {"bundle": Path(root).resolve().name, "spatial_dims": dims, "network_def": network}


def carried_settings(about: Mapping[str, Any], bundle: Bundle, path: Any) -> dict[str, Any]:
    """The settings of a bundle's configurations that weights in the file `path` say they need; empty if they say
    nothing. Weights of another bundle, or that ask for what its networks are not made of, are refused."""
    if not about:
        return {}
    if about.get("bundle") != bundle.name:
        named = about.get("bundle")
        raise FileError(f"{path} holds the weights of {named}; method must be that{nearest(named, [bundle.name])}.")
    network, dims = about.get("network_def"), about.get("spatial_dims")
    if (
        not isinstance(network, dict)
        or not _is_harmless(network, _parts_of_networks(bundle))
        or dims not in (2, 3, None)
    ):
        raise FileError(f"{path} asks for a network that {bundle.name} does not make; it may be damaged: train again.")
    return {"network_def": network} | ({"spatial_dims": dims} if dims else {})


def stated_range(about: Mapping[str, Any]) -> dict[str, Any]:
    """The `spacing` that weights work at, and the ranges of their `training_data`, as far as they say."""
    spacing, ranges = about.get("spacing"), about.get("training_data")
    found: dict[str, Any] = {"spacing": spacing} if _are_numbers(spacing) else {}
    if isinstance(ranges, dict):
        known = {name: ranges[name] for name in ("spacing", "size") if _are_numbers(ranges.get(name), 2)}
        found |= {"training_data": known}
    return found


def _are_numbers(value: Any, count: int | None = None) -> bool:
    return isinstance(value, list) and count in (None, len(value)) and all(type(one) in (int, float) for one in value)


def _plain(config: ConfigParser, name: str) -> Any:
    """A part of a configuration with the values of its references and expressions; other than plain values in it are a
    TypeError."""
    content = config[name]
    if isinstance(content, dict):
        return {key: _plain(config, f"{name}#{key}") for key in content}
    if isinstance(content, (list, tuple)):
        return [_plain(config, f"{name}#{number}") for number in range(len(content))]
    if isinstance(content, str) and not name.endswith("#_target_"):
        if content.startswith("@"):
            return _plain(config, content[1:])
        if content.startswith("$"):
            content = config.get_parsed_content(name)
    if not isinstance(content, PLAIN):
        raise TypeError(f"{name} is a {type(content).__name__}")
    return content


def _parts_of_networks(bundle: Bundle) -> set[str]:
    """What the networks of a bundle's configurations are made of, variants too, by their targets."""
    found: set[str] = set()
    for variant in [(), *((one,) for one in bundle.variants)]:
        known = bundle.settings("train", variant)
        waiting: list[Any] = [known["network_def"]]
        while waiting:
            content = waiting.pop()
            if isinstance(content, str) and content.startswith("@"):
                waiting.append(known.get(content[1:]))
            found |= {content["_target_"]} if isinstance(content, dict) and "_target_" in content else set()
            waiting += content.values() if isinstance(content, dict) else []
    return found


def _is_harmless(content: Any, targets: set[str]) -> bool:
    """Whether there are plain values and these targets only; nothing is evaluated, referred to or merged."""
    if isinstance(content, Mapping):
        return all(
            str(value) in targets
            if key == "_target_"
            else str(key).isidentifier() and str(key)[0] != "_" and _is_harmless(value, targets)
            for key, value in content.items()
        )
    if isinstance(content, (list, tuple)):
        return all(_is_harmless(one, targets) for one in content)
    return isinstance(content, PLAIN) and not (isinstance(content, str) and set(content) & set("$@%"))
