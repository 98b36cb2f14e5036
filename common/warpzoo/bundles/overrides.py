"""What a user sets on top of a bundle's configuration: names that are there, values of their kind.

MONAI takes any name and any value: what is misspelt has no effect, and what is of the wrong kind fails somewhere else.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warpzoo.checks import check_truth, chosen_device
from warpzoo.errors import end_with_the_reason, is_monai_command, nearest

OF_MONAI = {
    *("run_id", "init_id", "final_id", "config_file", "meta_file", "logging_file", "args_file", "workflow_name"),
    *("bundle_root", "tracking", "tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0"),
}
"""What `python -m monai.bundle run` itself takes, and its tracking."""


def begin() -> None:
    """What every configuration begins with: a failure of `python -m monai.bundle` ends with one sentence from now on,
    and what its command line sets, or a file of one's own on top of the bundle's, must be there."""
    end_with_the_reason()
    if is_monai_command():
        given = command_line(sys.argv[1:])
        files = given.get("config_file", ())
        known = known_settings([files] if isinstance(files, str) else files)
        if "args_file" in given:
            given = json.loads(Path(given["args_file"]).read_text(encoding="utf-8")) | given
        check_overrides(known, {name: value for name, value in given.items() if name not in OF_MONAI})


def known_settings(files: Sequence[str | Path]) -> dict[str, Any]:
    """What configuration files set, later ones on top; what those outside the folder of the first one set must be
    there before."""
    from monai.bundle import ConfigParser

    for number, file in enumerate(files):
        if number and Path(files[0]).resolve().parent not in Path(file).resolve().parents:
            known = ConfigParser.load_config_files(list(files[:number]))
            try:
                check_overrides(known, ConfigParser.load_config_file(file))
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
    return dict(ConfigParser.load_config_files(list(files)))


def command_line(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a command of fire: `--name value`, `--name=value`, or `--name` for True."""
    from fire.parser import DefaultParseValue

    found: dict[str, Any] = {}
    waiting = list(arguments)
    while waiting:
        option = re.fullmatch(r"--?([A-Za-z+][^=\s]*)(?:=(.*))?", waiting.pop(0), re.DOTALL)
        if option is None:
            continue
        name, value = option[1].replace("-", "_"), option[2]
        if value is None and waiting and not re.match(r"--|-[A-Za-z]", waiting[0]):
            value = waiting.pop(0)
        found[name] = True if value is None else DefaultParseValue(value)
    return found


def check_overrides(known: Mapping[str, Any], given: Mapping[str, Any], others: Sequence[str] = ()) -> None:
    """Refuses names that the configuration `known` does not have, and values of another kind than it has there.

    `others` are further names that the user may have meant.
    """
    referred = {name for value in given.values() for name in re.findall(r"@(\w+)", json.dumps(value, default=str))}
    for name, value in given.items():
        first = _parts(name)[0]
        if first not in known and first in referred:
            continue  # a part of its own, which another one refers to
        try:
            default = default_of(known, name)
        except KeyError:
            candidates = [*others, *known, *(_identifiers(known) if "#" in name else ())]
            raise ValueError(f"{name} is no setting of this configuration{nearest(name, candidates)}.") from None
        check_kind(name, value, default)


def check_kind(name: str, value: Any, default: Any) -> None:
    """That a value is of the kind of the one that it replaces; references and expressions may be anything."""
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        return
    if name.endswith("_subjects") and not isinstance(value, (list, tuple, Mapping)):
        raise ValueError(f"{name} must be a list of names, such as ['a.nii.gz', 'b.nii.gz'], got {value!r}.")
    if name == "device":
        chosen_device(str(value))
    elif isinstance(default, bool):
        check_truth(name, value)
    elif isinstance(default, (int, float)):
        _check_number(name, value, default)
    elif isinstance(default, list) and default and all(isinstance(one, (int, float)) for one in default):
        one_for_all = re.search("#|::", name) and isinstance(value, (int, float))  # as a part's argument may be
        if value is not None and not isinstance(value, (list, tuple)) and not one_for_all:
            raise ValueError(f"{name} must be a list such as {default}, got {value!r}.")
        for one in [value] if one_for_all else value or ():
            _check_number(name, one, default[0])


def _check_number(name: str, value: Any, default: float) -> None:
    whole = isinstance(default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ValueError(f"{name} must be {'a whole number' if whole else 'a number'}, got {value!r}.")
    if not value >= 0 and default >= 0:
        raise ValueError(f"{name} must be 0 or more, got {value}.")


def default_of(known: Mapping[str, Any], name: str) -> Any:
    """What the configuration has by a name such as `loss#weights`; None for an argument that it leaves out. Unknown is
    a KeyError."""
    content: Any = known
    parts = _parts(name)
    for number, part in enumerate(parts):
        while isinstance(content, str) and re.fullmatch(r"@[\w#:]+", content):
            content = default_of(known, content[1:])
        if isinstance(content, Mapping) and part in content:
            content = content[part]
        elif isinstance(content, list) and part.isdigit() and int(part) < len(content):
            content = content[int(part)]
        elif isinstance(content, Mapping) and "_target_" in content and number == len(parts) - 1:
            return _argument(content["_target_"], part)
        else:
            raise KeyError(part)
    return content


def _parts(name: str) -> list[str]:
    return re.split(r"#|::", name.removeprefix("+"))


def _parameters(target: str) -> Mapping[str, inspect.Parameter]:
    """What a target takes; nothing if it cannot be found, which MONAI says when it makes it."""
    from monai.utils import optional_import

    made, there = optional_import(target.rpartition(".")[0], name=target.rpartition(".")[2])
    return inspect.signature(made).parameters if there else {}


def _argument(target: str, name: str) -> Any:
    """The default of a target's argument; targets that take any are trusted with it."""
    parameters = _parameters(target)
    if name in ("_disabled_", "_mode_", "_requires_") or not parameters:
        return None
    if name in parameters:
        default = parameters[name].default
        return None if default is inspect.Parameter.empty else default
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return None
    raise KeyError(name)


def _identifiers(known: Any, prefix: str = "") -> Iterator[str]:
    """The names of everything in a configuration, such as train#trainer#max_epochs, and of arguments it leaves out."""
    for name, content in known.items():
        yield prefix + name
        if isinstance(content, Mapping):
            yield from _identifiers(content, f"{prefix}{name}#")
    if "_target_" in known:
        yield from (prefix + name for name in _parameters(known["_target_"]))
