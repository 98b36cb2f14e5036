"""What every registration network promises: it is the identity before it is trained, what it returns is what it says,
gain and offset do not matter, any size goes in, and what is compiled or exported of it does the same."""

from __future__ import annotations

import io
import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from warpzoo.networks import fold_norms

SIZES = {2: (44, 52), 3: (12, 16, 20)}
DIRNET = ("dirnet.network.DIRNet", {"spatial_dims": 2, "channels": 4, "spacing": 4, "convolutions": 2})
FCN = ("fcn_multires.network.MultiResolutionFCN", {"channels": [4, 6, 8]})
PYRAMID = ("fcn_multires.network.WarpingPyramid", {"channels": [4, 6, 8], "estimators": [4, 6, 6]})
VOXELMORPH = ("voxelmorph_dense.network.VoxelMorphDense", {"channels": [4, 6, 6, 6], "features": 4})
KEY_POINTS = ("stn_affine.network.KeyPointAffine", {"channels": [4, 6, 8], "points": 48})
STN = ("stn_affine.network.STNAffine", {"channels": [4, 6], "hidden": [16]})
DEEP_AFFINE = ("deep_affine.network.DeepAffine", {"channels": [4, 6, 8], "hidden": [16]})
DENOISEREG = ("denoisereg.network.DenoiseReg", {"channels": [4, 6, 8], "points": 32, "hidden": [16], "blurs": [0, 1]})
WHOLE = {"half_resolution": False, "velocity": False, "convolutions": 2}
VARIANTS = {
    "dirnet": (DIRNET, 2, {}),
    "dirnet a1": (DIRNET, 2, {"downsampling": "max"}),
    "dirnet a2": (DIRNET, 2, {"downsampling": "stride"}),
    "dirnet b1": (DIRNET, 2, {"transformer": "quadratic"}),
    "dirnet b2": (DIRNET, 2, {"transformer": "thin_plate"}),
    "dirnet c1": (DIRNET, 2, {"view": "overlapping"}),
    "dirnet c2": (DIRNET, 2, {"view": "image", "hidden": 24, "image_size": SIZES[2]}),
    "dirnet one refinement": (DIRNET, 2, {"activation": "leaky_relu", "refinement_steps": 1}),
    "dirnet 3d": (DIRNET, 3, {}),
    "dirnet 3d overlapping": (DIRNET, 3, {"view": "overlapping"}),
    "dirnet 3d thin plate": (DIRNET, 3, {"transformer": "thin_plate"}),
    "dirnet 3d image": (DIRNET, 3, {"view": "image", "hidden": 24, "image_size": SIZES[3]}),
    "dirnet 3d two refinements": (DIRNET, 3, {"refinement_steps": 2}),
    "fcn 2d": (FCN, 2, {}),
    "fcn 3d": (FCN, 3, {}),
    "fcn 2d velocity": (FCN, 2, {"velocity": True}),
    "fcn 2d coarse": (FCN, 2, {"variant": "coarse"}),
    "fcn 3d coarse velocity": (FCN, 3, {"variant": "coarse", "velocity": True}),
    "fcn 3d no pooling": (FCN, 3, {"variant": "no_pooling"}),
    "fcn 3d two levels": (FCN, 3, {"channels": [4, 6]}),
    "pyramid 2d": (PYRAMID, 2, {}),
    "pyramid 3d": (PYRAMID, 3, {}),
    "pyramid 2d plain": (PYRAMID, 2, {"velocity": False}),
    "pyramid 3d plain": (PYRAMID, 3, {"velocity": False}),
    "pyramid 2d two looks": (PYRAMID, 2, {"looks": [2, 1, 1]}),
    "pyramid 3d more looks": (PYRAMID, 3, {"looks": [1, 2, 3]}),
    "voxelmorph 2d": (VOXELMORPH, 2, {}),
    "voxelmorph 3d": (VOXELMORPH, 3, {}),
    "voxelmorph 2d plain": (VOXELMORPH, 2, {"velocity": False}),
    "voxelmorph 2d whole": (VOXELMORPH, 2, WHOLE),
    "voxelmorph 3d whole": (VOXELMORPH, 3, WHOLE),
    "voxelmorph 2d two passes": (VOXELMORPH, 2, {"passes": 2}),
    "voxelmorph 3d two passes": (VOXELMORPH, 3, {"passes": 2, "velocity": False}),
    "key points 2d": (KEY_POINTS, 2, {}),
    "key points 3d": (KEY_POINTS, 3, {}),
    "key points 3d one pass": (KEY_POINTS, 3, {"passes": 1}),
    "key points 2d turns": (KEY_POINTS, 2, {"turns": True}),
    "key points 3d turns": (KEY_POINTS, 3, {"turns": True}),
    "stn 2d": (STN, 2, {"image_size": SIZES[2]}),
    "stn 3d": (STN, 3, {"image_size": SIZES[3]}),
    "stn 3d one matrix": (STN, 3, {"image_size": SIZES[3], "head": "one", "passes": 2}),
    "deep affine 2d": (DEEP_AFFINE, 2, {}),
    "deep affine 3d": (DEEP_AFFINE, 3, {}),
    "deep affine 3d gap": (DEEP_AFFINE, 3, {"pooling": "gap"}),
    "deep affine 2d separate": (DEEP_AFFINE, 2, {"head": "separate", "passes": 2}),
    "denoisereg 2d": (DENOISEREG, 2, {}),
    "denoisereg 3d": (DENOISEREG, 3, {}),
    "denoisereg 2d small": (DENOISEREG, 2, {"working": 26}),
    "denoisereg 2d key points": (DENOISEREG, 2, {"head": "key_points", "turns": []}),
    "denoisereg 2d moments": (DENOISEREG, 2, {"head": "moments"}),
    "denoisereg 3d gap": (DENOISEREG, 3, {"head": "gap", "fold": 1, "blurs": []}),
}
# Their weights depend on the size of the image, or their matrices do.
ONE_SIZE = ("dirnet c2", "dirnet 3d image", "stn 2d", "stn 3d", "stn 3d one matrix")
# The exporter by tracing takes a second each, the one by torch.export ten and more.
BY_DYNAMO_TOO = (*ONE_SIZE, "dirnet c1", "dirnet one refinement", "fcn 2d", "voxelmorph 2d")
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture
def make(make_network):
    def make(variant, trained=True):
        (target, options), dims, others = VARIANTS[variant]
        return make_network(target, SIZES[dims] if trained else None, **{**options, "spatial_dims": dims, **others})

    return make


@pytest.fixture
def example(pair_of):
    """`example("fcn 2d", batch=2, less=0)`: images of a size of no power of two, `less` voxels smaller."""

    def example(variant, batch=2, less=0, seed=1):
        return pair_of([side - less for side in SIZES[VARIANTS[variant][1]]], batch, seed)

    return example


def levels(network, image):
    """All that the network predicts: the displacement of each level where it has several."""
    return network.levels(image) if hasattr(network, "levels") else [network(image)[:, 1:]]


@every_variant
def test_untrained_network_is_the_identity_to_the_last_bit(make, example, pair_of, variant):
    network = make(variant, trained=False)
    image = example(variant)
    for training in (False, True):
        prediction = network.train(training)(image)
        assert bool((prediction[:, 1:] == 0).all())
        # sides that are no power of two cost a rounding of the sampling position, no more
        torch.testing.assert_close(prediction[:, :1], image[:, :1], rtol=0, atol=1e-3 * float(image.std()))
    if variant not in ONE_SIZE:
        image = pair_of([16] * (image.dim() - 2))
        assert torch.equal(network(image)[:, :1], image[:, :1])


@every_variant
def test_output_is_the_moving_image_at_the_displaced_places(make, example, variant):
    network = make(variant)
    image = example(variant)
    prediction = network(image).detach()
    assert prediction.shape == (2, image.dim() - 1, *image.shape[2:])
    displacement = prediction[:, 1:].numpy().astype(float)
    assert np.abs(displacement).max() > 0.5
    for moving, field, warped in zip(image[:, 0].numpy(), displacement, prediction[:, 0].numpy(), strict=True):
        expected = map_coordinates(moving.astype(float), np.indices(moving.shape) + field, order=1, mode="nearest")
        np.testing.assert_allclose(warped, expected, rtol=0, atol=2e-3)


@every_variant
def test_displacement_does_not_depend_on_gain_and_offset_of_either_image(make, example, variant):
    network = make(variant)
    image = example(variant)
    gain, offset = (torch.tensor(values).view(1, 2, *[1] * (image.dim() - 2)) for values in ([3.7, 0.01], [-500.0, 20]))
    displacement = network(image)[:, 1:]
    changed = network(image * gain + offset)[:, 1:]
    torch.testing.assert_close(changed, displacement, rtol=0, atol=2e-3)
    assert (network(image.flip(1))[:, 1:] - displacement).abs().max() > 0.1


@every_variant
def test_folded_network_gives_the_same_result(make, example, variant):
    network, image = make(variant), example(variant)
    folded = fold_norms(deepcopy(network))
    names = [name for name, layer in folded.named_modules() if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d))]
    assert all(name.endswith(".norm") for name in names), names  # what no convolution comes before
    torch.testing.assert_close(folded(image), network(image), rtol=1e-3, atol=2e-3)


@every_variant
def test_gradient_reaches_every_parameter(make, example, variant):
    network = make(variant).train()
    image = example(variant, batch=4)
    loss = network(image)[:, :1].square().mean() + sum(field.square().mean() for field in levels(network, image))
    if hasattr(network, "denoised"):
        loss = loss + network.denoised(image).square().mean()
    loss.backward()
    # Half the difference of both directions: a constant added to both is no velocity.
    both_ways = variant.startswith(("pyramid", "voxelmorph")) and network.velocity
    dims = image.dim() - 2
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:  # a blur of fixed width
            continue
        assert parameter.grad is not None, name
        if not (both_ways and name.endswith("bias") and parameter.shape == (dims,)):
            assert bool(parameter.grad.abs().max() > 0), name


@every_variant
def test_scripted_network_gives_the_same_result_on_every_size(make, example, variant):
    network = make(variant)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        stored = io.BytesIO()
        torch.jit.save(torch.jit.script(network), stored)
        stored.seek(0)
        loaded = torch.jit.load(stored)
    with torch.no_grad():
        for batch, less in enumerate([0] if variant in ONE_SIZE else [0, 7], start=1):
            image = example(variant, batch, less)
            torch.testing.assert_close(loaded(image), network(image), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("variant", "dynamo"),
    [(name, False) for name in VARIANTS if name not in ONE_SIZE]
    + [pytest.param(name, True, marks=pytest.mark.slow) for name in BY_DYNAMO_TOO],
)
def test_onnx_network_gives_the_same_result(make, example, variant, dynamo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = make(variant)
    image = example(variant)
    fixed_size = variant in ONE_SIZE or "thin_plate" in VARIANTS[variant][2].values()
    axes = [0] if fixed_size else [0, *range(2, image.dim())]
    path = str(tmp_path / "network.onnx")
    names = {"input_names": ["image"], "output_names": ["pred"], "dynamo": dynamo}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)
            torch.onnx.export(network, (image,), path, **names, dynamic_shapes=shapes, verbose=False)
        else:
            named = {"image": {axis: f"axis_{axis}" for axis in axes}}
            torch.onnx.export(network, (image,), path, **names, dynamic_axes=named, opset_version=20)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, less in ((1, 0),) if fixed_size else ((1, 0), (3, 7)):
        image = example(variant, batch, less, seed=5)
        (result,) = session.run(None, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(result), network(image).detach(), rtol=0, atol=2e-3)


@every_variant
def test_half_precision_keeps_the_digits_of_positions(make, example, variant):
    network = make(variant, trained=False)
    image = example(variant)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = network(image)
    torch.testing.assert_close(prediction[:, :1].float(), image[:, :1], rtol=0, atol=1e-2)
    assert prediction.dtype == torch.float32


@every_variant
def test_constant_images_give_numbers(make, example, variant):
    assert bool(make(variant)(torch.full_like(example(variant), 7.0)).isfinite().all())


@every_variant
def test_wrong_images_are_named(make, variant):
    network = make(variant, trained=False)
    dims = VARIANTS[variant][1]
    for shape in ((1, 2, *[16] * (5 - dims)), (1, 1, *[16] * dims), (1, 3, *[16] * dims), (2, *[16] * dims)):
        with pytest.raises(
            ValueError, match=rf"image must be \(batch, 2, .*{dims} spatial axes for this {dims}-D network \(moving and"
        ) as error:
            network(torch.rand(shape))
        assert str(shape) in str(error.value)
        assert "\n" not in str(error.value)
