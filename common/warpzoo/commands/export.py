"""The command `warpzoo export`."""

from __future__ import annotations

from pathlib import Path


def export(method: str, output: str | None = None) -> None:
    """Writes a network for other programs: ONNX for onnxruntime, in a browser or on a scanner, or TorchScript.

    The file takes images of any size and batch, (batch, 2, *spatial) of moving and fixed, and gives (batch, 1 + dims,
    *spatial): the warped image and the displacement in voxels. It is held against the network itself before it is kept.

    Args:
        method: a bundle with its variants, named as often as it looks, as in bundle:variant,bundle:variant.
        output: a file that ends in .onnx, or in .ts or .pt for TorchScript; without, the bundle's name and .onnx.
    """
    from warpzoo.bundles import find_bundle
    from warpzoo.files import whole_file
    from warpzoo.registration.methods import one_network
    from warpzoo.sharing.exports import export_onnx, export_torchscript

    name, variants, passes = one_network(method)
    bundle = find_bundle(name, "registration")
    path = Path(output or f"{bundle.name}.onnx")
    kinds = {".onnx": export_onnx, ".ts": export_torchscript, ".pt": export_torchscript}
    if path.suffix not in kinds:
        raise ValueError(f"output must end in .onnx, .ts or .pt, got {output}.")
    with whole_file(path) as temporary:
        kinds[path.suffix](bundle, temporary, variants, passes)
    looks = "once" if passes == 1 else f"{passes} times"
    print(f"{path}: {bundle.name}, which looks {looks}, {path.stat().st_size / 2**20:.1f} MB")
