"""The Hugging Face hub as a registry: a repository per bundle, with the bundle's files and its card as README.md, a tag
per version. `python -m monai.bundle download --source huggingface_hub` reads the same.

The hub's own variables are respected: HF_TOKEN, HF_ENDPOINT and others.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from warpzoo.files import FileError
from warpzoo.sharing.archive import LARGEST, is_inside, unpack
from warpzoo.sharing.release import Release

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

SCHEME = "hf://"
OF_THE_HUB = ".gitattributes"


def publish(release: Release, address: str | None, alias: str) -> str:
    """Makes a repository `OWNER/NAME`, or brings it to this release, and tags it; with `OWNER` alone it is called as
    the bundle."""
    if address is None:
        raise ValueError("address must be OWNER or OWNER/NAME for the registry hf, got none.")
    repository = address if "/" in address else f"{address}/{release.bundle}"
    tag = f"v{release.version}"
    with _hub() as hub, tempfile.TemporaryDirectory() as temporary:
        root = unpack(release.path, Path(temporary))
        hub.create_repo(repository, exist_ok=True)
        hub.upload_folder(
            repo_id=repository, folder_path=root, commit_message=f"Version {release.version}", delete_patterns="*"
        )
        if tag in {one.name for one in hub.list_repo_refs(repository).tags}:
            hub.delete_tag(repository, tag=tag)
        hub.create_tag(repository, tag=tag)
    return f"{SCHEME}{repository}@{tag}"


def fetch(source: str, address: str | None, folder: Path) -> tuple[Path, str]:
    """Downloads `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`; each file must be what the hub lists. Also gives the
    bundle's name, which the repository may not have."""
    named = re.fullmatch(rf"{SCHEME}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", source)
    if named is None:
        raise FileError(f"source must be {SCHEME}OWNER/NAME or {SCHEME}OWNER/NAME@REVISION, got {source!r}.")
    repository, revision = named.groups()
    root = folder / "files"
    with _hub() as hub:
        from huggingface_hub.hf_api import RepoFile

        commit = hub.repo_info(repository, revision=revision).sha
        listed = [
            one for one in hub.list_repo_tree(repository, recursive=True, revision=commit) if isinstance(one, RepoFile)
        ]
        files = [one for one in listed if one.path != OF_THE_HUB]
        for one in files:
            if not is_inside(one.path):
                raise FileError(f"{source} must only have files of its own folder, got {one.path!r}.")
        if (size := sum(one.size for one in files)) > LARGEST:
            raise FileError(f"{source} must hold {LARGEST} bytes or less, got {size}.")
        hub.snapshot_download(repository, revision=commit, local_dir=root)
        for one in files:
            if not _is_same(root / one.path, one):
                raise FileError(f"{source} is not what the hub lists, at {one.path}: fetch it again.")
    (root / OF_THE_HUB).unlink(missing_ok=True)
    shutil.rmtree(root / ".cache", ignore_errors=True)
    packages = [path.parent.name for path in root.glob("*/__init__.py") if path.parent.name != "warpzoo"]
    if len(packages) != 1:
        there = ", ".join(sorted(packages)) or "none"
        raise FileError(f"{source} must have one package, which gives the bundle its name, got {there}.")
    name = PurePosixPath(packages[0]).name
    return root.rename(folder / name), name


def _is_same(path: Path, listed: RepoFile) -> bool:
    """Git's sha1 of a small file, sha256 of a large one."""
    content = path.read_bytes()
    if listed.lfs is not None:
        return hashlib.sha256(content).hexdigest() == listed.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == listed.blob_id


@contextmanager
def _hub() -> Iterator[HfApi]:
    """The hub's client, whose failures are one sentence."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as error:
        raise ValueError("registry hf must have huggingface_hub installed: pip install 'warpzoo[registry]'.") from error
    disable_progress_bars()
    try:
        yield huggingface_hub.HfApi()
    except (HfHubHTTPError, HFValidationError) as error:
        raise FileError(f"the hub says: {' '.join(str(error).split())}") from error
