"""What a folder that has a run in it means for the next `warpzoo train` there, and what the records say in the end."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from ignite.engine import Events
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.utils.tensorboard import SummaryWriter

from warpzoo.bundles import find_bundle
from warpzoo.commands.register import register
from warpzoo.commands.train import train
from warpzoo.files import alone_in
from warpzoo.networks import read_about
from warpzoo.networks.weights import read_weights
from warpzoo.record import on_behalf_of
from warpzoo.training.records import RunRecord

SMALL = {"side": 16, "validate#dataset#count": 2, "steps_per_epoch": 3, "batch_size": 2, "device": "cpu"}
OPTIONS = {**SMALL, "epochs": 3, "val_interval": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(5):
        smooth = gaussian_filter(np.random.default_rng(number).normal(size=(40, 44)), 4)
        pixels = 255 * (smooth - smooth.min()) / np.ptp(smooth)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def ended(images, tmp_path_factory):
    """A run of three epochs."""
    folder = tmp_path_factory.mktemp("ended") / "run"
    with on_behalf_of("warpzoo train stn_affine images --output run"):
        train("stn_affine", str(images), output=str(folder), **OPTIONS)
    return folder


@pytest.fixture
def stopped(ended, images, tmp_path):
    """A run that was killed in its second epoch."""
    folder = tmp_path / "stopped"
    bundle = find_bundle("stn_affine")
    config = json.loads((ended / "run.json").read_text())["config"]
    with on_behalf_of("warpzoo train stn_affine images --output stopped"):
        workflow = bundle.workflow("train", ["folder", "2d"], **{**config, "output_dir": str(folder)})
        trainer = workflow.parser.get_parsed_content("train#trainer")

        def kill(_):
            raise KeyboardInterrupt

        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), kill)
        with pytest.raises(KeyboardInterrupt):
            workflow.run()
    for writer in [one for one in gc.get_objects() if isinstance(one, SummaryWriter)]:
        writer.close()  # with the process a writer of events would have ended as well
    return folder


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_run_that_has_ended_is_left_as_it_is(ended, images, capsys):
    before = files(ended)
    for options in ({}, {"method": "stn_affine", "data": str(images), **OPTIONS}):
        train(output=str(ended), resume=True, **options)
        assert re.search("has done its 3 epochs: nothing is left to resume", capsys.readouterr().out)
        assert files(ended) == before


def test_a_resumed_run_keeps_its_command_and_says_the_later_ones(ended, stopped):
    with on_behalf_of("warpzoo train --output stopped --resume"):
        train(output=str(stopped), resume=True, num_workers=1)
    run = record(stopped)
    assert run["command"] == "warpzoo train stn_affine images --output stopped"
    assert run["resumed"] == [
        {
            "command": "warpzoo train --output stopped --resume",
            "after_step": 3,
            "changed": {"num_workers": [0, 1]},
        }
    ]
    assert run["epochs"] == record(ended)["epochs"]
    page = (stopped / "report.html").read_text()
    assert "--output stopped\n# gone on with after step 3:\nwarpzoo train --output stopped --resume</pre>" in page


def test_a_moved_run_goes_on_where_it_is(ended, stopped, tmp_path):
    shutil.move(stopped, tmp_path / "moved")
    train(output=str(tmp_path / "moved"), resume=True)
    assert (tmp_path / "moved" / "model.pt").read_bytes() == (ended / "model.pt").read_bytes()
    assert not stopped.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"learning_rate": 0.5, "batch_size": 4},
            r"^to go on with the run in .*, batch_size must be 2, got 4, learning_rate must be 0\.002, got 0\.5: leave",
        ),
        (
            {"similarity": {"_target_": "warpzoo.losses.MSELoss"}},
            r"similarity#_target_ must be warpzoo\.losses\.NCCLoss",
        ),
        ({"patience": 4}, "patience must be None, got 4"),
        ({"epochs": 4}, "learning rate was planned for 3 epochs and would rise again in 4"),
    ],
)
def test_a_run_goes_on_with_its_own_settings(stopped, images, options, message):
    before = files(stopped)
    with pytest.raises(ValueError, match=message):
        train("stn_affine", str(images), output=str(stopped), resume=True, **{**OPTIONS, **options})
    assert files(stopped) == before


def test_what_a_bundle_says_of_itself_is_no_setting(stopped, ended, images):
    record = json.loads((stopped / "run.json").read_text())
    record["config"]["_meta_"] = {"description": "as it was called once"}
    (stopped / "run.json").write_text(json.dumps(record))
    train("stn_affine", str(images), output=str(stopped), resume=True, **OPTIONS)
    assert (stopped / "model.pt").read_bytes() == (ended / "model.pt").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "3.png").unlink(), r"^3\.png must be as it was in the run .*: it is missing\."),
        (
            lambda folder: [shutil.copy(folder / "3.png", folder / f"{name}.png") for name in "67"],
            r"^6\.png must .*: it is new, as 1 more\.",
        ),
        (lambda folder: shutil.copy(folder / "3.png", folder / "0.png"), r"^0\.png must .*: it is another image now\."),
    ],
)
def test_a_run_goes_on_with_its_own_images(stopped, images, tmp_path, change, message):
    shutil.copytree(images, tmp_path / "images")
    change(tmp_path / "images")
    with pytest.raises(ValueError, match=message):
        train("stn_affine", str(tmp_path / "images"), output=str(stopped), resume=True, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1}, "^epochs must not be given with again: the run keeps its own settings, but for device, num_w"),
        ({"nonsense": 5, "size": "8,8"}, "^size and nonsense must not be given with again"),
        ({"num_worker": 5}, r"^num_worker must not be given with again \(did you mean num_workers\?\)"),
        ({"skip": True}, "^skip must not be given with again"),
        ({"device": "gpu"}, "^device must be such as cpu, cuda or cuda:1, got 'gpu'"),
        ({"tracking": "mlfow"}, "tracking must be mlflow, or a file of settings .*got 'mlfow'"),
    ],
)
def test_a_repeated_run_takes_no_other_settings(ended, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(again=str(ended / "run.json"), output=str(tmp_path / "copy"), **options)
    assert not (tmp_path / "copy").exists()


def test_a_folder_without_a_run_is_said_to_have_none(tmp_path):
    with pytest.raises(ValueError, match=r"run\.json does not exist; it must be the record of a run\."):
        train("stn_affine", output=str(tmp_path), resume=True)


def test_a_run_that_goes_on_alone_takes_no_other_settings(stopped):
    before = files(stopped)
    with pytest.raises(
        ValueError, match=r"^labels and learning_rate must not be given with resume: the run keeps its own"
    ):
        train(output=str(stopped), resume=True, epochs=9, labels="labels", learning_rate=0.5)
    with pytest.raises(ValueError, match="learning rate was planned for 3 epochs and would rise again in 9"):
        train(output=str(stopped), resume=True, epochs=9)
    assert files(stopped) == before


def test_a_dry_run_of_a_repetition_looks_through_the_images_and_does_nothing(ended, tmp_path, capsys):
    train(again=str(ended / "run.json"), output=str(tmp_path / "copy"), dry_run=True)
    assert "nothing is run (dry_run)" in capsys.readouterr().out
    changed = record(ended)
    changed["data"]["train"]["0.png"] = "0" * 64
    (tmp_path / "run.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"^0\.png must be as it was in the run .*: it is another image now"):
        train(again=str(tmp_path / "run.json"), output=str(tmp_path / "copy"), dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_images_that_have_moved_are_found_where_they_are_now(ended, stopped, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "moved")
    train(again=str(ended / "run.json"), output=str(tmp_path / "copy"), data=str(folder))
    assert (tmp_path / "copy/model.pt").read_bytes() == (ended / "model.pt").read_bytes()
    train(output=str(stopped), resume=True, data=str(folder))
    assert (stopped / "model.pt").read_bytes() == (ended / "model.pt").read_bytes()
    (folder / "0.png").unlink()
    with pytest.raises(ValueError, match=r"^0\.png must be as it was .*: it is missing"):
        train(again=str(ended / "run.json"), output=str(tmp_path / "other"), data=str(folder))
    with pytest.raises(ValueError, match="nowhere does not exist; data must be where those of the run are now"):
        train(again=str(ended / "run.json"), output=str(tmp_path / "other"), data="nowhere")
    with pytest.raises(ValueError, match="^group and trials must not be given with again"):
        train(again=str(ended / "run.json"), output=str(tmp_path / "other"), group="a", trials=3)


def test_weights_that_a_run_started_from_are_compared(ended, images, tmp_path):
    start = shutil.copy(ended / "model.pt", tmp_path / "start.pt")
    options = {**OPTIONS, "epochs": 1, "initial_weights": str(start)}
    train("stn_affine", str(images), output=str(tmp_path / "run"), **options)
    train(again=str(tmp_path / "run/run.json"), output=str(tmp_path / "copy"))
    assert (tmp_path / "copy/model.pt").read_bytes() == (tmp_path / "run/model.pt").read_bytes()
    run = record(tmp_path / "run")
    assert run["data"]["initial_weights"].keys() == {"start.pt"}
    state = torch.load(start, weights_only=True)
    torch.save({name: 2 * value for name, value in state.items()}, start)
    with pytest.raises(ValueError, match=r"^start\.pt must be as it was in the run .* its weights are others now"):
        train(again=str(tmp_path / "run/run.json"), output=str(tmp_path / "other"))


def test_a_run_goes_on_without_the_weights_that_it_started_from(ended, images, tmp_path):
    start = shutil.copy(ended / "model.pt", tmp_path / "start.pt")
    options = {**OPTIONS, "initial_weights": str(start)}
    train("stn_affine", str(images), output=str(tmp_path / "whole"), **options)
    stops = ["stn_affine", str(images), str(tmp_path / "run"), json.dumps(options)]
    source = """if True:
        import json, os, sys
        from warpzoo.commands.train import train
        from warpzoo.training.checkpoints import Checkpoint
        save = Checkpoint.save
        Checkpoint.save = lambda self, *args: (save(self, *args), os._exit(9))
        method, images, output, options = sys.argv[1:]
        train(method, images, output=output, **json.loads(options))"""
    assert subprocess.run([sys.executable, "-c", source, *stops]).returncode == 9
    start.unlink()
    train(output=str(tmp_path / "run"), resume=True)
    assert (tmp_path / "run/model.pt").read_bytes() == (tmp_path / "whole/model.pt").read_bytes()


def test_the_last_validation_is_in_the_record(images, tmp_path):
    train("stn_affine", str(images), output=str(tmp_path / "run"), **{**OPTIONS, "val_interval": 2})
    rows = record(tmp_path / "run")["epochs"]
    assert [("key_metric" in row) for row in rows] == [False, True, True]
    assert len({row["step"] for row in rows}) == 3


def test_the_page_of_a_run_that_failed_says_so(images, tmp_path, monkeypatch):
    add = RunRecord.add

    def fails(self, engine):
        if engine.state.epoch == 2:
            raise ValueError("The disk is full.")
        add(self, engine)

    monkeypatch.setattr(RunRecord, "add", fails)
    with pytest.raises(ValueError, match="The disk is full"):
        train("stn_affine", str(images), output=str(tmp_path / "run"), **OPTIONS)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "The training has stopped: The disk is full (" in page
    assert "refresh" not in page


@pytest.mark.parametrize("name", ["model.pt", "run.json", "last.pt", "report.html", "tensorboard"])
def test_nothing_of_an_earlier_run_is_overwritten_untold(ended, images, tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name == "tensorboard" else path.write_text("of somebody")
    for options in ({"method": "stn_affine", "data": str(images), **OPTIONS}, {"again": str(ended / "run.json")}):
        with pytest.raises(ValueError, match=rf"{name} is there from an earlier run: go on .*remove it \(overwrite\)"):
            train(output=str(tmp_path), **options)
    settings = {**OPTIONS, "dataset_dir": str(images), "output_dir": str(tmp_path)}
    workflow = find_bundle("stn_affine").workflow("train", ["folder", "2d"], **settings)
    with pytest.raises(RuntimeError) as error:
        workflow.run()
    assert f"{name} is there from an earlier run" in str(error.value.__cause__)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_trainings_in_one_folder_are_refused(stopped, images):
    holder = f"""
import time, pathlib, warpzoo.files
with warpzoo.files.alone_in(pathlib.Path({str(stopped)!r})):
    print(flush=True)
    time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        before = files(stopped)
        for options in ({"resume": True}, {"method": "stn_affine", "data": str(images), "overwrite": True, **OPTIONS}):
            with pytest.raises(ValueError, match=rf"is in use by another command \(process {other.pid} on "):
                train(output=str(stopped), **options)
        assert files(stopped) == before
        other.kill()
    train(output=str(stopped), resume=True)
    with alone_in(stopped):  # it is free again
        pass
    assert record(stopped)["ended"] == "epochs"


def test_the_last_weights_can_be_used_like_the_best(ended, images, tmp_path):
    assert read_about(ended / "last.pt") == read_about(ended / "model.pt")
    state = torch.load(ended / "last.pt", weights_only=True)
    used = read_weights(ended / "last.pt")
    assert all(torch.equal(used[name], value) for name, value in state["averaged"].items())
    assert not all(torch.equal(used[name], value) for name, value in state["network"].items())
    pair = [str(images / f"{number}.png") for number in (0, 1)]
    register(*pair, weights=str(ended / "last.pt"), output=str(tmp_path), report=False)
    assert json.loads((tmp_path / "metrics.json").read_text())["settings"]["method"] == "stn_affine"
