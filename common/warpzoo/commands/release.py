"""The command `warpzoo release`."""

from __future__ import annotations

from pathlib import Path

from warpzoo.bundles import METADATA, bundle_folders, open_bundle


def release(bundle: str, output: str = "dist") -> None:
    """Packs a bundle as one zip file that runs alone, with MONAI and the packages that its metadata name.

    The bundle is checked against the rules of MONAI's model zoo; what it uses of warpzoo, TorchScript and ONNX of its
    network and a model card are put in. The output folder gets <name>_v<version>.zip and an entry with its sha1 in
    model_info.json. The same files give the same bytes.

    Args:
        bundle: name or folder of a bundle, or all for every one that comes with warpzoo.
        output: folder for the results.
    """
    from warpzoo.sharing.release import release as pack

    for root in chosen_roots(bundle):
        made = pack(open_bundle(root), Path(output))
        print(f"{made.path}: version {made.version}, {made.path.stat().st_size / 2**20:.1f} MB, sha1 {made.checksum}")


def chosen_roots(name: str) -> list[Path]:
    """The folder of a bundle, given by it or by name, or of all that are shipped."""
    if Path(name, METADATA).is_file():
        return [Path(name)]
    shipped = sorted(path.parents[1] for path in bundle_folders()[-1].glob(f"*/{METADATA.as_posix()}"))
    chosen = [root for root in shipped if name in ("all", root.name)]
    if not chosen:
        there = ", ".join(root.name for root in shipped) or "none here"
        raise ValueError(f"bundle must be all, a bundle's folder, or one of {there}, got {name!r}.")
    return chosen
