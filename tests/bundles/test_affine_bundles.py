"""stn_affine and deep_affine: their configurations train, evaluate and register; their matrix stays a matrix."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.utils import optional_import
from scipy import ndimage

from warpzoo.commands.register import register
from warpzoo.data.placements import cracked_cubes
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine
from warpzoo.images.image import Image, read_image
from warpzoo.registration import find_methods
from warpzoo.registration.network import NetworkMethod

SMALL = {
    "stn_affine": {"network_def#channels": [4, 6, 8], "network_def#points": 12},
    "stn_affine paper": {"network_def#channels": [4, 6], "network_def#hidden": [16]},
    "deep_affine": {"network_def#channels": [4, 6, 8], "network_def#hidden": [16]},
    "deep_affine paper": {"network_def#channels": [4, 6, 8], "network_def#hidden": [16]},
}
TRAINED = [
    ("stn_affine", ""),
    ("stn_affine", "paper"),
    ("stn_affine", "paper one_matrix"),
    ("stn_affine", "separate"),
    ("stn_affine", "folder 2d"),
    ("stn_affine", "paper 2d"),
    ("stn_affine", "short"),
    ("deep_affine", ""),
    ("deep_affine", "paper"),
    ("deep_affine", "folder 2d"),
    ("deep_affine", "short"),
]


@pytest.fixture(params=["stn_affine", "deep_affine"])
def root(request, bundle):
    return bundle(request.param)


@pytest.fixture
def workflow(start, volumes, tmp_path):
    """`workflow(root, "train", "paper one_matrix", epochs=3, …)`: a small network on the volumes."""

    def make(root, names="train", variants="", **override):
        flat = "2d" in variants
        folder = volumes / "images"
        if flat:
            folder = tmp_path / "slices"
            folder.mkdir(exist_ok=True)
            for path in (volumes / "images").iterdir():
                middle = np.asarray(nibabel.load(path).dataobj)[8]
                nibabel.save(nibabel.Nifti1Image(middle, np.eye(4)), folder / path.name)
        tiny = {"dataset_dir": str(folder), "output_dir": str(tmp_path), "side": 16, "batch_size": 2}
        tiny |= {"epochs": 2, "steps_per_epoch": 2, "val_interval": 1, "validate#dataset#count": 4}
        tiny |= {"records": {"_target_": "warpzoo.training.list_images", "source": str(folder)}}
        tiny |= SMALL[f"{root.name} paper" if {"paper", "separate"} & {*variants.split()} else root.name]
        first, *others = names.split()
        overrides = [f"variants/{name}" for name in variants.split()]
        return start(root, first, *overrides, *others, **{**tiny, **override})

    return make


@pytest.mark.parametrize(("name", "variants"), TRAINED)
def test_every_variant_trains_a_step(bundle, workflow, step, tmp_path, name, variants):
    training = workflow(bundle(name), "train", variants)
    assert step(training) == (2, 2, 16, 16) if "2d" in variants else (2, 2, 16, 16, 16)
    workflow(bundle(name), "train", variants, epochs=1, steps_per_epoch=1).run()
    loss = json.loads((tmp_path / "run.json").read_text())["epochs"][0]["loss"]
    assert abs(loss) < (1 if "paper" in variants else 20), "of intensities from 0 to 1, or voxels"


def test_training_finds_placements_and_evaluation_measures_them(root, workflow, tmp_path):
    quick = {"learning_rate": 0.005, "batch_size": 8, "train#dataset#rotation": 10, "train#dataset#faults": 0}
    quick |= {"validate#dataset#rotation": 10, "validate#dataset#faults": 0, "average#decay": 0, "val_interval": 20}
    workflow(root, epochs=1, steps_per_epoch=60, **quick).run()
    record = json.loads((tmp_path / "run.json").read_text())
    assert np.isfinite(record["epochs"][-1]["loss"])
    out = tmp_path / "evaluate"
    settings = {"weights": str(tmp_path / "model.pt"), "output_dir": str(out), "validate#dataset#count": 12, **quick}
    workflow(root, "train evaluate", **settings).run()
    found = json.loads((out / "metrics.json").read_text())
    before = workflow(root, "train evaluate", **{**settings, "network_def#passes": 1}).parser
    untrained = before.get_parsed_content("network_def").eval()
    pairs = before.get_parsed_content("validate#dataset")
    measure = before.get_parsed_content("validate#postprocessing")
    none = [
        measure({**pairs[index], "pred": untrained(pairs[index]["image"][None])[0].detach()})["metrics"]["placement"]
        for index in range(12)
    ]
    assert len(found["each"]) == 12
    assert found["summary"]["placement"]["mean"] > np.mean(none) + 0.3


@pytest.fixture
def weights(bundle, arouse, pair_of, tmp_path):
    """`weights("stn_affine")`: of the default network, such that it does something small; their path."""

    def make(name):
        bundle(name)
        target = {"stn_affine": "KeyPointAffine", "deep_affine": "DeepAffine"}[name]
        torch.manual_seed(0)
        network = optional_import(f"{name}.network", name=target)[0](**({"passes": 2} if name == "deep_affine" else {}))
        arouse(network, pair_of((24, 24, 24), 3))
        with torch.no_grad():
            for parameter_name, parameter in network.named_parameters():
                if parameter_name == "trust":
                    parameter.fill_(0.001)
                elif parameter_name.startswith("head."):
                    parameter.mul_(0.02 / parameter.abs().max().clamp_min(1e-3))
        path = tmp_path / f"{name}.pt"
        torch.save(network.state_dict(), path)
        return str(path)

    return make


@pytest.fixture
def scans(tmp_path):
    """A fixed and a moving volume on different grids, in a known affine relation; their paths and the matrix of the
    world, RAS."""
    random = np.random.default_rng(0)
    fixed = ndimage.gaussian_filter(random.normal(size=(40, 44, 36)), 3)
    fixed *= ndimage.gaussian_filter(np.pad(np.ones((24, 28, 20)), 8), 2)
    fixed = np.clip(1000 * fixed, 0, None).astype(np.float32)
    own = np.array([[2.0, 0, 0, -40], [0, 2, 0, -44], [0, 0, 2, -36], [0, 0, 0, 1]])
    world = np.eye(4)
    world[:3] = [[0.99, -0.12, 0.0, 5.0], [0.12, 1.05, 0.05, -4.0], [0.0, 0.02, 0.97, 3.0]]
    there = np.diag([1.5, 1.5, 1.5, 1.0])
    there[:3, 3] = [-42, -46, -40]
    back = np.linalg.inv(own) @ np.linalg.inv(world) @ there
    moving = ndimage.affine_transform(fixed, back[:3, :3], back[:3, 3], (56, 60, 52), order=1)
    paths = []
    for name, array, affine in (("fixed", fixed, own), ("moving", moving, there)):
        paths.append(str(tmp_path / f"{name}.nii.gz"))
        nibabel.save(nibabel.Nifti1Image(array, affine), paths[-1])
    return paths, world


def test_what_is_written_is_itks_affine_transform(root, weights, scans, tmp_path):
    (fixed, moving), _ = scans
    register(fixed, moving, method=root.name, weights=weights(root.name), output=str(tmp_path / "out"), report=False)
    transform = sitk.ReadTransform(str(tmp_path / "out" / "transform.tfm"))
    assert "Affine" in transform.GetName() or "Affine" in transform.Downcast().GetName()
    reference, image = sitk.ReadImage(fixed), sitk.ReadImage(moving)
    expected = sitk.GetArrayFromImage(sitk.Resample(image, reference, transform, sitk.sitkLinear, 0.0)).T
    warped = nibabel.load(tmp_path / "out" / "warped.nii.gz").get_fdata()
    assert np.abs(warped - expected).mean() < 1e-3 * expected.max()
    matrix = np.array(transform.GetInverse().GetInverse().Downcast().GetParameters()[:9])
    assert np.abs(matrix - np.eye(3).ravel()).max() > 1e-4


def test_refinement_of_a_matrix_is_a_matrix_and_reaches_the_truth(bundle, weights, scans, tmp_path):
    (fixed, moving), world = scans
    bundle("stn_affine")
    options = {"weights": weights("stn_affine"), "output": str(tmp_path / "out"), "report": False}
    register(fixed, moving, method="stn_affine", refine=200, **options)
    transform = sitk.ReadTransform(str(tmp_path / "out" / "transform.tfm"))
    flip = np.diag([-1.0, -1, 1])
    for point in ([0.0, 0, 0], [10, -8, 6], [-12, 5, 9]):
        found = flip @ np.array(transform.TransformPoint((flip @ point).tolist()))
        np.testing.assert_allclose(found, world[:3, :3] @ point + world[:3, 3], atol=0.2)


def test_a_chain_goes_on_from_the_matrix(bundle, weights, scans, tmp_path):
    (fixed, moving), _ = scans
    bundle("stn_affine")
    options = {"output": str(tmp_path / "out"), "report": False}
    register(fixed, moving, method="stn_affine,fcn_multires", **options)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["method"] == "stn_affine,fcn_multires"


@pytest.mark.parametrize(("centres", "sitk_mode"), [("geometry", 0), ("mass", 1)])
def test_centres_are_those_of_simpleitk(bundle, scans, centres, sitk_mode):
    root = bundle("stn_affine")
    (fixed, moving), _ = scans
    images = [sitk.ReadImage(path) for path in (fixed, moving)]
    modes = [sitk.CenteredTransformInitializerFilter.GEOMETRY, sitk.CenteredTransformInitializerFilter.MOMENTS]
    start = sitk.CenteredTransformInitializer(*images, sitk.AffineTransform(3), modes[sitk_mode])
    network = optional_import("stn_affine.network", name="KeyPointAffine")[0]()
    method = NetworkMethod(network.eval(), root, "nowhere.pt", size=24, centres=centres)
    method.loaded = True
    transform = method(read_image(fixed), read_image(moving), None)
    assert isinstance(transform, Affine)
    for point in ([0.0, 0, 0], [10, -8, 6]):
        expected = np.array([-1, -1, 1]) * start.TransformPoint((np.array([-1, -1, 1]) * point).tolist())
        found = transform.world(torch.tensor([point], dtype=torch.float64))[0, 0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-3 if centres == "geometry" else 1.5)


class Astray(torch.nn.Module):
    """Whatever it sees, it shifts by a fifth of the longest side."""

    def transform(self, image, grid):
        matrix = torch.eye(3, 4)[None]
        matrix[0, 0, 3] = 0.4
        return Affine(matrix, grid)


@pytest.mark.parametrize("cropped", ["fixed", "moving"])
def test_an_image_and_its_crop_stay_where_the_headers_put_them(bundle, scans, cropped):
    """Their middles are elsewhere, and what the network finds makes them less alike."""
    (path, _), _ = scans
    whole = sitk.ReadImage(path)
    sitk.WriteImage(whole[10:34, 8:30, 12:32], str(Path(path).with_name("crop.nii.gz")))
    pair = {"fixed": read_image(path), "moving": read_image(path)}
    pair[cropped] = read_image(Path(path).with_name("crop.nii.gz"))
    method = NetworkMethod(Astray(), bundle("stn_affine"), "nowhere.pt", size=24, centres="geometry")
    method.loaded = True
    place = torch.tensor([[3.0, -5, 8]], dtype=torch.float64)
    assert torch.equal(method(pair["fixed"], pair["moving"], None).world(place)[0], place)
    scrambled = replace(pair["moving"], array=pair["moving"].array.flip(1))
    assert not torch.equal(method(pair["fixed"], scrambled, None).world(place)[0], place)


@pytest.mark.parametrize("name", ["stn_affine", "deep_affine"])
def test_the_volume_stays_bounded_after_all_passes(bundle, name):
    bundle(name)
    target, options = {
        "stn_affine": ("STNAffine", {"image_size": [16] * 3, "channels": [4, 4]}),
        "deep_affine": ("DeepAffine", {"channels": [4, 4]}),
    }[name]
    torch.manual_seed(0)
    network = optional_import(f"{name}.network", name=target)[0](3, head="separate", passes=2, **options).eval()
    for layer in network.head.layers.values():
        torch.nn.init.normal_(layer.weight, std=10.0)
    with torch.no_grad():
        volumes = torch.linalg.det(network.matrices(torch.rand(40, 2, 16, 16, 16))[-1][:, :, :3])
    assert float(volumes.min()) >= 0.2 - 1e-3
    with pytest.raises(ValueError, match="passes must be a whole number of 1 or more, got 0"):
        type(network)(3, passes=0, **options)


@pytest.mark.parametrize("seed", range(3))
def test_images_exchanged_give_the_inverse_however_they_lie(seed):
    """The same is found from either image, upside down or not; the shipped weights, blocks turned by SciPy."""
    network = find_methods("stn_affine", device="cpu")[0].ready()
    block = cracked_cubes((48, 48, 48), seed=seed).fixed.numpy()
    block[:, :24] *= 0.5
    angles = np.random.default_rng(seed).uniform(60, 180, 3)
    turned = block
    for axes, angle in zip(((0, 1), (1, 2), (0, 2)), angles, strict=True):
        turned = ndimage.rotate(turned, angle, axes, reshape=False, order=1)
    pair = torch.from_numpy(np.stack([turned, block]))[None].float()
    with torch.no_grad():
        there, back = (np.vstack([network.matrices(one)[-1][0].numpy(), [0, 0, 0, 1]]) for one in (pair, pair.flip(1)))
    assert np.abs(there @ back - np.eye(4)).max() < 1e-3
    assert np.abs(there - np.eye(4)).max() > 0.2


def test_an_image_that_shows_nothing_has_no_centre(bundle):
    root = bundle("stn_affine")
    network = optional_import("stn_affine.network", name="KeyPointAffine")[0]()
    method = NetworkMethod(network, root, "nowhere.pt", size=24, centres="mass")
    grid = Grid((20, 20, 20))
    empty, other = (
        Image.in_memory(array, grid, "empty") for array in (torch.zeros(1, *grid.shape), torch.rand(1, *grid.shape))
    )
    with pytest.raises(ValueError, match="empty must show something to have a centre of mass, got a constant image"):
        method(other, empty, None)
    with pytest.raises(ValueError, match="centres must be one of None, geometry, mass, got 'middle'"):
        NetworkMethod(network, root, "nowhere.pt", centres="middle")
    with pytest.raises(ValueError, match="spacing and size must not both be given, got 2.0 and 24"):
        NetworkMethod(network, root, "nowhere.pt", spacing=2.0, size=24)
