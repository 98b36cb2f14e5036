"""The command `warpzoo`: one line of help per command here, everything else in the command's module."""

from __future__ import annotations

import builtins
import inspect
import logging
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial, wraps
from importlib import import_module
from io import StringIO
from typing import Any

COMMANDS = {
    "register": ("warpzoo.commands.register", "register a moving image to a fixed one, or a list of pairs"),
    "sequence": ("warpzoo.commands.sequence", "register the frames of a time-lapse, and denoise them"),
    "template": ("warpzoo.commands.template", "build a template of many subjects"),
    "denoise": ("warpzoo.commands.denoise", "denoise an image by a network that learns from it, or by a filter"),
    "check": ("warpzoo.commands.check", "look through the images of a training"),
    "train": ("warpzoo.commands.train", "train a network on your own images"),
    "apply": ("warpzoo.commands.apply", "warp an image, labels or points by a transform file"),
    "compare": ("warpzoo.commands.apply", "the distance between two transforms"),
    "export": ("warpzoo.commands.export", "write a network as ONNX or TorchScript for other programs"),
    "release": ("warpzoo.commands.release", "pack a bundle, or all, as a zip file that runs alone"),
    "deploy": ("warpzoo.commands.deploy", "write an application of MONAI Deploy that runs a bundle"),
    "serve": ("warpzoo.commands.serve", "register over HTTP, with a page to drop two files on"),
    "publish": ("warpzoo.commands.publish", "put a bundle into a registry: a folder, MLflow, the Hugging Face hub"),
    "fetch": ("warpzoo.commands.fetch", "fetch a bundle from a registry, to be used by its name"),
    "methods": ("warpzoo.commands.methods", "list the registration methods, their data and dimensions"),
}
KINDS = {int: "a whole number", float: "a number", bool: "True or False"}


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("usage: warpzoo COMMAND ... (see warpzoo COMMAND --help; --debug shows the traceback of a failure)\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:10}{summary}")
        return
    name, *others = arguments
    if name == "--version":
        from warpzoo import __version__

        print(__version__)
    elif name not in COMMANDS:
        from warpzoo.errors import nearest

        sys.exit(f"warpzoo has no command {name!r}{nearest(name, COMMANDS)}; it has {', '.join(COMMANDS)}.")
    else:
        run(name, others)


def run(name: str, arguments: list[str]) -> None:
    """Runs one command; a failure ends with one sentence, and the warnings of libraries are silenced."""
    import fire

    from warpzoo.errors import FAILURES, plain_reason

    debug = "--debug" in arguments
    arguments = [one for one in arguments if one != "--debug"]
    if not debug:
        logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            command = annotated(getattr(import_module(COMMANDS[name][0]), name))
            if {"-h", "--help"} & {*arguments}:
                with redirect_stderr(sys.stdout):
                    fire.Fire({name: command}, [name, "--", "--help"], "warpzoo")
            arguments = in_full(command, arguments)
            command = reading(command)
            check_arguments(name, command, arguments)
            fire.Fire({name: command}, [name, *arguments], "warpzoo")
    except FAILURES as error:
        if debug:
            raise
        sys.exit(f"warpzoo {name}: {plain_reason(error)}")
    except KeyboardInterrupt:
        print(f"warpzoo {name}: interrupted; existing output files are complete.", file=sys.stderr)
        sys.exit(130)
    finally:
        logging.disable(logging.NOTSET)


def check_arguments(name: str, command: Callable[..., Any], arguments: list[str]) -> None:
    """Ends with one sentence if the command cannot be called so: fire would run it before it finds what is too many."""
    import fire

    from warpzoo.errors import nearest

    try:
        with redirect_stderr(StringIO()):  # of fire's own words, which fill a screen
            fire.Fire({name: wraps(command)(lambda *_, **__: None)}, [name, *arguments], "warpzoo")
    except fire.core.FireExit as exit:
        if not exit.trace.HasError():
            raise
        reason, _, argument = exit.trace.elements[-1].ErrorAsStr().rpartition(": ")
        if reason != "Could not consume arg":
            words = f"{argument} must be given"
        elif argument.startswith("-"):
            option = argument.partition("=")[0]
            names = inspect.signature(command).parameters
            words = f"{option} is no option of it{nearest(option.strip('-'), names)}"
        else:
            words = f"{argument!r} is one argument too many"
        print(f"warpzoo {name}: {words}; see warpzoo {name} --help.", file=sys.stderr)
        sys.exit(exit.code)


def annotated(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with one plain type for each argument, for the help and for `reading`, and one line of text: of
    further ones with a colon, fire would show what comes before it."""

    @wraps(command)
    def same(*arguments: Any, **options: Any) -> Any:
        return command(*arguments, **options)

    signature = inspect.signature(command)
    parameters = [
        one.replace(annotation=getattr(builtins, str(one.annotation).split()[0], object))
        for one in signature.parameters.values()
    ]
    same.__doc__ = re.sub(r"(?<=\S)\n {12}(?=\S)", " ", command.__doc__ or "")
    same.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return same


def in_full(command: Callable[..., Any], arguments: list[str]) -> list[str]:
    """The arguments with the letters that the help shows, such as -m, as whole names: fire shows one for each option
    that alone of its kind begins with it, but does not take it if what comes without a name begins with it too. One
    that is shown for two options remains, and is refused."""
    parameters = inspect.signature(command).parameters.values()
    named_alone = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    others = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY and one.default is not one.empty]
    shown: dict[str, list[str]] = {}
    for options in (named_alone, others):
        for letter, count in Counter(name[0] for name in options).items():
            if count == 1:
                shown.setdefault(f"-{letter}", []).extend(f"--{name}" for name in options if name[0] == letter)
    whole = {letter: names[0] for letter, names in shown.items() if len(names) == 1}
    parts = [one.partition("=") for one in arguments]
    return [whole.get(letter, letter) + equals + value for letter, equals, value in parts]


def reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with its arguments parsed by their annotations: a name such as 007 or a,b remains a string."""
    from fire.decorators import SetParseFns
    from fire.parser import DefaultParseValue

    def read(name: str, kind: type, text: str) -> Any:
        value = text if kind is str else DefaultParseValue(text)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(f"{name} must be {KINDS[kind]}, got {text!r}.")
        return value

    parameters = inspect.signature(command).parameters
    return SetParseFns(**{name: partial(read, name, one.annotation) for name, one in parameters.items()})(command)


if __name__ == "__main__":
    main()
