"""MLflow as a registry: a registered model per bundle, its versions with tags, metrics and the zip file as artifact.

Where its server is: an address such as `http://host:5000` or `sqlite:////path/mlflow.db`; without, what MLflow itself
takes (MLFLOW_TRACKING_URI, else `mlflow.db` in the current folder).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpzoo.files import FileError
from warpzoo.sharing.archive import unpack
from warpzoo.sharing.release import Release

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEME = "models:/"
EXPERIMENT = "warpzoo bundles"
PLACE = "bundle"
"""Of the zip file among a run's artifacts."""


def publish(release: Release, address: str | None, alias: str) -> str:
    """A new version of the registered model that is called as the bundle, unless there is one of the same bytes; the
    alias points to it."""
    if alias and (not re.fullmatch(r"[\w-]+", alias) or re.fullmatch(r"v\d+|latest", alias, re.I)):
        raise ValueError(f"alias must be a word, and neither latest nor v and a number, got {alias!r}.")
    with _client(address) as client:
        from mlflow.exceptions import MlflowException

        with _ignoring(MlflowException, "RESOURCE_ALREADY_EXISTS"):
            client.create_registered_model(release.bundle, description=release.metadata["description"])
        known = client.search_model_versions(f"name = '{release.bundle}'")
        same = [one.version for one in known if one.tags.get("sha1") == release.checksum]
        version = same[0] if same else _new_version(client, release)
        if alias:
            client.set_registered_model_alias(release.bundle, alias, version)
    return f"{SCHEME}{release.bundle}{f'@{alias}' if alias else f'/{version}'}"


def fetch(source: str, address: str | None, folder: Path) -> tuple[Path, str]:
    """Unpacks the version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names. Also gives its name."""
    named = re.fullmatch(rf"{SCHEME}([^/@]+)(?:@([^/@]+)|/(\d+))", source)
    if named is None:
        raise FileError(f"source must be {SCHEME}NAME@ALIAS or {SCHEME}NAME/VERSION, got {source!r}.")
    name, alias, number = named.groups()
    with _client(address, there=True) as client:
        from mlflow.artifacts import download_artifacts

        version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
        checksum = version.tags.get("sha1")
        if checksum is None:
            raise FileError(f"{source} must have a tag sha1, as warpzoo publish writes it.")
        where = f"{SCHEME}{name}/{version.version}"
        uris = {"tracking_uri": client.tracking_uri, "registry_uri": client.tracking_uri}
        found = sorted(Path(download_artifacts(where, dst_path=str(folder), **uris)).rglob("*.zip"))
    if len(found) != 1:
        raise FileError(f"{source} must have one zip file, got {len(found)}.")
    return unpack(found[0], folder, checksum), name


def _new_version(client: MlflowClient, release: Release) -> str:
    from mlflow.entities import Metric

    run = client.create_run(_experiment(client), run_name=release.name, tags=release.tags).info.run_id
    now = int(1000 * time.time())
    metrics = [Metric(_plain(name), value, now, 0) for name, value in release.results.items()]
    client.log_batch(run, metrics=metrics)
    client.log_artifact(run, str(release.path), PLACE)
    client.set_terminated(run)
    made = client.create_model_version(
        release.bundle, f"runs:/{run}/{PLACE}", run_id=run, tags=release.tags, description=release.card
    )
    return str(made.version)


def _experiment(client: MlflowClient) -> str:
    if (known := client.get_experiment_by_name(EXPERIMENT)) is not None:
        return str(known.experiment_id)
    database = _database(client.tracking_uri)
    return client.create_experiment(EXPERIMENT, (database.parent / "mlruns").as_uri() if database else None)


def _database(address: str) -> Path | None:
    """The file of a database without a server."""
    return Path(address.removeprefix("sqlite:///")).absolute() if address.startswith("sqlite:///") else None


def _plain(name: str) -> str:
    """What MLflow takes as the name of a metric."""
    return re.sub(r"[^\w\-. :/]", "", name.replace("%", "percent"))


@contextmanager
def _client(address: str | None, there: bool = False) -> Iterator[MlflowClient]:
    """MLflow's client, whose failures are one sentence; `there`: a database must exist."""
    try:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ValueError("registry mlflow must have MLflow installed: pip install 'warpzoo[registry]'.") from error
    address = address or mlflow.get_tracking_uri()
    database = _database(address)
    if there and database is not None and not database.is_file():
        raise FileError(f"{database} does not exist; address must be that of an MLflow server or its database.")
    try:
        yield mlflow.MlflowClient(address, address)
    except MlflowException as error:
        raise FileError(f"{address}: {error.message.splitlines()[0].rstrip('.')}.") from error


@contextmanager
def _ignoring(kind: Any, code: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        if error.error_code != code:
            raise
