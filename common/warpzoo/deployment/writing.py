"""A bundle → a folder that is an application of MONAI Deploy: the released bundle, and what runs it there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from warpzoo.bundles import Bundle
from warpzoo.files import FileError
from warpzoo.sharing.archive import unpack
from warpzoo.sharing.release import release
from warpzoo.sharing.vendoring import is_released

HERE = Path(__file__).resolve().parent
PACKAGE = "warpzoo/deployment/application"
TEMPLATES = {
    "README.md.j2": "README.md",
    "Dockerfile.j2": "Dockerfile",
    "app.yaml.j2": "application/app.yaml",
    "requirements.txt.j2": "application/requirements.txt",
}
SDK = ("monai-deploy-app-sdk==4.0.0", "pydicom>=3", "highdicom>=0.24")
"""The SDK imports the latter without asking for it, and MONAI cannot be imported until it is there."""
KINDS = ("pair", "sequence", "denoising")


def write_application(bundle: Bundle, output: Path, kind: str | None = None) -> Path:
    """Writes README.md, Dockerfile, application/ and models/<name>/ into a folder that is empty or not there.

    Args:
        bundle: it is released first, so it must obey the rules of a release, or is one.
        output: the folder.
        kind: what the application does: register a pair, or the frames of a sequence, or denoise; by default what the
            bundle is for.
    """
    kind = _kind_of(bundle, kind)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileError(f"{output} must be a new or an empty folder.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".") as temporary:
        made = Path(temporary) / "application"
        if is_released(bundle.root):
            shutil.copytree(bundle.root, made / "models" / bundle.name)
        else:
            unpack(release(bundle, Path(temporary) / "dist").path, made / "models")
        target = made / "application" / PACKAGE
        shutil.copytree(HERE / "application", target, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(HERE / "__init__.py", target.parent / "__init__.py")
        shutil.copyfile(HERE / "templates" / "__main__.py", made / "application" / "__main__.py")
        _fill(bundle, kind, made)
        if output.exists():
            output.rmdir()
        made.rename(output)
    return output


def _kind_of(bundle: Bundle, kind: str | None) -> str:
    possible = KINDS[-1:] if bundle.task == "denoising" else KINDS[:-1]
    usual = possible[-1] if bundle.task == "denoising" or bundle.metadata.get("denoises") else possible[0]
    if kind is not None and kind not in possible:
        raise ValueError(f"kind must be {' or '.join(possible)} for {bundle.name}, got {kind!r}.")
    return kind or usual


def _fill(bundle: Bundle, kind: str, folder: Path) -> None:
    metadata = bundle.metadata
    stated = {
        "torch": metadata["pytorch_version"],
        "monai": metadata["monai_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    values = {
        "kind": kind,
        "name": bundle.name,
        "version": metadata["version"],
        "description": metadata["description"],
        "intended_use": metadata["intended_use"],
        "spatial_dims": bundle.spatial_dims,
        "tag": f"{bundle.name.replace('_', '-')}:{metadata['version']}",
        "requirements": [*(f"{name}=={version}" for name, version in sorted(stated.items())), *SDK],
    }
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    for source, target in TEMPLATES.items():
        (folder / target).write_text(templates.get_template(source).render(values), encoding="utf-8")
