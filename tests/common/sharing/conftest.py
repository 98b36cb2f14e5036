"""What the tests of registries share: a released bundle, and a stand-in of the Hugging Face hub."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from warpzoo.bundles import METADATA, open_bundle
from warpzoo.sharing.archive import pack, unpack
from warpzoo.sharing.card import card
from warpzoo.sharing.release import CARD, Release, read_release
from warpzoo.sharing.results import results
from warpzoo.sharing.vendoring import copy_package

ROOT = Path(__file__).parents[3]
LARGE = 100_000
"""Bytes from which the stand-in takes a file as the hub takes large ones."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release of dirnet as `warpzoo release` makes it, without exports, figures and the variants' weights."""
    folder = tmp_path_factory.mktemp("made")
    source, root = open_bundle(ROOT / "bundles" / "dirnet"), folder / "dirnet"
    left_out = shutil.ignore_patterns("__pycache__", "figures", "digits", "[abc]?.pt", "runs", "results.json")
    shutil.copytree(source.root, root, ignore=left_out)
    (root / CARD).write_text(card(source), encoding="utf-8")
    metadata = {**source.metadata, "eval_metrics": results(source)}
    (root / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    copy_package(root)
    return read_release(pack(root, folder / f"dirnet_v{metadata['version']}.zip"))


@pytest.fixture(autouse=True)
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where bundles are fetched to."""
    folder = tmp_path / "user" / "bundles"
    monkeypatch.setenv("WARPZOO_FETCHED", str(folder))
    return folder


@pytest.fixture(scope="session")
def small(made: Release, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The same without its copy of warpzoo: a hub takes files one by one."""
    folder = tmp_path_factory.mktemp("small")
    shutil.rmtree(unpack(made.path, folder) / "warpzoo")
    return read_release(pack(folder / "dirnet", folder / made.path.name))


@pytest.fixture(scope="session")
def files() -> Callable[[Path], dict[str, bytes]]:
    """The contents of a folder or a zip file's one folder by their names."""

    def files(path: Path) -> dict[str, bytes]:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as zipped:
                return {name.partition("/")[2]: zipped.read(name) for name in zipped.namelist()}
        return {one.relative_to(path).as_posix(): one.read_bytes() for one in path.rglob("*") if one.is_file()}

    return files


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture
def ran(tmp_path: Path) -> Iterator[Path]:
    """A file that nothing may write: `evil` does when it is run."""
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def evil(ran: Path) -> Evil:
    return Evil(ran)


class Hub:
    """Repositories in memory: commits with their files, branches and tags."""

    def __init__(self) -> None:
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.tags: dict[str, dict[str, int]] = {}
        self.objects: dict[str, bytes] = {}
        self.listed_as: dict[str, str] = {}
        """Path → another path that is listed instead."""
        self.served: dict[str, bytes] = {}
        """Path → other content than what is listed."""
        self.address = ""

    def at(self, repository: str, revision: str) -> int:
        number = self.tags[repository].get(revision)
        if number is None and re.fullmatch(r"[0-9a-f]{40}", revision):
            number = int(revision, 16)
        return len(self.commits[repository]) - 1 if number is None else number

    def change(self, path: str, content: bytes) -> None:
        for commits in self.commits.values():
            commits[-1][path] = content


def listed(path: str, content: bytes) -> dict[str, object]:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if len(content) >= LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


class Handler(BaseHTTPRequestHandler):
    """The hub's HTTP interface, as far as uploads, tags and downloads of models use it."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object = None, code: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps({} if content is None else content).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_any(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self.body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            there = repository in hub.commits
            hub.commits.setdefault(repository, [{".gitattributes": b"*.pt filter=lfs\n"}])
            hub.tags.setdefault(repository, {})
            self.answer({"url": f"{hub.address}/{repository}"}, 409 if there else 200)
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.startswith("/objects/"):
            hub.objects[path.removeprefix("/objects/")] = body
            self.answer()
        elif re.fullmatch(r"/(.+?/.+?)\.git/info/lfs/objects/batch", path):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.address}/objects/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif api := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)(?:/(.*))?)?", path):
            repository, what, rest = api.groups()
            if repository not in hub.commits:
                self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            else:
                self.model(repository, what or "revision", rest or "main", body)
        elif file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.*)", path):
            number = hub.at(file[1], file[2])
            content = hub.commits[file[1]][number][file[3]]
            entry = listed(file[3], content)
            self.answer(
                hub.served.get(file[3], content),
                headers={"ETag": f'"{entry["oid"]}"', "X-Repo-Commit": f"{number:040x}"},
            )
        else:
            self.answer({"error": path}, 404)

    def model(self, repository: str, what: str, rest: str, body: bytes) -> None:
        hub = self.hub
        number = hub.at(repository, rest.partition("/")[0])
        files = hub.commits[repository][number]
        if what == "revision":
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": repository, "sha": f"{number:040x}", "siblings": siblings, "tags": []})
        elif what == "tree":
            self.answer([listed(hub.listed_as.get(name, name), content) for name, content in files.items()])
        elif what == "refs":
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": f"{number:040x}"}
            tags = [
                {"name": name, "ref": f"refs/tags/{name}", "targetCommit": f"{one:040x}"}
                for name, one in hub.tags[repository].items()
            ]
            self.answer({"branches": [main], "tags": tags, "converts": []})
        elif what == "tag" and self.command == "POST":
            hub.tags[repository][json.loads(body)["tag"]] = number
            self.answer()
        elif what == "tag":
            del hub.tags[repository][rest]
            self.answer()
        elif what == "preupload":
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self.answer({"files": modes})
        elif what == "commit":
            new = dict(files)
            for line in body.decode().splitlines():
                key, value = (json.loads(line)[part] for part in ("key", "value"))
                if key == "file":
                    new[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile":
                    new[value["path"]] = hub.objects[value["oid"]]
                elif key == "deletedFile":
                    new.pop(value["path"])
            hub.commits[repository].append(new)
            oid = f"{len(hub.commits[repository]) - 1:040x}"
            self.answer({"commitUrl": f"{hub.address}/{repository}/commit/{oid}", "commitOid": oid, "success": True})
        else:
            self.answer({"error": what}, 404)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_any  # noqa: N815


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, and huggingface_hub turned to it."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisHub", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()
