"""fcn_multires and voxelmorph_dense: their configurations train, evaluate and register tiny images."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.metrics import compute_dice
from scipy.ndimage import map_coordinates

from warpzoo.commands.register import register

SMALL = {
    "fcn_multires": {"network_def#channels": [4, 6, 8], "network_def#estimators": [4, 6, 6]},
    "fcn_multires paper": {"network_def#channels": [4, 6, 8]},
    "voxelmorph_dense": {"network_def#channels": [4, 6, 6, 6], "network_def#features": 4},
}
TRAINED = [
    ("fcn_multires", ""),
    ("fcn_multires", "plain"),
    ("fcn_multires", "folder"),
    ("fcn_multires", "short"),
    ("fcn_multires", "paper"),
    ("fcn_multires", "paper short"),
    ("fcn_multires", "paper no_pooling"),
    ("fcn_multires", "paper coarse velocity"),
    ("fcn_multires", "paper folder"),
    ("voxelmorph_dense", ""),
    ("voxelmorph_dense", "plain"),
    ("voxelmorph_dense", "published"),
    ("voxelmorph_dense", "mse"),
    ("voxelmorph_dense", "folder"),
]


@pytest.fixture(params=["fcn_multires", "voxelmorph_dense"])
def root(request, bundle):
    return bundle(request.param)


@pytest.fixture
def workflow(start, volumes, tmp_path):
    """`workflow(root, "train", "paper coarse", epochs=3, …)`: configs and variants on top of each other, a small
    network on the volumes, results in `tmp_path`."""

    def make(root, names="train", variants="", **override):
        overrides = [f"variants/{name}" for name in variants.split()]
        tiny = {"dataset_dir": str(volumes), "output_dir": str(tmp_path), "size": [16, 24, 16], "batch_size": 2}
        tiny |= {"epochs": 2, "steps_per_epoch": 2, "val_interval": 1}
        tiny |= SMALL[f"{root.name} paper" if "paper" in variants else root.name]
        if "paper" not in variants and "mse" not in variants:
            tiny["similarity#window"] = 3
        if "folder" in variants:
            tiny["dataset_dir"] = str(volumes / "images")
        else:
            tiny |= {"validation_subjects": ["4.nii.gz", "5.nii.gz"], "test_subjects": ["2.nii.gz", "3.nii.gz"]}
        first, *others = names.split()
        return start(root, first, *overrides, *others, **{**tiny, **override})

    return make


@pytest.fixture
def trained(root, workflow, tmp_path):
    """Weights of the small network that do something; their path."""
    workflow(root, epochs=3, steps_per_epoch=20, learning_rate=0.01, val_interval=3).run()
    return tmp_path / "model.pt"


@pytest.mark.parametrize(("name", "variants"), TRAINED)
def test_every_variant_trains_a_step(bundle, workflow, step, name, variants):
    training = workflow(bundle(name), "train", variants)
    assert step(training) == (2, 2, 16, 24, 16)
    for record in training.parser.get_parsed_content("train#dataset#data"):
        assert record["id"] not in ("2.nii.gz", "3.nii.gz", "4.nii.gz", "5.nii.gz") or "folder" in variants


def test_both_bundles_hold_out_the_same_volumes(bundle):
    for name, count, first, last in (("validation", 10, "019", "374"), ("test", 20, "008", "385")):
        subjects = []
        for root in (bundle("fcn_multires"), bundle("voxelmorph_dense")):
            config = ConfigParser()
            config.read_config(str(root / "configs" / "train.json"))
            subjects.append(config.get_parsed_content(f"{name}_subjects"))
        assert subjects[0] == subjects[1] == sorted(set(subjects[0]))
        assert len(subjects[0]) == count
        assert (subjects[0][0], subjects[0][-1]) == (f"hippocampus_{first}.nii.gz", f"hippocampus_{last}.nii.gz")


def test_two_dimensions(root, workflow, step, volumes, tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    for path in (volumes / "images").iterdir():
        middle = np.asarray(nibabel.load(path).dataobj)[8]
        nibabel.save(nibabel.Nifti1Image(middle, np.eye(4)), folder / path.name)
    training = workflow(root, "train", "folder 2d", dataset_dir=str(folder), size=[32, 16])
    assert step(training) == (2, 2, 32, 16)


def test_training_registers_volumes_it_has_not_seen(trained, tmp_path):
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["epochs"][-1]["loss"] < record["epochs"][0]["loss"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"dice_whole", "dice_anterior", "dice_posterior"} <= metrics["summary"].keys()
    assert metrics["summary"]["ncc"]["mean"] > metrics["summary"]["ncc_before"]["mean"] + 0.02
    assert {pair["id"] for pair in metrics["each"]} == {"4.nii.gz -> 5.nii.gz", "5.nii.gz -> 4.nii.gz"}


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(root, workflow, tmp_path):
    workflow(root, epochs=2, output_dir=str(tmp_path / "whole")).run()
    interrupted = workflow(root, epochs=2, output_dir=str(tmp_path / "parts"))
    trainer = interrupted.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.EPOCH_STARTED(once=2), trainer.terminate)
    interrupted.run()
    workflow(root, epochs=2, resume=True, output_dir=str(tmp_path / "parts")).run()
    whole, parts = (torch.load(tmp_path / name / "last.pt", weights_only=False) for name in ("whole", "parts"))
    for name, value in whole["network"].items():
        assert torch.equal(parts["network"][name], value), name


def test_evaluation_carries_every_image_onto_the_first_and_its_labels_along(root, workflow, trained, volumes, tmp_path):
    evaluation = workflow(root, "train evaluate", weights=str(trained), output_dir=str(tmp_path / "evaluate"))
    evaluation.run()
    metrics = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    (pair,) = metrics["each"]
    assert pair["id"] == "3.nii.gz -> 2.nii.gz"
    # the same by hand: the network's displacement, labels by nearest neighbour
    content = evaluation.parser.get_parsed_content
    network = content("network_def")
    network.load_state_dict(torch.load(trained, weights_only=True))
    moving, fixed = (content("preprocessing")(volume(volumes, name)) for name in ("3.nii.gz", "2.nii.gz"))
    with torch.no_grad():
        displacement = network.eval()(torch.stack([moving["image"][0], fixed["image"][0]])[None])[0, 1:]
    places = np.indices(displacement.shape[1:]) + displacement.numpy()
    carried = map_coordinates(moving["label"][0].numpy(), places, order=0, mode="nearest")
    dice = compute_dice(torch.from_numpy(carried > 0)[None, None], fixed["label"][None] > 0)
    assert pair["dice_whole"] == pytest.approx(float(dice), abs=0.02)


def volume(folder, name):
    arrays = {key: np.asarray(nibabel.load(folder / f"{key}s" / name).dataobj) for key in ("image", "label")}
    return {key: torch.from_numpy(array.astype(np.float32))[None] for key, array in arrays.items()}


@pytest.mark.parametrize("variant", ["plain", "paper,coarse", "paper, no_pooling"])
def test_variants_register_files_with_their_own_weights(bundle, volumes, tmp_path, variant):
    name = variant.split(",")[-1].strip()
    weights = bundle("fcn_multires") / "models" / f"{name}.pt"
    images = [str(volumes / "images" / f"{number}.nii.gz") for number in (0, 1)]
    for folder, option in (("shipped", {}), ("named", {"weights": str(weights)}), ("default", {"variant": None})):
        options = {"method": "fcn_multires", "variant": variant, "report": False, "output": str(tmp_path / folder)}
        register(*images, **{**options, **option})
    fields = {
        folder: nibabel.load(tmp_path / folder / "displacement.nii.gz").get_fdata()
        for folder in ("shipped", "named", "default")
    }
    np.testing.assert_array_equal(fields["shipped"], fields["named"])
    assert np.abs(fields["shipped"] - fields["default"]).max() > 0.1


def test_a_variant_without_weights_and_a_similarity_for_nothing_are_refused(volumes):
    images = [str(volumes / "images" / f"{number}.nii.gz") for number in (0, 1)]
    with pytest.raises(ValueError, match="weights must be given for variant 'two_levels'.*coarse"):
        register(*images, method="fcn_multires", variant="two_levels")
    with pytest.raises(ValueError, match="variant must be one of fcn_multires's .*got 'fine'"):
        register(*images, method="fcn_multires", variant="paper,fine")
    with pytest.raises(
        ValueError, match="similarity must not be given where nothing is optimised .fcn_multires., got 'mi'"
    ):
        register(*images, method="fcn_multires", similarity="mi")
