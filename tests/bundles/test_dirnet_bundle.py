from __future__ import annotations

import json
import re
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.metrics import compute_dice
from scipy.ndimage import map_coordinates

VARIANTS = ("a1", "a2", "b1", "b2", "c1", "c2")


@pytest.fixture
def workflow(dirnet, hearts, start, tmp_path):
    """`workflow("train", "variants/paper", epochs=3, …)`: a small network on the hearts, results in `tmp_path`."""

    def make(*names, **override):
        tiny = {
            "dataset_dir": str(hearts.parent),
            "output_dir": str(tmp_path),
            "epochs": 2,
            "steps_per_epoch": 2,
            "batch_size": 4,
            "val_interval": 1,
            "network_def#channels": 4,
        }
        if "variants/folder" not in names:
            tiny |= {"validation_subjects": ["s1"], "test_subjects": ["s2"]}
        if not any(name.startswith("variants/") for name in names):
            tiny |= {"augmentation#crop": [48, 48], "augmentation#shift": 3, "similarity#window": 15}
        return start(dirnet, *names, **{**tiny, **override})

    return make


def curve(folder):
    return json.loads((folder / "run.json").read_text())["epochs"]


def weights(path):
    return torch.load(path, weights_only=True)


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@contextmanager
def fails(message):
    """The first cause is a ValueError of one line; MONAI wraps whatever a component or expression raises."""
    with pytest.raises(Exception) as error:
        yield
    cause = first_cause(error.value)
    assert isinstance(cause, ValueError)
    assert "\n" not in str(cause)
    assert re.search(message, str(cause)), cause


def first_cause(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def default_network(root):
    """What train.json trains, as small as `workflow` makes it."""
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "train.json"))
    parser["network_def#channels"] = 4
    return parser.get_parsed_content("network_def")


# Training


def test_training_leaves_all_that_one_needs_afterwards(workflow, dirnet, tmp_path):
    training = workflow("train", epochs=5)
    assert training.check_properties() == []
    training.run()
    training.finalize()

    state = weights(tmp_path / "model.pt")
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    default_network(dirnet).load_state_dict(state)

    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["seed"] == 0
    assert record["settings"]["epochs"] == 5
    assert record["versions"]["torch"] == torch.__version__
    assert {name.split("/")[0] for name in record["data"]["train"]} == {"s0"}
    assert {name.split("/")[0] for name in record["data"]["validation"]} == {"s1"}
    assert record["command"]
    assert record["seconds"] > 0
    assert [row["epoch"] for row in record["epochs"]] == [1, 2, 3, 4, 5]
    smooth, agreed = (training.parser.get_parsed_content(name) for name in ("regularisation_weight", "agreement"))
    for row in record["epochs"]:
        loss = row["similarity"] + smooth * row["regularity"] + agreed * row["disagreement"]
        assert row["loss"] == pytest.approx(loss, abs=5e-7 * (2 + smooth + agreed))
        assert {"key_metric", "ncc", "folding"} <= row.keys()

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["pairs"] == 4  # two slices of one subject, both ways
    assert metrics["summary"]["dice"]["mean"] == pytest.approx(record["epochs"][-1]["key_metric"], abs=1e-5)
    assert (tmp_path / "pictures" / "epoch_0005.png").read_bytes().startswith(b"\x89PNG")

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("loss")) == 5 * 2
    assert not list(tmp_path.rglob(".*"))  # nothing unfinished lies about


@pytest.mark.slow
def test_training_lowers_the_loss_and_registers_held_out_subjects(workflow, tmp_path):
    # One network as in the paper, but for the size of the problem: 80 steps.
    workflow(
        "train",
        "variants/paper",
        epochs=8,
        steps_per_epoch=10,
        learning_rate=0.01,
        **{"network_def#channels": 8, "network_def#spacing": 8, "key_metric": "ncc"},
    ).run()
    losses = [row["loss"] for row in curve(tmp_path)]
    summary = json.loads((tmp_path / "metrics.json").read_text())["summary"]
    assert losses[-1] < losses[0] - 0.02
    assert summary["ncc"]["mean"] > summary["ncc_before"]["mean"] + 0.02
    assert summary["dice"]["mean"] > summary["dice_before"]["mean"] + 0.02


def test_the_same_seed_gives_the_same_run_and_another_another(workflow, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        torch.rand(1)  # the state of the process does not matter
        workflow("train", output_dir=str(tmp_path / name), seed=seed).run()
    one, two, other = (weights(tmp_path / name / "last.pt")["network"] for name in ("one", "two", "other"))
    assert_same(one, two)
    assert curve(tmp_path / "one") == curve(tmp_path / "two")
    assert not torch.equal(one["regressor.0.weight"], other["regressor.0.weight"])


def test_training_starts_from_weights_it_is_given(workflow, dirnet, arouse, pair_of, tmp_path):
    network = arouse(default_network(dirnet), pair_of((64, 64), batch=4))
    torch.save(network.state_dict(), tmp_path / "first.pt")
    options = {"epochs": 1, "learning_rate": 0.0, "initial_weights": str(tmp_path / "first.pt")}
    workflow("train", **options).run()
    trained = weights(tmp_path / "last.pt")["network"]
    for name, parameter in network.named_parameters():
        assert torch.equal(trained[name], parameter), name


class Interrupted(Exception):  # noqa: N818
    pass


def interrupt(trainer, iteration=1, event=Events.ITERATION_COMPLETED):
    def stop(_):
        raise Interrupted

    trainer.add_event_handler(event(once=iteration), stop)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(workflow, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {"epochs": 4, "augmentation#noise": 0.1, "patience": 10, "learning_rate": 0.02}
    workflow("train", output_dir=str(whole), **options).run()
    first = workflow("train", output_dir=str(parts), **options)
    interrupt(first.parser.get_parsed_content("train#trainer"), iteration=5)  # in the third epoch of two steps each
    with pytest.raises(RuntimeError) as error:
        first.run()
    assert isinstance(first_cause(error.value), Interrupted)
    assert len(curve(parts)) == 2
    torch.manual_seed(1234)
    workflow("train", output_dir=str(parts), resume=True, **options).run()

    assert curve(parts) == curve(whole)
    for name in ("network", "averaged", "optimizer", "lr_scheduler", "best"):
        one, other = weights(whole / "last.pt")[name], weights(parts / "last.pt")[name]
        torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert_same(weights(whole / "model.pt"), weights(parts / "model.pt"))


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_can_be_resumed_for_more_epochs_but_is_left_alone_otherwise(workflow, tmp_path, capsys):
    workflow("train", "variants/paper", epochs=2).run()
    before = files(tmp_path)
    workflow("train", "variants/paper", epochs=2, resume=True).run()
    assert "has done its 2 epochs: nothing is left to resume" in capsys.readouterr().out
    assert files(tmp_path) == before
    workflow("train", "variants/paper", epochs=3, resume=True).run()
    assert [row["epoch"] for row in curve(tmp_path)] == [1, 2, 3]
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["settings"]["epochs"], run["ended"]) == (3, "epochs")
    assert [(one["after_step"], one["changed"]) for one in run["resumed"]] == [(4, {"epochs": [2, 3]})]


@pytest.mark.parametrize("killed", [False, True])
def test_early_stopping_is_the_end(workflow, tmp_path, capsys, killed):
    """Also of a run that was killed after the checkpoint of its last epoch."""
    options = {"epochs": 9, "patience": 2, "learning_rate": 0.0}  # the identity for ever
    first = workflow("train", **options)
    if killed:
        interrupt(first.parser.get_parsed_content("train#trainer"), event=Events.TERMINATE)
        with pytest.raises(RuntimeError):
            first.run()
        assert "ended" not in json.loads((tmp_path / "run.json").read_text())
        workflow("train", **options, resume=True).run()
    else:
        first.run()
    before = files(tmp_path)
    workflow("train", **options, resume=True).run()
    assert "has stopped early, after epoch 3: nothing is left to resume" in capsys.readouterr().out
    assert files(tmp_path) == before
    assert [row["epoch"] for row in curve(tmp_path)] == [1, 2, 3]
    assert json.loads((tmp_path / "run.json").read_text())["ended"] == "early stop"


def test_validation_without_labels(workflow, tmp_path):
    workflow("train", key_metric="ncc", **{"records#labels": []}).run()
    summary = json.loads((tmp_path / "metrics.json").read_text())["summary"]
    assert set(summary) == {"ncc_before", "ncc", "folding", "folding_corners"}
    assert curve(tmp_path)[-1]["key_metric"] == pytest.approx(summary["ncc"]["mean"], abs=1e-5)
    with fails("the metric 'dice' is not there; .*Are there labels"):
        workflow("train", output_dir=str(tmp_path / "labelled"), **{"records#labels": []}).run()
    assert not (tmp_path / "labelled").exists()  # refused before the first step


# Evaluation


def test_evaluation_measures_what_the_weights_do_to_held_out_subjects(
    workflow, dirnet, hearts, arouse, pair_of, tmp_path
):
    network = arouse(default_network(dirnet), pair_of((64, 64), batch=4))
    torch.save(network.state_dict(), tmp_path / "some.pt")
    workflow("train", "evaluate", weights=str(tmp_path / "some.pt")).run()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [pair["id"].split("/")[0] for pair in metrics["each"]] == ["s2"] * 4

    with np.load(hearts) as arrays:
        images = {name: arrays[name][4].astype(np.float32) for name in ("ed", "es", "ed_lv", "es_lv")}
    moving, fixed = (torch.from_numpy(images[name])[None, None] for name in ("es", "ed"))
    with torch.no_grad():
        field = network.eval()(torch.cat([moving, fixed], 1))[0, 1:].numpy().astype(float)
    assert np.abs(field).max() > 1
    places = np.indices(field.shape[1:]) + field
    carried = map_coordinates(images["es_lv"], places, order=0, mode="nearest")
    dice = compute_dice(*(torch.from_numpy(part)[None, None] for part in (carried, images["ed_lv"])))
    (pair,) = [pair for pair in metrics["each"] if pair["id"] == "s2/0/4/es -> s2/0/4/ed"]
    assert pair["dice"] == pytest.approx(float(dice), abs=2e-3)
    assert {"hd95", "msd", "hd95_before", "ncc"} <= pair.keys()
    assert list((tmp_path / "pictures").glob("*.png"))


def test_an_untrained_network_changes_no_number(workflow, dirnet, tmp_path):
    torch.save(default_network(dirnet).state_dict(), tmp_path / "some.pt")
    workflow("train", "evaluate", weights=str(tmp_path / "some.pt")).run()
    summary = json.loads((tmp_path / "metrics.json").read_text())["summary"]
    for name in ("ncc", "dice", "hd95", "msd"):
        assert summary[name]["mean"] == pytest.approx(summary[f"{name}_before"]["mean"], abs=1e-6)
    assert summary["dice_before"]["mean"] < 0.95
    assert summary["folding"]["mean"] == 0


# Bad input: one sentence, and nothing half-written


def spoiled(hearts, folder, change):
    with np.load(hearts) as arrays:
        spoiled = dict(arrays)
    change(spoiled)
    np.savez(folder / "spoiled.npz", **spoiled)
    return {"records#source": str(folder / "spoiled.npz")}


def test_no_data(workflow, tmp_path):
    with fails(r"none/sunnybrook_ed_es_pairs\.npz does not exist"):
        workflow("train", dataset_dir=str(tmp_path / "none")).run()
    (tmp_path / "empty").mkdir()
    options = {"records": {"_target_": "warpzoo.training.list_images", "source": str(tmp_path / "empty")}}
    with fails(f"{tmp_path / 'empty'} holds no image"):
        workflow("train", **options).run()
    assert not (tmp_path / "run.json").exists()


def test_subjects_of_other_data(workflow):
    with fails(r"subjects must be among those of the images, such as .*'s0'.*got 'SC-N-05'"):
        workflow("train", validation_subjects=["SC-N-05"]).run()


@pytest.mark.parametrize(
    ("kind", "message"), [("nan", "0/ed must hold finite numbers"), ("constant", "s1/0/2/ed is constant")]
)
def test_images_that_cannot_be_registered(workflow, hearts, tmp_path, kind, message):
    def change(arrays):
        if kind == "nan":
            arrays["ed"] = arrays["ed"].astype(np.float32)
            arrays["ed"][0, 3, 3] = arrays["ed"][1, 3, 3] = np.nan
        else:
            arrays["ed"][2] = 9

    with fails(message):
        workflow("train", output_dir=str(tmp_path / "run"), **spoiled(hearts, tmp_path, change)).run()
    assert not (tmp_path / "run/model.pt").exists()
    if kind == "nan":  # met before the first step was done
        assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, r"3 spatial axes; crop is \[48, 48\]"), ({"augmentation": None}, "for this 2-D network")],
)
def test_images_of_another_rank(workflow, hearts, tmp_path, options, message):
    def change(arrays):
        for name in ("ed", "es", "ed_lv", "es_lv"):
            arrays[name] = np.repeat(arrays[name][:, :16, :16, None], 16, axis=3)

    with fails(message):
        workflow("train", **options, **spoiled(hearts, tmp_path, change)).run()


@pytest.mark.parametrize("resume", [True, "true"])
def test_nothing_to_resume(workflow, tmp_path, resume):
    with fails(r"last\.pt does not exist: there is nothing to resume"):
        workflow("train", resume=resume).run()
    assert not list(tmp_path.glob("*.pt"))


def test_a_run_of_another_optimiser_or_of_fewer_epochs_is_not_resumed(workflow, tmp_path):
    adam = {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": "@learning_rate"}
    first = workflow("train", epochs=2)
    interrupt(first.parser.get_parsed_content("train#trainer"), iteration=3)
    with pytest.raises(RuntimeError):
        first.run()
    kept = (tmp_path / "last.pt").read_bytes()
    with fails(r"to go on with the run in .*, optimizer#_target_ must be \S+\.Muon, got torch\.optim\.Adam: leave out"):
        workflow("train", epochs=2, resume=True, optimizer=adam).run()
    with fails(r"last\.pt is of a run whose learning rate was planned for 2 epochs and would rise again in 3"):
        workflow("train", epochs=3, resume=True).run()
    (tmp_path / "run.json").unlink()
    with fails(r"last\.pt is of a run with an optimiser or a schedule of another kind"):
        workflow("train", epochs=2, resume=True, optimizer=adam).run()
    assert (tmp_path / "last.pt").read_bytes() == kept


@pytest.mark.parametrize("variant", ["c1", "a1", "b1"])  # the last two have parameters of the same names and shapes
def test_a_checkpoint_of_another_variant(workflow, tmp_path, variant):
    workflow("train", "variants/paper", epochs=1).run()
    kept = (tmp_path / "last.pt").read_bytes()
    with fails(r"to go on with the run in .*, .*must be .*, got"):
        workflow("train", "variants/paper", f"variants/{variant}", resume=True).run()
    (tmp_path / "run.json").unlink()
    with fails(r"last\.pt holds the weights of another network: .*variant"):
        workflow("train", "variants/paper", f"variants/{variant}", resume=True).run()
    assert (tmp_path / "last.pt").read_bytes() == kept


def test_evaluation_without_weights_or_with_those_of_another_variant(workflow, tmp_path):
    with fails(r"missing\.pt does not exist: the network has no weights"):
        workflow("train", "evaluate", weights=str(tmp_path / "missing.pt")).run()

    from dirnet.network import DIRNet

    torch.save(DIRNet(channels=4, spacing=8).state_dict(), tmp_path / "patch.pt")
    with fails(r"patch\.pt holds the weights of another network"):
        workflow("train", "evaluate", weights=str(tmp_path / "patch.pt")).run()
    assert not (tmp_path / "metrics.json").exists()


# Variants


@pytest.mark.parametrize("variant", ["paper", *VARIANTS])
def test_every_variant_trains_a_step(workflow, step, tmp_path, variant):
    names = ["train", "variants/paper"] + ([] if variant == "paper" else [f"variants/{variant}"])
    options = {"network_def#image_size": [64, 64], "network_def#hidden": 16} if variant == "c2" else {}
    training = workflow(*names, **options)
    step(training)
    network = training.parser.get_parsed_content("network")
    settings = {"channels": 4, "spacing": 16, **options_of(variant), **{k.split("#")[1]: v for k, v in options.items()}}

    from dirnet.network import DIRNet

    assert str(network) == str(DIRNet(**settings))


def options_of(variant):
    return {
        "a1": {"downsampling": "max"},
        "a2": {"downsampling": "stride"},
        "b1": {"transformer": "quadratic"},
        "b2": {"transformer": "thin_plate"},
        "c1": {"view": "overlapping"},
        "c2": {"view": "image"},
    }.get(variant, {})


def test_digits(workflow, step, tmp_path):
    random = np.random.default_rng(0)
    options = {"validation_subjects": ["3", "13"], "test_subjects": ["23"], "digit": 3, "dataset_dir": str(tmp_path)}
    np.savez(
        tmp_path / "mnist_train.npz", x=random.integers(0, 255, (60, 28, 28), dtype=np.uint8), y=np.arange(60) % 10
    )
    training = workflow("train", "variants/digits", **options)
    assert step(training) == (4, 2, 28, 28)
    network = training.parser.get_parsed_content("network")
    assert network.regressor(torch.rand(1, 2, 28, 28)).shape == (1, 2, 7, 7)
    data = {part: training.parser.get_parsed_content(f"{part}#dataset#data") for part in ("train", "validate")}
    assert {record["subject"] for record in data["train"]} == {"33", "43", "53"}
    assert {record["subject"] for record in data["validate"]} == {"3", "13"}


def test_3d(workflow, step, tmp_path):
    random = np.random.default_rng(0)
    for index in range(4):
        volume = random.normal(100, 20, (30 + index, 40, 36)).astype(np.float32)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"{index}.nii.gz")
    training = workflow("train", "variants/folder", "variants/3d", dataset_dir=str(tmp_path), batch_size=2)
    assert step(training) == (2, 2, 48, 64, 48)
    assert len(training.parser.get_parsed_content("validate#dataset")) == 2  # two images, both ways
