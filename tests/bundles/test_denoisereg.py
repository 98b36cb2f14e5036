"""denoisereg: its configurations train and register, what it denoises keeps its units, its matrix stays a matrix at any
size, and the registration's loss leaves the denoising alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from monai.utils import optional_import
from skimage.measure import block_reduce

import warpzoo
from warpzoo.commands.register import register
from warpzoo.data.cells import cell_sequence
from warpzoo.denoising.joint import JointObjective
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine

SMALL = {"channels": [4, 6, 8], "points": 12, "hidden": [16]}
TINY = {f"network_def#{name}": value for name, value in SMALL.items()}
TRAINED = ["", "gap", "moments", "key_points", "3d", "paper", "folder", "short"]


@pytest.fixture
def root(bundle):
    return bundle("denoisereg")


@pytest.fixture
def network(root):
    """`network(head="gap")`: small, untrained, in evaluation mode."""

    def make(**options):
        torch.manual_seed(0)
        return optional_import("denoisereg.network", name="DenoiseReg")[0](**{**SMALL, **options}).eval()

    return make


@pytest.fixture(scope="session")
def frames():
    return cell_sequence("B1", shape=(48, 56), frames=8, snr=2.0, seed=3)


@pytest.fixture
def workflow(root, start, frames, tmp_path):
    def make(variants="", name="train", **override):
        tiny = {"output_dir": str(tmp_path / "run"), "batch_size": 2, "epochs": 2, "steps_per_epoch": 2, **TINY}
        tiny |= {"val_interval": 1, "side": 48}
        if "folder" in variants:
            tiny |= {"dataset_dir": frames.noisy.numpy(), "initial_weights": None}
        else:
            tiny |= {"train#dataset#count": 4, "validate#dataset#count": 2}
        if "3d" in variants:
            tiny |= {"size": [32, 32, 8]}
        return start(root, name, *[f"variants/{one}" for one in variants.split()], **{**tiny, **override})

    return make


@pytest.mark.parametrize("variants", TRAINED)
def test_it_trains_and_stores_what_it_found(workflow, variants, tmp_path):
    workflow(variants).run()
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    metric = "ncc" if "folder" in variants else "points"
    assert len(run["epochs"]) == 2
    assert all(np.isfinite(row["key_metric"] if "key_metric" in row else row["loss"]) for row in run["epochs"])
    each = json.loads((tmp_path / "run" / "metrics.json").read_text())["each"]
    assert np.isfinite(each[0]["metrics"][metric] if "metrics" in each[0] else each[0][metric])


@pytest.mark.parametrize("head", ["matches", "key_points", "gap"])
def test_the_loss_of_registration_leaves_the_denoised_images_alone(network, head, arouse):
    net = arouse(network(head=head), torch.rand(3, 2, 40, 48)).train()
    objective = JointObjective(net)
    denoised = torch.rand(4, 1, 40, 48, requires_grad=True)
    matrix = (torch.eye(2, 3) + 0.05 * torch.rand(4, 2, 3)).requires_grad_()
    objective.registration(denoised, [matrix]).backward()
    assert denoised.grad is None or not bool(denoised.grad.any())
    assert bool(matrix.grad.any())
    # and in the network: what only denoises learns from the hidden pixels alone
    image = torch.rand(2, 2, 40, 48)
    gradients = []
    for weight in (0.0, 5.0):
        objective.weight = weight
        net.zero_grad()
        torch.manual_seed(4)
        objective(image)["loss"].backward()
        gradients.append({name: one.grad.clone() for name, one in net.named_parameters() if one.grad is not None})
    decoder = [name for name in gradients[1] if name.startswith(("up.", "last."))]
    assert len(decoder) > 4
    for name in decoder:
        assert torch.equal(gradients[0][name], gradients[1][name]), name
    changed = [
        name for name in gradients[1] if name.startswith("down.") and not torch.equal(*[g[name] for g in gradients])
    ]
    assert changed


def test_slices_are_not_made_coarser_before_the_first_block(network):
    first = network(spatial_dims=3).encode(torch.rand(1, 1, 40, 32, 16))[0]
    assert first.shape[2:] == (20, 16, 16)


def test_a_volume_with_time_is_registered_and_denoised_without_more_words():
    cells = cell_sequence("C", shape=(16, 64, 56), frames=3, motion=6, snr=2.0, seed=61_000_000)
    frames = cells.noisy.numpy().astype(np.float32)
    result = warpzoo.register_sequence(frames)
    assert result.denoised is not None
    apart, before = [], []
    for matrix, points in zip(result.matrices, cells.points.numpy(), strict=True):
        reached = cells.points[0].numpy()[:, ::-1] @ matrix[:3, :3].T + matrix[:3, 3]
        apart.append(np.linalg.norm(reached - points[:, ::-1], axis=1).mean())
        before.append(np.linalg.norm(cells.points[0].numpy() - points, axis=1).mean())
    assert max(before) > 3
    assert np.mean(apart) < 0.5 * np.mean(before)
    errors = [np.square(seen - cells.clean.numpy()).mean() for seen in (result.denoised, frames)]
    assert errors[0] < 0.1 * errors[1]


def test_a_network_for_frames_refuses_volumes_with_time():
    with pytest.raises(ValueError, match="frames must be 2-D for denoisereg, got 3-D"):
        warpzoo.register_sequence(np.random.default_rng(0).random((3, 8, 32, 32)), "denoisereg")


def test_both_directions_come_from_one_look(network, arouse):
    net = arouse(network(head="moments"), torch.rand(3, 2, 40, 48))
    net.passes = 1
    seen = []
    net.down[0].register_forward_hook(lambda *_: seen.append(1))
    objective = JointObjective(net).eval()
    objective(torch.rand(2, 2, 40, 48))
    assert len(seen) == 1


def test_untrained_it_blurs_and_keeps_the_units(network, frames):
    net = network()
    image = frames.noisy[:2][None]
    denoised = net.denoised(image)
    assert denoised.shape == image.shape
    rmse = [float((one - frames.clean[:2]).square().mean().sqrt()) for one in (image[0], denoised[0].detach())]
    assert rmse[1] < 0.6 * rmse[0]
    scaled = net.denoised(3 * image + 1000)
    torch.testing.assert_close(scaled, 3 * denoised + 1000, rtol=1e-4, atol=0.1)
    torch.testing.assert_close(net.denoised(image.flip(1)), denoised.flip(1), rtol=1e-4, atol=0.05)


def test_large_images_are_placed_by_the_means_of_their_pixels(network):
    for size, factors in (((40, 48), [1, 1]), ((180, 150), [4, 4]), ((251, 333), [7, 7])):
        net = network(working=48)
        image = torch.rand(1, 1, *size)
        assert net.factors(image) == factors
        padded = np.pad(image[0, 0].numpy(), [(0, -side % factors[0]) for side in size], mode="edge")
        expected = block_reduce(padded, tuple(factors), np.mean)
        np.testing.assert_allclose(net.at_working_size(image)[0, 0].numpy(), expected, atol=1e-5)
    assert network(working=48, spatial_dims=3).factors(torch.empty(1, 1, 27, 200, 175)) == [1, 4, 4]


def test_the_transform_is_a_matrix_that_warps_as_the_network_does(network, arouse):
    net = arouse(network(), torch.rand(3, 2, 40, 48))
    image = torch.rand(1, 2, 40, 48)
    transform = net.transform(image, Grid((40, 48)))
    assert isinstance(transform, Affine)
    torch.testing.assert_close(transform.field(), net(image)[:, 1:], rtol=0, atol=1e-3)


def test_a_pair_of_files_is_registered(root, network, frames, tmp_path):
    net = network(channels=[16, 32, 64, 64])
    net.head.trust.data.fill_(0.003)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    for number, name in ((0, "a.tif"), (7, "b.tif")):
        tifffile.imwrite(tmp_path / name, frames.noisy[number].numpy())
    arguments = {"method": "denoisereg", "weights": str(tmp_path / "model.pt"), "report": False}
    register(str(tmp_path / "a.tif"), str(tmp_path / "b.tif"), output=str(tmp_path / "out"), **arguments)
    transform = sitk.ReadTransform(str(tmp_path / "out" / "transform.tfm"))
    assert transform.GetName() == "AffineTransform"
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "ncc" in json.dumps(metrics)


def test_what_is_refused(network):
    with pytest.raises(ValueError, match="head must be one of matches, key_points, moments, gap, got 'mean'"):
        network(head="mean")
    with pytest.raises(ValueError, match="fold must be 1 or more and channels two or more"):
        network(fold=0)
