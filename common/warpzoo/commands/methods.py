"""The command `warpzoo methods`."""

from __future__ import annotations

from warpzoo.bundles import Bundle, bundles
from warpzoo.bundles.fetched import origin
from warpzoo.classical import CLASSICAL, installed
from warpzoo.registration.methods import OPTIMISED


def methods() -> None:
    """Lists the registration methods, with the kind of data and the dimensions they are for."""
    for bundle in bundles("registration"):
        kind = bundle.metadata.get("data_type", "any")
        print(
            f"{bundle.name:20}{f'{bundle.spatial_dims}-D':8}{kind:24}{bundle.metadata.get('task', '')}{_remark(bundle)}"
        )
    for name, task in OPTIMISED.items():
        print(f"{name:20}{'2/3-D':8}{'any':24}no network: {task}")
    for name, method in CLASSICAL.items():
        missing = "" if installed(name) else f" (needs {method.package}: pip install 'warpzoo[classical]')"
        print(f"{name:20}{method.dims:8}{'any':24}no network: {method.task}{missing}")


def _remark(bundle: Bundle) -> str:
    if not bundle.weights().exists():
        return " (no weights yet: train it first)"
    source = origin(bundle.root)
    return "" if source is None else f" (version {bundle.metadata['version']}, fetched from {source})"
