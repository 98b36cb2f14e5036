"""The command `warpzoo methods`."""

from __future__ import annotations

from warpzoo.bundles import Bundle, bundles
from warpzoo.bundles.fetched import origin
from warpzoo.classical import CLASSICAL, installed
from warpzoo.registration.methods import OPTIMISED


def methods() -> None:
    """Lists the registration methods, with the dimensions and the kind of data they are for; of a bundle also the
    variants that come with weights of their own."""
    for bundle in bundles("registration"):
        kind = bundle.metadata.get("data_type", "any")
        _say(bundle.name, f"{bundle.spatial_dims}-D", kind, f"{bundle.metadata.get('task', '')}{_remark(bundle)}")
        for variant, content in _variants(bundle).items():
            dims = bundle.settings("inference", [variant]).get("spatial_dims", bundle.spatial_dims)
            _say(f"{bundle.name}:{variant}", f"{dims}-D", "", content)
    for name, task in OPTIMISED.items():
        _say(name, "2/3-D", "any", f"no network: {task}")
    for name, method in CLASSICAL.items():
        missing = "" if installed(name) else f" (needs {method.package}: pip install 'warpzoo[classical]')"
        _say(name, method.dims, "any", f"no network: {method.task}{missing}")


def _say(name: str, dims: str, kind: str, task: str) -> None:
    print(f"{name:24}{dims:8}{kind:24}{task}")


def _variants(bundle: Bundle) -> dict[str, str]:
    """What the variants that have weights of their own have been trained on, where the metadata say it."""
    return {
        name.removesuffix(".pt"): known["content"]
        for name, known in bundle.metadata.get("training_data", {}).items()
        if name.endswith(".pt") and bundle.weights([name.removesuffix(".pt")]).exists()
    }


def _remark(bundle: Bundle) -> str:
    if not bundle.weights().exists():
        return " (no weights yet: train it first)"
    source = origin(bundle.root)
    return "" if source is None else f" (version {bundle.metadata['version']}, fetched from {source})"
