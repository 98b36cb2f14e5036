"""The command `warpzoo publish`."""

from __future__ import annotations

import tempfile
from pathlib import Path

REGISTRIES = {
    "folder": "warpzoo.sharing.shelf",
    "mlflow": "warpzoo.sharing.mlflow_server",
    "hf": "warpzoo.sharing.hub",
}


def publish(bundle: str, registry: str, address: str | None = None, alias: str = "champion") -> None:
    """Packs a bundle as warpzoo release does, and puts it where others can fetch it.

    folder: a folder with the zip files and a model_info.json, which any file server can serve. mlflow: a registered
    model with a version, an alias, tags (versions, sha1), the numbers of the bundle's results and the zip file. hf: a
    repository of the Hugging Face hub with the bundle's files, its card, and a tag for the version. Prints what to give
    to warpzoo fetch. A version that is published stays as it is: another one needs another number.

    Args:
        bundle: name or folder of a bundle, all for every one that comes with warpzoo, or a zip file of warpzoo release.
        registry: folder, mlflow or hf. The last two need: pip install 'warpzoo[registry]'.
        address: the folder (default dist); MLflow's server, such as http://host:5000, or database (default:
            MLFLOW_TRACKING_URI, else sqlite:///mlflow.db); OWNER or OWNER/NAME on the hub, whose HF_TOKEN and
            HF_ENDPOINT are respected.
        alias: the name that points to this version in mlflow, instead of the one that it pointed to.
    """
    from importlib import import_module

    from warpzoo.bundles import open_bundle
    from warpzoo.commands.release import chosen_roots
    from warpzoo.sharing.archive import unpack
    from warpzoo.sharing.checks import check
    from warpzoo.sharing.release import read_release, release

    if registry not in REGISTRIES:
        raise ValueError(f"registry must be {', '.join(REGISTRIES)}, got {registry!r}.")
    put = import_module(REGISTRIES[registry]).publish
    with tempfile.TemporaryDirectory() as temporary:
        if bundle.endswith(".zip"):
            made = [read_release(Path(bundle))]
            check(unpack(made[0].path, Path(temporary)))
        else:
            made = [release(open_bundle(root), Path(temporary)) for root in chosen_roots(bundle)]
        for one in made:
            source = put(one, address, alias)
            print(f"{one.bundle}: version {one.version}, sha1 {one.checksum}; warpzoo fetch {source}")
