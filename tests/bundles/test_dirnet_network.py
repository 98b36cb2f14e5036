from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline, RBFInterpolator
from skimage.measure import block_reduce

SIZES = {2: (44, 52), 3: (12, 16, 20)}


@pytest.fixture
def make(make_network):
    """A small network whose last layer, zero at first, predicts something."""

    def make(trained=True, **options):
        size = SIZES[options.get("spatial_dims", 2)] if trained else None
        options = {"channels": 4, "spacing": 4, "convolutions": 2, **options}
        return make_network("dirnet.network.DIRNet", size, **options)

    return make


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
def test_one_control_point_for_every_patch_begun(make, pair_of, spacing, size, control, view):
    network = make(spacing=spacing, convolutions=4, spatial_dims=len(size), view=view)
    seen = []
    network.regressor.register_forward_hook(lambda _, __, points: seen.append(points.shape))
    prediction = network(pair_of(size, batch=1))
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


def test_overlapping_view_has_two_more_convolutions_and_sees_beyond_its_patch(make, pair_of):
    sizes = {}
    for view in ("patch", "overlapping"):
        network = make(view=view, spacing=8, convolutions=3)
        sizes[view] = sum(parameter.numel() for parameter in network.parameters())
        points = []
        network.regressor.register_forward_hook(lambda _, __, output, points=points: points.append(output[0, 0, 4, 4]))
        image = pair_of((72, 72)).requires_grad_()
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
def test_one_unit_control_point_makes_the_bump_of_a_b_spline(make, pair_of, dims, transformer, peak):
    network = make(spatial_dims=dims, transformer=transformer, spacing=8, convolutions=3, trained=False)
    points = torch.zeros(1, dims, *[5] * dims)
    points[(0, 0, *[2] * dims)] = 1
    network.regressor = Constant(points)
    field = network(pair_of([40] * dims, batch=1))[0, 1:]
    knots = {"cubic": np.arange(-2, 3), "quadratic": np.arange(-1.5, 2)}[transformer]
    basis = np.nan_to_num(BSpline.basis_element(knots, extrapolate=False)((np.arange(40) - 19.5) / 8))
    bump = math.prod(np.ix_(*[basis] * dims))
    np.testing.assert_allclose(field[0].numpy(), bump, rtol=0, atol=1e-6)
    assert bool((field[1:] == 0).all())
    # The centre of a patch of 8 lies half a voxel, a sixteenth of the spacing, off the nearest voxels' own.
    assert 0.98 * peak < float(field.max()) < peak


def test_thin_plate_is_scipys_through_the_centres_of_the_patches(make, pair_of):
    network = make(transformer="thin_plate", trained=False)
    points = torch.randn(1, 2, 5, 6)
    network.regressor = Constant(points)
    field = network(pair_of((20, 24), batch=1))[0, 1:]
    landmarks = np.indices((5, 6)).reshape(2, -1).T * 4 + 1.5
    spline = RBFInterpolator(landmarks, points[0].flatten(1).T.numpy(), kernel="thin_plate_spline", degree=1)
    expected = spline(np.indices((20, 24)).reshape(2, -1).T).T.reshape(2, 20, 24)
    np.testing.assert_allclose(field.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_refinement_step_corrects_the_control_points_from_the_warped_image(make, pair_of, dims):
    size = SIZES[dims]
    image = pair_of(size, batch=2)
    network = make(spatial_dims=dims, refinement_steps=1)
    once = make(spatial_dims=dims)
    once.load_state_dict(network.state_dict(), strict=False)
    seen = []
    network.looks[0].register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    twice, first = network(image), once(image)
    warped, fixed, points, correction = seen[0]
    axes = tuple(range(2, 2 + dims))
    mean, deviation = image.mean(axes, keepdim=True), image.std(axes, correction=0, keepdim=True)
    torch.testing.assert_close(fixed * deviation[:, 1:] + mean[:, 1:], image[:, 1:], rtol=1e-4, atol=1e-4)
    places = torch.from_numpy(np.indices(size)) + first[:, 1:]
    ends = torch.tensor(size).reshape(-1, *[1] * dims) - 1
    inside = ((places >= 0) & (places <= ends)).all(dim=1, keepdim=True)
    assert inside.float().mean() > 0.5
    carried = warped * deviation[:, :1] + mean[:, :1]
    torch.testing.assert_close(carried[inside], first[:, :1][inside], rtol=1e-3, atol=1e-3)
    network.regressor, network.looks = Constant(points + correction), torch.nn.ModuleList()
    torch.testing.assert_close(network(image), twice)
    assert float((twice - first).abs().max()) > 0.01


def test_a_look_sees_differences_and_slopes_over_half_a_patch(make):
    network = make(spacing=4, refinement_steps=1)
    warped, fixed = torch.randn(2, 1, 1, 24, 32)
    seen = []
    network.looks[0].norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][0]))
    network.looks[0](warped, fixed, torch.zeros(1, 2, 6, 8))
    down, across = np.gradient(warped[0, 0].numpy())
    difference = (fixed - warped)[0, 0].numpy()
    factors = {"d": difference, "y": down, "x": across}
    products = [warped[0, 0].numpy(), fixed[0, 0].numpy()]
    products += [factors[a] * factors[b] for a, b in ("dd", "dy", "dx", "yy", "yx", "xx")]
    for found, product in zip(seen[0], products, strict=True):
        expected = block_reduce(product, 2, np.mean)
        np.testing.assert_allclose(found[1:-1, 1:-1].numpy(), expected[1:-1, 1:-1], rtol=0, atol=1e-5)


class Constant(torch.nn.Module):
    """A regressor that predicts these control points whatever it sees."""

    def __init__(self, points):
        super().__init__()
        self.points = points

    def forward(self, image):
        return self.points.expand(image.shape[0], *self.points.shape[1:])


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (1, 2, 8, 8, 8), r"2 spatial axes for this 2-D network.*shape \(1, 2, 8, 8, 8\)"),
        ({"spatial_dims": 3}, (1, 2, 16, 16), r"3 spatial axes for this 3-D network"),
        ({}, (1, 1, 16, 16), r"moving and fixed.*shape \(1, 1, 16, 16\)"),
        ({}, (1, 3, 16, 16), "moving and"),
        ({}, (2, 16, 16), "batch, 2"),
        (
            {"view": "image", "image_size": [16, 16]},
            (1, 2, 16, 20),
            r"size \(16, 16\) for this network, got \(16, 20\)",
        ),
    ],
)
def test_wrong_images_are_named(make, options, shape, message):
    network = make(trained=False, **options)
    with pytest.raises(ValueError, match=message):
        network(torch.rand(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"downsampling": "mean"}, "downsampling must be one of .*average.* got 'mean'"),
        ({"transformer": "tps"}, "transformer must be one of .*thin_plate.* got 'tps'"),
        ({"view": "whole"}, "view must be one of .*image.* got 'whole'"),
        ({"activation": "relu"}, "activation must be one of .*elu.* got 'relu'"),
        ({"refinement_steps": -1}, "refinement_steps must be .* got -1"),
        ({"spacing": 12}, "spacing must be a power of two, .* got 12"),
        ({"spacing": 1}, "spacing must be .* got 1"),
        ({"spacing": 16, "convolutions": 3}, "convolutions must be 4 or more for spacing 16, got 3"),
        ({"view": "image"}, "image_size must be given .* got None"),
        ({"image_size": [32, 32]}, "view 'patch'"),
    ],
)
def test_wrong_options_are_named(dirnet, options, message):
    from dirnet.network import DIRNet

    with pytest.raises(ValueError, match=message):
        DIRNet(**options)
