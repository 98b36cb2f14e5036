"""Registration of a pair of images: the pure call, methods with and without a network, files in and results out."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Companions": "pair",
    "FilePairs": "engine",
    "NetworkMethod": "network",
    "Registration": "pair",
    "RegistrationEvaluator": "engine",
    "RegistrationInferer": "engine",
    "WriteRegistration": "engine",
    "find_methods": "methods",
    "list_pairs": "listing",
    "register_pair": "pair",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Imported when first asked for: the command's help needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
