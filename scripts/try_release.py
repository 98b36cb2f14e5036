"""Tries a released bundle as somebody would who has MONAI and the packages that the bundle's metadata name, no more.

python scripts/try_release.py dist/fcn_multires_v0.1.0.zip

In an environment of its own, without warpzoo and with every other package hidden, from another working directory:
`monai.bundle download`, `run` on two images that are made here, `load` (network and TorchScript), `verify_net_in_out`
and `ckpt_export`. Ends with the first that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import nibabel
import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

HIDES = """
import sys
from importlib.machinery import PathFinder
HIDDEN = set({hidden!r})
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if path is None and name in HIDDEN else super().find_spec(name, path, target)
sys.meta_path[:] = [Hiding if one is PathFinder else one for one in sys.meta_path]
"""
LOADS = """
from monai.bundle import load
for options in ({"workflow_type": "inference"}, {"workflow_type": "train"}, {"load_ts_module": True}):
    network = load(NAME, bundle_dir="bundles", device="cpu", **options)
    print(NAME, options, type(network[0] if isinstance(network, tuple) else network).__name__)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    archive = parser.parse_args().archive.resolve()
    name, version = archive.stem.rsplit("_v", 1)
    with zipfile.ZipFile(archive) as zipped:
        metadata = json.loads(zipped.read(f"{name}/configs/metadata.json"))
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder) / "environment", ["monai", "torch", *metadata["required_packages_version"]])
        work = Path(folder) / "work"
        work.mkdir()
        root, configs = f"bundles/{name}", f"bundles/{name}/configs"
        bundle = [python, "-m", "monai.bundle"]
        about = ["--bundle_root", root, "--config_file", f"{configs}/inference.json"]
        meta = ["--meta_file", f"{configs}/metadata.json"]
        weights = ["--ckpt_file", f"{root}/models/model.pt", "--filepath", "model.ts"]
        steps = [
            [
                *bundle,
                "download",
                "--name",
                name,
                "--version",
                version,
                "--url",
                archive.as_uri(),
                "--bundle_dir",
                "bundles",
            ],
            [*bundle, "run", *about, "--output_dir", "out", *images(work, metadata)],
            [python, "-c", LOADS.replace("NAME", repr(name))],
            [*bundle, "verify_net_in_out", "network_def", *about, *meta, "--device", "cpu"],
            [*bundle, "ckpt_export", "network_def", *about, *meta, *weights],
        ]
        for step in steps:
            what = "load" if step[1] == "-c" else step[3]
            ended = subprocess.run(step, cwd=work, env=surroundings(), text=True, capture_output=True)
            print(f"{what}: {'works' if ended.returncode == 0 else 'fails'}", flush=True)
            if ended.returncode:
                sys.exit((ended.stdout + ended.stderr)[-12000:])
        print(f"{name} {version}: {', '.join(sorted(path.name for path in (work / 'out').iterdir()))}")


def surroundings() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONUTF8": "1"}


def environment(folder: Path, distributions: list[str]) -> str:
    """A Python that sees these packages of this one's, and what they need; a package that is installed for editing,
    such as warpzoo itself, is not seen."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip())
    seen = needed(distributions)
    hidden = sorted(
        package
        for package, of in packages_distributions().items()
        if not {normal(one) for one in of} & (seen | {"warpzoo"})
    )
    (site / "sitecustomize.py").write_text(HIDES.format(hidden=hidden), encoding="utf-8")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return str(python)


def needed(distributions: list[str]) -> set[str]:
    """The distributions and all that they depend on."""
    found: set[str] = set()
    waiting = [normal(one) for one in distributions]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        waiting += [normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in lines if "extra ==" not in line]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def images(folder: Path, metadata: dict) -> list[str]:
    """Two images that differ by a shift, or a noisy one, as the bundle takes them."""
    formats = metadata["network_data_format"]
    size = (48, 40, 44)[: len(formats["inputs"]["image"]["spatial_shape"])]
    scene = 1000 * gaussian_filter(np.random.default_rng(0).standard_normal([side + 4 for side in size]), 2)
    if formats["outputs"]["pred"]["format"] != "registration":
        noisy = 100 + scene + np.random.default_rng(1).normal(0, 20, scene.shape)
        tifffile.imwrite(folder / "image.tif", noisy.astype(np.float32))
        return ["--image", "image.tif"]
    for name, first in (("fixed", 0), ("moving", 2)):
        part = scene[tuple(slice(first, first + side) for side in size)].astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(part, np.eye(4)), folder / f"{name}.nii.gz")
    return ["--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz"]


if __name__ == "__main__":
    main()
