from __future__ import annotations

import numpy as np
import pytest
import torch

from warpzoo.checks import (
    check_displacement,
    check_finite,
    check_image,
    check_mask,
    check_same_device,
    check_same_shape,
    check_spacing,
    check_truth,
    runs_eagerly,
)

IMAGE_2D = torch.zeros(2, 3, 5, 6)
IMAGE_3D = torch.zeros(2, 3, 5, 6, 7)


class CheckedSum(torch.nn.Module):
    """A layer that checks its input, as all of ours do."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        check_image("image", image)
        check_mask("mask", image[:, :1] > 0, "image", image)
        return image.sum()


@pytest.mark.parametrize(("image", "dims"), [(IMAGE_2D, 2), (IMAGE_3D, 3)])
def test_images_are_accepted_and_their_axes_counted(image, dims):
    assert check_image("image", image) == dims
    assert check_image("image", image, channels=3) == dims
    assert check_image("image", image.to(torch.uint8)) == dims
    assert check_displacement("field", image[:, [0] * dims]) == dims


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 1, 4, 4)), "^fixed must be a torch.Tensor, got a ndarray"),
        (torch.zeros(4, 4), r"^fixed must be \(batch, channels, \*spatial\) .* got shape \(4, 4\)"),
        (torch.zeros(1, 1, 2, 2, 2, 2), r"^fixed must be .* got shape \(1, 1, 2, 2, 2, 2\)"),
        (torch.zeros(1, 1, 0, 4), r"^fixed must have no empty axis, got shape \(1, 1, 0, 4\)"),
        (torch.zeros(1, 2, 4, 4), "^fixed must have 1 channel, got 2"),
    ],
)
def test_wrong_images_are_named(image, message):
    with pytest.raises(ValueError, match=message):
        check_image("fixed", image, channels=1)


@pytest.mark.parametrize(("shape", "message"), [((1, 3, 4, 4), "3 components on 2"), ((1, 2, 4, 4, 4), "2 comp")])
def test_a_displacement_has_a_component_per_axis(shape, message):
    with pytest.raises(ValueError, match=f"^field must have one component per spatial axis, got {message}"):
        check_displacement("field", torch.zeros(shape))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_that_are_no_numbers_are_counted(value, dtype):
    image = torch.zeros(1, 2, 3, 4, dtype=dtype)
    image[0, 1, 2, :2] = value
    for check in (check_finite, check_image, check_displacement):
        with pytest.raises(ValueError, match="^moving must be finite, got 2 values"):
            check("moving", image)
    assert check_image("moving", image, finite=False) == 2
    assert check_displacement("moving", image, finite=False) == 2


def test_infinities_of_both_signs_do_not_cancel():
    with pytest.raises(ValueError, match="2 values"):
        check_finite("moving", torch.tensor([torch.inf, -torch.inf]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_large_finite_numbers_are_fine_though_their_sum_overflows(dtype):
    check_finite("moving", torch.full((100,), torch.finfo(dtype).max, dtype=dtype))


def test_shapes_are_compared_whole_or_without_channels():
    check_same_shape("a", IMAGE_2D, "b", IMAGE_2D.clone())
    check_same_shape("a", IMAGE_2D, "b", IMAGE_2D[:, :1], spatial_only=True)
    with pytest.raises(ValueError, match=r"^a and b must have the same shape, got \(2, 3, 5, 6\) and \(2, 1, 5, 6\)"):
        check_same_shape("a", IMAGE_2D, "b", IMAGE_2D[:, :1])
    for other in (IMAGE_2D[:1], IMAGE_2D[..., 1:], IMAGE_3D):
        for spatial_only in (False, True):
            with pytest.raises(ValueError, match="^a and b must have the same"):
                check_same_shape("a", IMAGE_2D, "b", other, spatial_only)


def test_devices_are_compared():
    elsewhere = torch.zeros(IMAGE_2D.shape, device="meta")
    for check in (check_same_device, check_same_shape):
        with pytest.raises(ValueError, match="^a and b must be on the same device, got cpu and meta"):
            check("a", IMAGE_2D, "b", elsewhere)


@pytest.mark.parametrize("image", [IMAGE_2D, IMAGE_3D])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_masks_of_one_or_every_item_are_accepted(image, dtype):
    mask = torch.zeros(image.shape[0], 1, *image.shape[2:], dtype=dtype)
    mask[:, 0, 2, 2] = 1
    check_mask("mask", mask, "image", image)
    check_mask("mask", mask[:1], "image", image)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 3, 5, 6), "^mask must have 1 channel, got 3"),
        (torch.ones(2, 1, 5, 5), r"^mask must have shape \(2, 1, 5, 6\) .* got \(2, 1, 5, 5\)"),
        (torch.ones(3, 1, 5, 6), r"^mask must have shape .* got \(3, 1, 5, 6\)"),
        (torch.ones(2, 1, 5, 6, 7), r"^mask must have shape .* got \(2, 1, 5, 6, 7\)"),
        (torch.zeros(2, 1, 5, 6), "^mask must have a voxel above 0"),
        (torch.full((2, 1, 5, 6), -1.0), "^mask must have a voxel above 0"),
        (torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 5, 6), "^mask must have a voxel above 0 in each item"),
        (torch.full((2, 1, 5, 6), torch.nan), "^mask must be finite, got 60 values"),
    ],
)
def test_wrong_masks_are_named(mask, message):
    with pytest.raises(ValueError, match=message):
        check_mask("mask", mask, "image", IMAGE_2D)


@pytest.mark.parametrize("spacing", [2, 2.0, [2.0], (2, 2, 2), np.full(3, 2.0), torch.full((3,), 2.0), np.float32(2)])
def test_spacing_in_any_form_becomes_a_length_per_axis(spacing):
    assert check_spacing("spacing", spacing, 3) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("spacing", [0, -1.0, float("nan"), float("inf"), (1.0, 1.0), [1.0, 1.0, 0.0], [], [1.0] * 4])
def test_wrong_spacing_is_named(spacing):
    with pytest.raises(ValueError, match="^spacing must be .* each of the 3 axes"):
        check_spacing("spacing", spacing, 3)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_recorded_layer_checks_shapes_and_leaves_values_alone():
    layer = CheckedSum()
    assert runs_eagerly()
    with pytest.raises(ValueError, match="mask must have a voxel above 0"):
        layer(IMAGE_2D)
    traced = torch.jit.trace(layer, IMAGE_2D, check_trace=False)  # its own check would run the layer eagerly
    assert traced(torch.ones_like(IMAGE_2D)) == IMAGE_2D.numel()
    exported = torch.export.export(layer, (IMAGE_2D,)).module()
    assert exported(torch.ones_like(IMAGE_2D)) == IMAGE_2D.numel()
    with pytest.raises(ValueError, match="image must be"):
        torch.jit.trace(layer, torch.zeros(4, 4))


@pytest.mark.parametrize("said", [False, "false", "False"])
def test_what_a_command_line_makes_of_true_and_false(said):
    assert check_truth("resume", said) is False
    assert check_truth("resume", str(not check_truth("resume", said)).lower()) is True
    with pytest.raises(ValueError, match="^resume must be true or false, got 'no'"):
        check_truth("resume", "no")
