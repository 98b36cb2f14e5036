from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from warpzoo.training import PairAugmentation

SHAPES = [(24, 31), (14, 17, 12)]
GEOMETRY = {"rotation": 25, "scale": 0.3, "shift": 3, "flip": True}


def smooth(shape, batch=4, seed=0):
    coarse = torch.rand(batch, 2, *[4] * len(shape), generator=torch.Generator().manual_seed(seed))
    mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
    return torch.nn.functional.interpolate(coarse, size=shape, mode=mode, align_corners=True) * 200 + 10


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("crop", [False, True])
def test_moving_and_fixed_undergo_the_same_geometry(shape, crop):
    image = smooth(shape)
    image[:, 1] = image[:, 0]
    size = [side - 5 for side in shape] if crop else None
    changed = PairAugmentation(**GEOMETRY, crop=size)(image)
    assert changed.shape == (4, 2, *(size or shape))
    assert torch.equal(changed[:, 0], changed[:, 1])
    if not crop:
        assert (changed - image).abs().max() > 20
    assert not torch.isclose(changed[0], changed[1]).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [GEOMETRY, {"gamma": 0.5}, {"noise": 0.1}, {**GEOMETRY, "crop": [9, 9, 9]}])
def test_nothing_happens_outside_training(shape, options):
    image = smooth(shape)
    options = {**options, "crop": options["crop"][: len(shape)]} if "crop" in options else options
    assert torch.equal(PairAugmentation(**options).eval()(image), image)


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_asked_for_is_the_identity(shape):
    image = smooth(shape)
    torch.testing.assert_close(PairAugmentation()(image), image, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("shape", "crop"), [((24, 32), (16, 8)), ((12, 14, 10), (6, 4, 10))])
def test_crop_is_cut_from_the_middle(shape, crop):
    image = smooth(shape)
    start = [(side - part) // 2 for side, part in zip(shape, crop, strict=True)]
    middle = image[(..., *[slice(s, s + part) for s, part in zip(start, crop, strict=True)])]
    torch.testing.assert_close(PairAugmentation(crop=list(crop))(image), middle, rtol=0, atol=1e-3)


def test_crop_larger_than_the_image_is_padded_with_0():
    image = smooth((20, 20)) + 1
    padded = PairAugmentation(crop=[30, 24])(image)
    torch.testing.assert_close(padded[:, :, 5:25, 2:22], image, rtol=0, atol=1e-3)
    assert bool((padded[:, :, :5] == 0).all())
    assert bool((padded[:, :, :, 22:] == 0).all())


@pytest.mark.parametrize(("shape", "pairs"), [((21, 21), 1), ((11, 11, 11), 3)])
def test_rotation_is_about_the_middle_and_within_its_limit(shape, pairs):
    # A blob off the middle keeps its distance to it; its angle changes by at most the limit for every axis.
    dims = len(shape)
    centre = np.array([side // 2 for side in shape])
    image = torch.zeros(60, 2, *shape)
    place = centre.copy()
    place[0] += 5 if dims == 2 else 3
    image[(slice(None), slice(None), *place)] = 1
    rotated = PairAugmentation(rotation=20)(image)[:, 0].flatten(1)
    coordinates = torch.tensor(np.indices(shape).reshape(dims, -1) - centre[:, None], dtype=torch.float32)
    found = rotated @ coordinates.T / rotated.sum(1, keepdim=True)
    length = found.norm(dim=1)
    assert bool((length - (5 if dims == 2 else 3)).abs().max() < 0.35)
    angles = torch.rad2deg(torch.acos((found[:, 0] / length).clamp(-1, 1)))
    assert float(angles.max()) <= 20 * np.sqrt(pairs) + 5
    assert float(angles.max()) > 12


def test_shift_moves_by_at_most_so_many_voxels_on_any_shape():
    image = torch.zeros(80, 2, 21, 41)
    image[:, :, 10, 20] = 1
    moved = PairAugmentation(shift=4)(image)[:, 0]
    rows = (moved.sum(2) * torch.arange(21)).sum(1) - 10
    columns = (moved.sum(1) * torch.arange(41)).sum(1) - 20
    for steps in (rows, columns):
        assert 3.4 < float(steps.abs().max()) <= 4.01
        assert float(steps.min()) < 0 < float(steps.max())


def test_flips_mirror_along_every_axis_in_about_half_of_the_items():
    image = smooth((9, 12), batch=1).expand(200, -1, -1, -1)
    flipped = PairAugmentation(flip=True)(image)
    counts = []
    for axes in ([], [2], [3], [2, 3]):
        same = (flipped - image.flip(axes)).abs().flatten(1).amax(1) < 1e-2
        counts.append(int(same.sum()))
    assert sum(counts) == 200
    assert min(counts) > 25


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_bends_contrast_of_each_image_on_its_own_and_keeps_its_range(shape):
    image = smooth(shape)
    image[:, 1] = image[:, 0]
    changed = PairAugmentation(gamma=0.8)(image)
    assert not torch.isclose(changed[:, 0], changed[:, 1]).all()
    flat, bent = image.flatten(2), changed.flatten(2)
    torch.testing.assert_close(bent.amin(2), flat.amin(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(bent.amax(2), flat.amax(2), rtol=0, atol=1e-3)
    scaled, curve = ((part - part.amin(2, True)) / (part.amax(2, True) - part.amin(2, True)) for part in (flat, bent))
    inner = (scaled > 0.05) & (scaled < 0.95)
    exponents = (curve[inner].log() / scaled[inner].log()).numpy()
    assert exponents.min() >= 1 / 1.8 - 1e-3
    assert exponents.max() <= 1.8 + 1e-3
    assert exponents.max() / exponents.min() > 1.2


def test_noise_is_in_units_of_the_images_deviation_and_different_for_each():
    image = smooth((60, 60), batch=20)
    image[:, 1] = image[:, 0] * 100
    noise = PairAugmentation(noise=0.2)(image) - image
    share = noise.flatten(2).std(2) / image.flatten(2).std(2)
    assert float(share.max()) < 0.22
    assert float(share.max()) > 0.12
    assert float(torch.corrcoef(noise[0].flatten(1))[0, 1].abs()) < 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_the_seed_decides(shape):
    image, layer = smooth(shape), PairAugmentation(**GEOMETRY, gamma=0.3, noise=0.1)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(layer(image))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_values_are_those_of_linear_interpolation():
    # An affine map is known from where it takes an image of coordinates; the other image must follow it.
    shape = (40, 40)
    image = smooth(shape, batch=1)
    ramps = torch.stack(torch.meshgrid(*[torch.arange(float(side)) for side in shape], indexing="ij"))[None] + 1
    layer = PairAugmentation(rotation=25, scale=0.2, shift=3, crop=[20, 20])
    torch.manual_seed(5)
    coordinates = layer(ramps)[0].numpy() - 1
    torch.manual_seed(5)
    changed = layer(image)[0, 0].numpy()
    inside = (coordinates.min(0) > 0) & (coordinates.max(0) < 39)
    assert inside.mean() > 0.5
    expected = map_coordinates(image[0, 0].numpy().astype(float), coordinates, order=1)
    np.testing.assert_allclose(changed[inside], expected[inside], rtol=0, atol=0.02)


@pytest.mark.parametrize("shape", [(200, 300), (40, 60, 50)])
def test_autocast_keeps_the_digits_of_positions(shape):
    ramps = torch.meshgrid(*[torch.arange(side, dtype=torch.float32) for side in shape], indexing="ij")
    image = torch.stack([torch.stack([ramp, ramp]) for ramp in ramps])  # where a voxel was is its value
    augmentation = PairAugmentation(**GEOMETRY, apart=0.5, padding="border")
    moved = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            moved.append(augmentation(image))
    torch.testing.assert_close(moved[1], moved[0], rtol=0, atol=1e-4)
