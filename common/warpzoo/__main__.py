"""The command `warpzoo`: one line of help per command here, everything else where the command lives."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "register": ("warpzoo.registration.register", "carry a moving image onto a fixed one; or a whole list of pairs"),
    "apply": ("warpzoo.space.commands", "carry an image, labels or points by a transform file"),
    "compare": ("warpzoo.space.commands", "how far apart two transforms take the same points"),
    "methods": ("warpzoo.registration.methods", "the methods that are there, their data and dimensions"),
}


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("usage: warpzoo COMMAND … (warpzoo COMMAND --help tells more)\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:10}{summary}")
        return
    name = arguments[0]
    if name == "--version":
        from warpzoo import __version__

        print(__version__)
        return
    if name not in COMMANDS:
        sys.exit(f"warpzoo has no command {name!r}; it has {', '.join(COMMANDS)}.")
    import fire

    command = getattr(import_module(COMMANDS[name][0]), name)
    try:
        fire.Fire(command, command=arguments[1:], name=f"warpzoo {name}")
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"warpzoo {name}: {plain_reason(error)}")
    except KeyboardInterrupt:
        sys.exit(f"warpzoo {name}: interrupted; what is there under its final name is whole.")


def plain_reason(error: BaseException) -> str:
    """The sentence that was meant for a person, from under what MONAI's configuration wrapped around it."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, (ValueError, OSError)):
            return str(reason)
        reason = reason.__cause__ or reason.__context__
    return str(error)


if __name__ == "__main__":
    main()
