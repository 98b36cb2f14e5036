from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import warpzoo
from warpzoo.errors import Finding, raise_if
from warpzoo.geometry.grid import Grid
from warpzoo.images.image import Header, Image
from warpzoo.registration.preflight import coverage, preflight

SHAPES = [(60, 48), (40, 34, 28)]
EXPECTED = {2: {"spatial_dims": 2, "spacing": [0.8, 2.0], "size": [32, 128]}}
EXPECTED[3] = {**EXPECTED[2], "spatial_dims": 3, "modality": "MR"}


def picture(shape, centre=None, radius=0.3, seed=0):
    """A bright ball in noise, by default in the middle."""
    axes = [torch.arange(size) - (size - 1) * (0.5 if centre is None else centre[i]) for i, size in enumerate(shape)]
    distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0) / min(shape)
    noise = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (100 * torch.sigmoid((radius - distance) * 60) + noise)[None]


def file(array, spacing=1.0, origin=0.0, name="image.nii.gz", dtype="int16", pixels=False, warnings=(), affine=None):
    dims = array.dim() - 1
    if affine is None:
        affine = np.diag([*np.broadcast_to(spacing, dims), 1.0])
        affine[:dims, dims] = origin
    header = Header(Path(name), tuple(array.shape[1:]), affine, np.dtype(dtype), pixels=pixels, warnings=warnings)
    return Image(array, Grid(array.shape[1:], affine), header)


def only(findings, severity, *words):
    """There is one finding; it has the severity, and says these words."""
    assert [finding.severity for finding in findings] == [severity], findings
    for word in words:
        assert word in str(findings[0])
    assert findings[0].way_out.endswith(".")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_good_pair_has_no_findings(shape):
    fixed, moving = file(picture(shape)), file(picture([s + 5 for s in shape], seed=1), spacing=1.1, origin=-2.0)
    assert preflight(fixed, moving, EXPECTED[len(shape)]) == []
    assert preflight(fixed, moving) == []
    raise_if([], strict=True)


def test_a_good_pair_may_have_any_orientation_and_a_part_of_the_view():
    fixed = file(picture((40, 34, 28)))
    turned = np.array([[0, 0, -1.0, 36], [1, 0, 0, 0], [0, -1, 0, 27], [0, 0, 0, 1]])
    moving = file(picture((34, 28, 40)), affine=turned)
    assert preflight(fixed, moving, EXPECTED[3]) == []
    part = file(fixed.array[:, 5:35, 5:30, 4:24], origin=(5, 5, 4))
    assert preflight(fixed, part, EXPECTED[3]) == []


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(shape, bad):
    array = picture(shape)
    array.flatten()[7] = bad
    only(preflight(file(picture(shape)), file(array, name="m.mha")), "error", "m.mha", "1 voxels", "NaN")


@pytest.mark.parametrize("shape", SHAPES)
def test_constant_images(shape):
    array = torch.full((1, *shape), 7.0)
    only(preflight(file(array, name="f.nrrd"), file(picture(shape))), "error", "f.nrrd", "the same value, 7,")


def test_one_voxel_that_hides_all_others():
    hot = picture((60, 48))
    hot[0, 20, 20] = 1e6
    only(preflight(file(hot, dtype="float32"), file(picture((60, 48)))), "warning", "values of up to 1e+06", "Clip")
    hot[0, 20, 20] = 1e4
    assert preflight(file(hot, dtype="float32"), file(picture((60, 48)))) == []


@pytest.mark.parametrize("shape", [(2, 40, 36), (1, 64)])
def test_sides_of_one_or_two_voxels(shape):
    thick = file(picture((5, 40, 36)[-len(shape) :]))
    for pair in ((file(picture(shape)), thick), (thick, file(picture(shape)))):
        only(preflight(*pair), "error", f"{' × '.join(map(str, shape))} voxels: each side must have 3", "2-D")


def test_wrong_dimension():
    flat, volume = file(picture(SHAPES[0]), name="a.png"), file(picture(SHAPES[1]), name="b.nii")
    only(preflight(flat, volume, EXPECTED[2]), "error", "a.png is 2-D and b.nii 3-D")
    only(preflight(volume, volume, EXPECTED[2]), "error", "b.nii is 3-D; this method takes 2-D", "warpzoo methods")
    with pytest.raises(ValueError, match="3-D; dirnet takes 2-D images only"):
        warpzoo.register(*[picture((20, 18, 16))[0].numpy()] * 2, method="dirnet,svf")


@pytest.mark.parametrize("shape", SHAPES)
def test_no_overlap_and_little_overlap(shape):
    fixed = file(picture(shape))
    away = file(picture(shape), origin=[500.0] + [0.0] * (len(shape) - 1))
    partly = file(picture(shape), origin=[0.7 * shape[0]] + [0.0] * (len(shape) - 1))
    only(preflight(fixed, away), "error", "do not overlap", "500 mm", "Align them roughly first")
    only(preflight(fixed, partly), "warning", "overlap little", "%")
    # an affine that starts from centres finds any placement, and so may one that came before
    assert preflight(fixed, away, {"displacement": float("inf")}) == []
    assert preflight(fixed, away, placed=True) == []


def test_coverage_is_the_share_of_the_field_of_view():
    grid = Grid((40, 50, 20), np.diag([2.0, 1.0, 3.0, 1.0]))
    half = np.diag([2.0, 1.0, 3.0, 1.0])
    half[0, 3] = 40.0
    assert coverage(grid, grid) == 1
    assert coverage(grid, Grid((40, 50, 20), half)) == pytest.approx(0.5, abs=0.02)
    assert coverage(grid, grid.with_spacing(1.0)) == pytest.approx(1, abs=0.05)
    small = grid.affine.copy()
    small[:3, 3] = [20, 10, 15]
    assert coverage(grid, Grid((20, 25, 10), small)) == pytest.approx(1 / 8, abs=0.02)
    assert coverage(Grid((20, 25, 10), small), grid) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_displacement(shape):
    corner = [0.35] + [0.5] * (len(shape) - 1)
    other = [0.65] + [0.5] * (len(shape) - 1)
    fixed, moving = file(picture(shape, corner, 0.2), 2.0), file(picture(shape, other, 0.2), 2.0)
    only(preflight(fixed, moving), "warning", "centres lie", "mm apart", "Align them roughly first")
    assert preflight(fixed, moving, {"displacement": 100}) == []
    only(preflight(fixed, moving, {"displacement": 5}), "warning", "about 5 mm")


@pytest.mark.parametrize(("spacing", "fits"), [(0.2, False), (0.7, True), (2.2, True), (7.0, False)])
def test_spacing_far_from_the_training_data(spacing, fits):
    pair = [file(picture(SHAPES[1]), spacing, name=name) for name in ("f.nii", "m.nii")]
    findings = preflight(*pair, {"spacing": [0.8, 2.0]})
    assert [finding.severity for finding in findings] == ([] if fits else ["warning", "warning"])
    if not fits:
        assert f"m.nii has a spacing of {spacing:.3g} × {spacing:.3g}" in findings[1].message
        assert "0.8 to 2 mm" in findings[1].message
    without = [file(picture(SHAPES[0]), spacing, name=name, pixels=True) for name in ("f.png", "m.png")]
    assert preflight(*without, {"spacing": [0.8, 2.0]}) == []


def test_sizes_far_from_the_training_data():
    large = file(picture((300, 200)), 0.3)
    findings = preflight(large, large, {"size": [32, 128]})
    assert len(findings) == 2
    assert "300 × 200 voxels" in findings[0].message
    assert preflight(large, large, {"size": [64, 256]}) == []


def test_tiny_images():
    array = picture((12, 60, 60))
    only(preflight(file(picture((24, 60, 60))), file(array, (2, 1, 1))), "warning", "tiny, 12 × 60 × 60")


@pytest.mark.parametrize(("dtype", "highest"), [("uint8", 255), ("int16", 32767)])
def test_saturation(dtype, highest):
    array = (picture(SHAPES[0]) / 102 * highest).round()
    fine = file(array.clamp(max=highest - 1), dtype=dtype)
    cut = file((1.3 * array).clamp(max=highest), dtype=dtype, name="cut.png")
    assert preflight(fine, fine) == []
    only(preflight(fine, cut), "warning", "cut.png", f"at {highest}", "cut off")
    assert preflight(fine, file(cut.array, dtype="float32")) == []


def test_headers_without_orientation_and_mixed_units():
    doubtful = file(picture(SHAPES[1]), warnings=("m.nii says nothing of its orientation.",))
    only(preflight(file(picture(SHAPES[1])), doubtful), "warning", "says nothing of its orientation", "swapped")
    pixels = file(picture(SHAPES[0]), pixels=True, name="p.png")
    only(preflight(pixels, file(picture(SHAPES[0]), name="m.nii")), "warning", "p.png has no physical spacing", "m.nii")


@pytest.mark.parametrize("shape", [(120, 100), (48, 44, 40)])
def test_images_that_show_very_different_amounts(shape):
    full, dot = file(picture(shape, radius=0.5)), file(picture(shape, radius=0.05), name="dot.nii")
    findings = preflight(full, dot)
    assert [finding.severity for finding in findings] == ["warning"]
    assert "times as much" in findings[0].message or "nearly empty" in findings[0].message
    array = torch.zeros(1, *shape)
    array.flatten()[1234] = 5
    findings = preflight(full, file(array, name="empty.nii"), {"displacement": 1000})
    only(findings, "warning", "empty.nii is nearly empty")


def test_errors_are_raised_and_warnings_if_strict():
    warning = Finding("warning", "It is odd.", "Mend it.")
    error = Finding("error", "It is broken.", "Replace it.")
    raise_if([warning])
    with pytest.raises(ValueError, match=r"^It is odd\. Mend it\. .*strict"):
        raise_if([warning], strict=True)
    with pytest.raises(ValueError, match=r"^It is broken\. Replace it\.$"):
        raise_if([warning, error])
    with pytest.raises(ValueError, match=r"odd.*broken"):
        raise_if([warning, error], strict=True)


def test_axes_that_are_not_at_right_angles_are_said():
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    fixed, moving = picture((40, 34, 28)), picture((40, 34, 28))
    only(preflight(file(fixed, affine=sheared), file(moving)), "warning", "not at right angles")
    assert not preflight(file(fixed), file(moving, affine=sheared))
