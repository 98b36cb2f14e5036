"""MLflow and the Hugging Face hub as registries, as their own clients and MONAI's see them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import download

from warpzoo.commands.publish import publish
from warpzoo.files import FileError
from warpzoo.sharing.fetching import fetch
from warpzoo.sharing.release import Release

Files = Callable[[Path], dict[str, bytes]]


# MLflow


def test_mlflow_has_version_alias_tags_numbers_and_the_file(
    made: Release,
    files: Files,
    tmp_path: Path,
    fetched: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'warpzoo[registry]'")
    monkeypatch.chdir(tmp_path)
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(FileError, match=r"mlflow.db does not exist; address must be"):
        fetch("models:/dirnet@champion", address)
    assert [*tmp_path.iterdir()] == []
    for alias in ("champion", "tried"):
        publish(str(made.path), "mlflow", address, alias)
    assert capsys.readouterr().out.splitlines()[-1].endswith("warpzoo fetch models:/dirnet@tried")

    client = mlflow.MlflowClient(address, address)
    version = client.get_model_version_by_alias("dirnet", "champion")
    assert client.get_model_version_by_alias("dirnet", "tried").version == version.version == 1
    assert version.tags["sha1"] == hashlib.sha1(made.path.read_bytes()).hexdigest()
    metadata = json.loads((Path(__file__).parents[3] / "bundles/dirnet/configs/metadata.json").read_text())
    for tag, key in (("bundle_version", "version"), ("monai_version", "monai_version")):
        assert version.tags[tag] == metadata[key]
    assert version.description.startswith("---\nlicense: apache-2.0")
    page = (Path(__file__).parents[3] / "bundles/dirnet/docs/results.md").read_text(encoding="utf-8")
    dice = re.search(r"^\| ours \| ([\d.]+)", page, re.MULTILINE)
    assert dice is not None
    assert client.get_run(version.run_id).data.metrics["Cardiac MR / Dice"] == float(dice[1])
    uri = f"models:/dirnet/{version.version}"
    folder = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "out"), tracking_uri=address)
    assert files(Path(folder)) == {"dirnet_v0.1.0.zip": made.path.read_bytes()}

    fetch("models:/dirnet@champion", address)
    there = files(fetched / "dirnet")
    assert json.loads(there.pop("fetched.json"))["source"] == "models:/dirnet@champion"
    assert there == files(made.path)
    with pytest.raises(FileError, match=r"alias other not found"):
        fetch("models:/dirnet@other", address)
    with pytest.raises(FileError, match=r"source must be models:/NAME@ALIAS or models:/NAME/VERSION, got 'models:/x'"):
        fetch("models:/x", address)
    client.set_model_version_tag("dirnet", str(version.version), "sha1", "0" * 40)
    with pytest.raises(FileError, match="must have the sha1 0000"):
        fetch("models:/dirnet/1", address)
    assert files(fetched / "dirnet").keys() - {"fetched.json"} == there.keys()


# The Hugging Face hub


def test_the_hub_has_the_bundle_as_monai_downloads_it(
    small: Release, files: Files, hub: Any, tmp_path: Path, fetched: Path
) -> None:
    publish(str(small.path), "hf", "somebody")
    download("dirnet", source="huggingface_hub", repo="somebody/dirnet", bundle_dir=str(tmp_path / "monai"))
    found = files(tmp_path / "monai" / "dirnet")
    expected = files(small.path)
    assert {name: found.get(name) for name in expected} == expected
    huggingface_hub = pytest.importorskip("huggingface_hub")
    data = huggingface_hub.ModelCard(found["README.md"].decode()).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "monai", "image-to-image")
    assert "image-registration" in data.tags

    fetch("hf://somebody/dirnet")
    there = files(fetched / "dirnet")
    assert json.loads(there.pop("fetched.json")) == {"source": "hf://somebody/dirnet", "version": "0.1.0"}
    assert there == expected
    assert [path.name for path in fetched.iterdir()] == ["dirnet"]


def test_a_tag_of_the_hub_is_a_version(small: Release, files: Files, hub: Any, fetched: Path) -> None:
    publish(str(small.path), "hf", "somebody/heart")
    hub.change("docs/README.md", b"changed")
    hub.commits["somebody/heart"].append({})  # an empty main
    with pytest.raises(FileError, match="must have one package, which gives the bundle its name, got none"):
        fetch("hf://somebody/heart")
    publish(str(small.path), "hf", "somebody/heart")
    fetch("hf://somebody/heart@v0.1.0")
    assert (fetched / "dirnet" / "docs" / "README.md").read_bytes() == files(small.path)["docs/README.md"]


def test_what_the_hub_does_not_have_or_is_not_as_listed_is_refused(
    small: Release, files: Files, hub: Any, fetched: Path, tmp_path: Path, evil: object
) -> None:
    with pytest.raises(FileError, match=r"^the hub says: .*Repository Not Found"):
        fetch("hf://somebody/dirnet")
    with pytest.raises(FileError, match=r"source must be hf://OWNER/NAME or hf://OWNER/NAME@REVISION, got 'hf://x'"):
        fetch("hf://x")
    publish(str(small.path), "hf", "somebody")
    hub.listed_as["LICENSE"] = "../../LICENSE"
    with pytest.raises(FileError, match=r"must only have files of its own folder, got '\.\./\.\./LICENSE'"):
        fetch("hf://somebody/dirnet")
    hub.listed_as.clear()
    for name in ("LICENSE", "models/model.pt"):  # one as git has it, one of the large ones
        content = hub.commits["somebody/dirnet"][-1][name]
        hub.served[name] = bytes([content[0] ^ 1]) + content[1:]
        with pytest.raises(FileError, match=f"is not what the hub lists, at {name}"):
            fetch("hf://somebody/dirnet")
        hub.served.clear()
    torch.save({"a": evil}, tmp_path / "evil.pt")
    hub.change("models/model.pt", (tmp_path / "evil.pt").read_bytes())
    with pytest.raises(FileError, match=r"is refused: models/model.pt cannot be read as weights"):
        fetch("hf://somebody/dirnet")
    assert not fetched.parent.exists()
