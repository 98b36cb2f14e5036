"""MLflow, through MONAI's handler, for every bundle."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from ignite.engine import Events

from warpzoo.bundles import open_bundle
from warpzoo.commands.train import run
from warpzoo.training.tracking import track


@pytest.mark.parametrize("kind", ["registration", "denoising"])
def test_numbers_pictures_and_weights_are_tracked(kind, bundle, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    options = {"output_dir": str(tmp_path / "run"), "steps_per_epoch": 3, "val_interval": 1, "batch_size": 2}
    options |= {"network_def#channels": 4, "device": "$torch.device('cpu')"}
    if kind == "registration":
        root = bundle("dirnet")
        random = np.random.default_rng(0)
        images = random.integers(0, 255, (8, 32, 32), dtype=np.uint8)
        np.savez(tmp_path / "images.npz", x=images)
        records = {"_target_": "warpzoo.training.list_images", "source": str(tmp_path / "images.npz")}
        options |= {"epochs": 2, "similarity#window": 9, "crop": None, "records": records, "pairing": "all"}
        options |= {"validation_subjects": ["0", "1"], "test_subjects": [], "key_metric": "ncc"}
        names, metric = ("loss", "similarity", "regularity", "disagreement"), "ncc"
    else:
        root = bundle("psf_blindspot")
        tifffile.imwrite(tmp_path / "in.tif", np.random.default_rng(0).poisson(30, (48, 48)).astype(np.uint16))
        options |= {"images": str(tmp_path / "in.tif"), "patch": 16, "budget": "6steps"}
        names, metric = ("loss", "error", "negative"), "validation_error"
    found = open_bundle(root)
    interrupt(found, found.config("train", **options), step=4)
    run(found, found.config("train", **options, resume=True), "mlflow")
    ended = read(tmp_path / "run")
    run(found, found.config("train", **options, resume=True), "mlflow")
    assert read(tmp_path / "run") == ended

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlruns.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "monai_experiment"]
    (tracked,) = client.search_runs(experiment.experiment_id)  # it has gone on with the one that was interrupted
    assert tracked.info.run_name.startswith("run 2")
    assert tracked.info.status == "FINISHED"
    settings = {name: str(options[name]) for name in ("steps_per_epoch", "batch_size")} | {"network_def.channels": "4"}
    assert settings.items() < tracked.data.params.items()
    assert not {"device", "output_dir", "imports"} & tracked.data.params.keys()
    for name in (*names, "lr_group_0"):
        steps = [one.step for one in client.get_metric_history(tracked.info.run_id, name)]
        assert sorted(steps) == [1, 2, 3, 4, 4, 5, 6], name
    rows = json.loads((tmp_path / "run" / "run.json").read_text())["epochs"]
    validated = client.get_metric_history(tracked.info.run_id, metric)
    assert [(one.step, pytest.approx(one.value, abs=1e-5)) for one in validated] == [
        (row["epoch"], row[metric]) for row in rows
    ]
    stored = {artifact.path for artifact in client.list_artifacts(tracked.info.run_id)}
    assert {"model.pt", "run.json", "report.html", "epoch_0002.png"} <= stored

    run(found, found.config("train", **options, overwrite=True), "mlflow")
    (other,) = client.search_runs(experiment.experiment_id)
    assert other.info.run_id != tracked.info.run_id
    assert {path.name for path in (tmp_path / "run" / "mlruns").iterdir()} == {other.info.run_id}
    run(found, found.config("train", **options, overwrite=True))
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(("mlruns", "config"))]


class Interrupted(BaseException):
    pass


def interrupt(bundle, config, step):
    """A tracked training that ends in the middle of things, and without a word to MLflow."""
    track(config, "mlflow")
    workflow = bundle.workflow_of("train", config)

    def stop(_):
        raise Interrupted

    workflow.parser.get_parsed_content("train#trainer").add_event_handler(Events.ITERATION_COMPLETED(once=step), stop)
    with pytest.raises(Interrupted):
        workflow.run()


def read(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
