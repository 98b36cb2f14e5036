from __future__ import annotations

import io
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline, RBFInterpolator
from scipy.ndimage import map_coordinates

SIZES = {2: (44, 52), 3: (12, 16, 20)}
VARIANTS = {
    "baseline": {},
    "a1": {"downsampling": "max"},
    "a2": {"downsampling": "stride"},
    "b1": {"transformer": "quadratic"},
    "b2": {"transformer": "thin_plate"},
    "c1": {"view": "overlapping"},
    "c2": {"view": "image", "hidden": 24},
    "3d": {"spatial_dims": 3},
    "3d overlapping": {"spatial_dims": 3, "view": "overlapping"},
    "3d thin plate": {"spatial_dims": 3, "transformer": "thin_plate"},
    "3d image": {"spatial_dims": 3, "view": "image", "hidden": 24},
}


@pytest.fixture
def make(dirnet):
    """A small network of a variant in evaluation mode whose last layer, zero at first, predicts something."""

    def make(variant="baseline", trained=True, **options):
        from dirnet.network import DIRNet

        options = {"channels": 4, "spacing": 4, "convolutions": 2, **VARIANTS[variant], **options}
        if options.get("view") == "image" and "image_size" not in options:
            options["image_size"] = list(SIZES[options.get("spatial_dims", 2)])
        torch.manual_seed(0)
        network = DIRNet(**options)
        if trained:
            torch.nn.init.normal_(last_layer(network).weight, std=0.5)
            for layer in network.modules():
                if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                    layer.momentum = None  # statistics of this one batch
            network(example(network, batch=3))
        return network.eval()

    return make


def last_layer(network):
    return [layer for layer in network.regressor if hasattr(layer, "weight") and layer.weight.dim() > 1][-1]


def example(network, batch=2, size=None, seed=1):
    """Smooth positive images, moving and fixed."""
    dims = len(network.transformer.spacing)
    size = size or SIZES[dims]
    coarse = torch.rand(batch, 2, *[5] * dims, generator=torch.Generator().manual_seed(seed))
    mode = {2: "bilinear", 3: "trilinear"}[dims]
    return torch.nn.functional.interpolate(coarse, size=size, mode=mode, align_corners=True) * 100 + 20


@pytest.mark.parametrize("variant", VARIANTS)
def test_untrained_network_is_the_identity_to_the_last_bit(make, variant):
    network = make(variant, trained=False)
    image = example(network)
    for training in (False, True):
        prediction = network.train(training)(image)
        assert bool((prediction[:, 1:] == 0).all())
        # sides that are no power of two cost a rounding of the sampling position, no more
        torch.testing.assert_close(prediction[:, :1], image[:, :1], rtol=0, atol=1e-3 * float(image.std()))
    if network.image_size is None:
        image = example(network, size=[16] * (image.dim() - 2))
        assert torch.equal(network(image)[:, :1], image[:, :1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_is_the_moving_image_at_the_displaced_places(make, variant):
    network = make(variant)
    image = example(network)
    prediction = network(image).detach()
    dims = image.dim() - 2
    assert prediction.shape == (2, 1 + dims, *image.shape[2:])
    displacement = prediction[:, 1:].numpy().astype(float)
    assert np.abs(displacement).max() > 0.5
    for moving, field, warped in zip(image[:, 0].numpy(), displacement, prediction[:, 0].numpy(), strict=True):
        expected = map_coordinates(moving.astype(float), np.indices(moving.shape) + field, order=1, mode="nearest")
        np.testing.assert_allclose(warped, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_displacement_does_not_depend_on_gain_and_offset_of_either_image(make, variant):
    network = make(variant)
    image = example(network)
    gain, offset = (torch.tensor(values).view(1, 2, *[1] * (image.dim() - 2)) for values in ([3.7, 0.01], [-500.0, 20]))
    displacement = network(image)[:, 1:]
    changed = network(image * gain + offset)[:, 1:]
    torch.testing.assert_close(changed, displacement, rtol=0, atol=2e-3)
    assert (network(image.flip(1))[:, 1:] - displacement).abs().max() > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_reaches_every_parameter(make, variant):
    network = make(variant).train()
    prediction = network(example(network, batch=4))
    (prediction[:, :1].square().mean() + prediction[:, 1:].square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().max() > 0), name


@pytest.mark.parametrize(
    ("spacing", "size", "control"),
    [
        (16, (256, 256), (16, 16)),
        (4, (28, 28), (7, 7)),
        (16, (250, 200), (16, 13)),
        (8, (33, 64), (5, 8)),
        (4, (3, 5), (1, 2)),
        (8, (20, 24, 17), (3, 3, 3)),
    ],
)
@pytest.mark.parametrize("view", ["patch", "overlapping"])
def test_one_control_point_for_every_patch_begun(make, spacing, size, control, view):
    network = make(spacing=spacing, convolutions=4, spatial_dims=len(size), view=view)
    seen = []
    network.regressor.register_forward_hook(lambda _, __, points: seen.append(points.shape))
    prediction = network(example(network, batch=1, size=size))
    assert seen == [(1, len(size), *control)]
    assert prediction.shape == (1, 1 + len(size), *size)


def test_baseline_has_the_parameters_counted_from_the_paper(make):
    # 3x3 convolutions 2→16 and thrice 16→16, 1x1 twice 16→16, each with scale and shift of its batch norm; 1x1 16→2.
    counted = 2 * 16 * 9 + 3 * 16 * 16 * 9 + 2 * 16 * 16 + 6 * 2 * 16 + (16 * 2 + 2)
    network = make(channels=16, spacing=16, convolutions=4, trained=False)
    assert sum(parameter.numel() for parameter in network.parameters()) == counted == 7938
    digits = make(channels=16, spacing=4, convolutions=4, trained=False)
    assert sum(parameter.numel() for parameter in digits.parameters()) == counted


@pytest.mark.parametrize("view", ["patch", "overlapping"])
def test_widths_may_be_given_one_by_one(make, view):
    network = make(channels=[3, 5, 7], spacing=4, convolutions=3, view=view)
    convolutions = [layer for layer in network.regressor if isinstance(layer, torch.nn.Conv2d)]
    threes = [layer.out_channels for layer in convolutions if layer.kernel_size == (3, 3)]
    ones = [layer.out_channels for layer in convolutions if layer.kernel_size == (1, 1)]
    # the overlapping view's own two, before and after the second and last downsampling, are as wide as that one
    assert threes == ([3, 5, 7] if view == "patch" else [3, 5, 5, 5, 7])
    assert ones == [7, 7, 2]
    with pytest.raises(ValueError, match="channels"):
        make(channels=[3, 5], spacing=4, convolutions=3, view=view)


def test_overlapping_view_has_two_more_convolutions_and_sees_beyond_its_patch(make):
    sizes = {}
    for view in ("patch", "overlapping"):
        network = make(view=view, spacing=8, convolutions=3)
        sizes[view] = sum(parameter.numel() for parameter in network.parameters())
        points = []
        network.regressor.register_forward_hook(lambda _, __, output, points=points: points.append(output[0, 0, 4, 4]))
        image = example(network, size=(72, 72)).requires_grad_()
        network.standardise = torch.nn.Identity()  # looks at the whole image
        network(image)
        points[0].backward()
        seen = image.grad[0].abs().sum(0).nonzero()
        reach = (seen.amax(0) - seen.amin(0) + 1).tolist()
        # Convolutions of 3 before each of three poolings see 7 pixels more on either side of the patch of 8, and the
        # overlapping view two more at a step of 4 and one at 8, on either side.
        expected = 8 + 2 * 7 if view == "patch" else 8 + 2 * (7 + 4 + 8)
        assert reach == [expected, expected]
    assert sizes["overlapping"] - sizes["patch"] == 2 * (4 * 4 * 9 + 2 * 4)


@pytest.mark.parametrize(
    ("dims", "transformer", "peak"), [(2, "cubic", 4 / 9), (3, "cubic", 8 / 27), (2, "quadratic", 9 / 16)]
)
def test_one_unit_control_point_makes_the_bump_of_a_b_spline(make, dims, transformer, peak):
    network = make(spatial_dims=dims, transformer=transformer, spacing=8, convolutions=3, trained=False)
    points = torch.zeros(1, dims, *[5] * dims)
    points[(0, 0, *[2] * dims)] = 1
    network.regressor = Constant(points)
    field = network(example(network, batch=1, size=[40] * dims))[0, 1:]
    knots = {"cubic": np.arange(-2, 3), "quadratic": np.arange(-1.5, 2)}[transformer]
    basis = np.nan_to_num(BSpline.basis_element(knots, extrapolate=False)((np.arange(40) - 19.5) / 8))
    bump = math.prod(np.ix_(*[basis] * dims))
    np.testing.assert_allclose(field[0].numpy(), bump, rtol=0, atol=1e-6)
    assert bool((field[1:] == 0).all())
    # The centre of a patch of 8 lies half a voxel, a sixteenth of the spacing, off the nearest voxels' own.
    assert 0.98 * peak < float(field.max()) < peak


def test_thin_plate_is_scipys_through_the_centres_of_the_patches(make):
    network = make("b2", trained=False)
    points = torch.randn(1, 2, 5, 6)
    network.regressor = Constant(points)
    field = network(example(network, batch=1, size=(20, 24)))[0, 1:]
    landmarks = np.indices((5, 6)).reshape(2, -1).T * 4 + 1.5
    spline = RBFInterpolator(landmarks, points[0].flatten(1).T.numpy(), kernel="thin_plate_spline", degree=1)
    expected = spline(np.indices((20, 24)).reshape(2, -1).T).T.reshape(2, 20, 24)
    np.testing.assert_allclose(field.numpy(), expected, rtol=0, atol=1e-4)


class Constant(torch.nn.Module):
    """A regressor that predicts these control points whatever it sees."""

    def __init__(self, points):
        super().__init__()
        self.points = points

    def forward(self, image):
        return self.points.expand(image.shape[0], *self.points.shape[1:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_scripted_network_gives_the_same_result_on_every_size(make, variant):
    network = make(variant)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(network)
        stored = io.BytesIO()
        torch.jit.save(scripted, stored)
        stored.seek(0)
        loaded = torch.jit.load(stored)
    dims = len(network.transformer.spacing)
    sizes = [SIZES[dims]] if network.image_size else [SIZES[dims], [side - 7 for side in SIZES[dims]]]
    for batch, size in enumerate(sizes, start=1):
        image = example(network, batch=batch, size=size)
        torch.testing.assert_close(loaded(image), network(image), rtol=0, atol=1e-3)


def export(network, path, image):
    """Writes the file, with dynamic sizes where the variant has them; returns whether it has not."""
    fixed_size = network.image_size is not None or type(network.transformer).__name__ == "ThinPlateField"
    axes = {0: "batch"} | ({} if fixed_size else {axis: f"side{axis}" for axis in range(2, image.dim())})
    sizes = {axis: torch.export.Dim(name, min=1, max=4096) for axis, name in axes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (image,),
            str(path),
            input_names=["image"],
            output_names=["pred"],
            dynamic_shapes=(sizes,),
            dynamo=True,
            verbose=False,
        )
    return fixed_size


@pytest.mark.parametrize(
    "variant",
    [name if name == "c1" else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS],
)
def test_onnx_network_gives_the_same_result(make, variant, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = make(variant)
    image = example(network)
    network(image)
    fixed_size = export(network, tmp_path / "network.onnx", image)
    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"])
    sizes = [image.shape[2:]] if fixed_size else [image.shape[2:], [side - 7 for side in image.shape[2:]]]
    for batch, size in zip((1, 3), sizes, strict=False):
        other = example(network, batch=batch, size=size, seed=5)
        (result,) = session.run(None, {"image": other.numpy()})
        torch.testing.assert_close(torch.from_numpy(result), network(other).detach(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("variant", ["baseline", "c1", "b2"])
def test_half_precision_keeps_the_digits_of_positions(make, variant):
    network = make(variant, trained=False)
    image = example(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = network(image)
    torch.testing.assert_close(prediction[:, :1].float(), image[:, :1], rtol=0, atol=1e-2)
    assert prediction.dtype == torch.float32


def test_constant_images_give_numbers(make):
    network = make()
    assert bool(network(torch.full((1, 2, 20, 24), 7.0)).isfinite().all())


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (1, 2, 8, 8, 8), r"shape \(1, 2, 8, 8, 8\).*2-D network.*2 spatial axes"),
        ({"spatial_dims": 3}, (1, 2, 16, 16), r"3-D network.*3 spatial axes"),
        ({}, (1, 1, 16, 16), r"shape \(1, 1, 16, 16\).*moving and\s+fixed"),
        ({}, (1, 3, 16, 16), "moving and"),
        ({}, (2, 16, 16), "batch, 2"),
        ({"view": "image", "image_size": [16, 16]}, (1, 2, 16, 20), r"\(16, 20\).*whole images of \(16, 16\)"),
    ],
)
def test_wrong_images_are_told_what_is_wanted(make, options, shape, message):
    network = make(trained=False, **options)
    with pytest.raises(ValueError, match=message):
        network(torch.rand(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims is 4"),
        ({"downsampling": "mean"}, "downsampling is 'mean'.*average"),
        ({"transformer": "tps"}, "transformer is 'tps'.*thin_plate"),
        ({"view": "whole"}, "view is 'whole'.*image"),
        ({"spacing": 12}, "spacing is 12.*power of two"),
        ({"spacing": 1}, "spacing is 1"),
        ({"spacing": 16, "convolutions": 3}, "convolutions is 3; spacing 16 wants at least 4"),
        ({"view": "image"}, "image_size is None"),
        ({"image_size": [32, 32]}, "view 'patch'"),
    ],
)
def test_wrong_options_are_told_what_is_wanted(dirnet, options, message):
    from dirnet.network import DIRNet

    with pytest.raises(ValueError, match=message):
        DIRNet(**options)
