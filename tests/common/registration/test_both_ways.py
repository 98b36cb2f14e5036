"""A pair that is registered both ways: where there and back do not meet, one of both is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

import warpzoo
from warpzoo.geometry.composition import identity
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, DisplacementField, Transform
from warpzoo.images.image import Image
from warpzoo.registration.both_ways import register_both_ways
from warpzoo.registration.guidance import Guidance

from .conftest import smooth


class Found:
    """A method that knows its answers: one for each side of a pair."""

    name = "known"
    expectations: dict = {}

    def __init__(self, **answers: Transform) -> None:
        self.answers = answers

    def __call__(
        self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance | None = None
    ) -> Transform:
        return self.answers[fixed.header.path.stem]


def image(name: str, spacing: tuple[float, ...] = (1.0, 1.0)) -> Image:
    array = torch.from_numpy(smooth((30, 34)).astype(np.float32))[None]
    return Image.in_memory(array, Grid((30, 34), np.diag([*spacing, 1.0])), name)


def shift(grid: Grid, *world: float) -> Affine:
    matrix = torch.cat([torch.eye(grid.dims), torch.tensor(world)[:, None]], 1)
    return Affine.from_world(matrix[None].double(), grid)


def test_it_is_a_length_in_the_world_and_unknown_outside() -> None:
    fixed, moving = (image(name, (2.0, 1.0)) for name in ("fixed", "moving"))
    method = Found(fixed=shift(fixed.grid, 6, 0), moving=shift(moving.grid, -3, 4))
    found = register_both_ways(fixed, moving, [method])
    apart = found.disagreement
    assert torch.isnan(apart[-3:]).all()
    assert torch.allclose(apart[:-3], torch.tensor(5.0))
    assert found.metrics["disagreement"] == pytest.approx(5)
    assert found.metrics["disagreement_95"] == pytest.approx(5)


def test_a_field_goes_there_and_back_as_sitk_says() -> None:
    fixed, moving = (image(name) for name in ("fixed", "moving"))
    random = np.random.default_rng(0)
    fields = [ndimage.gaussian_filter(random.normal(size=(2, 30, 34)), (0, 4, 4)) * 8 for _ in range(2)]
    there, back = (DisplacementField(torch.from_numpy(one)[None].float(), fixed.grid) for one in fields)
    found = register_both_ways(fixed, moving, [Found(fixed=there, moving=back)])
    transforms = []
    for field in fields:
        vectors = sitk.GetImageFromArray(np.moveaxis(field[::-1], 0, -1).astype(np.float64), isVector=True)
        transforms.append(sitk.DisplacementFieldTransform(vectors))
    for row, column in ((12, 9), (20, 25), (15, 17)):
        home = np.array([column, row], float)
        reached = transforms[1].TransformPoint(transforms[0].TransformPoint(home))
        assert float(found.disagreement[row, column]) == pytest.approx(np.linalg.norm(reached - home), abs=1e-4)


def test_an_exact_inverse_agrees() -> None:
    fixed, moving = (image(name) for name in ("fixed", "moving"))
    there = shift(fixed.grid, 1.5, -2)
    found = register_both_ways(fixed, moving, [Found(fixed=there, moving=there.inverse())])
    assert found.metrics["disagreement_95"] < 1e-4


def test_it_is_more_where_the_registration_is_wrong() -> None:
    """Half of the moving image shows something else than the fixed one: there is nothing right to be found there."""
    fixed = smooth((64, 60))
    moving = np.roll(fixed, 2, 0)
    moving[:, 30:] = smooth((64, 60), 5)[:, 30:]
    found = warpzoo.register(fixed, moving, method="svf", both_ways=True)
    apart = found.disagreement.numpy()[8:-8]
    assert np.nanmean(apart[:, 38:-6]) > 3 * np.nanmean(apart[:, 6:22])


def test_masks_and_starts_change_sides() -> None:
    starts, masks = {}, {}

    class Kept(Found):
        def __call__(
            self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance | None = None
        ) -> Transform:
            assert guidance is not None
            starts[fixed.header.path.stem], masks[fixed.header.path.stem] = start, set(guidance.masks)
            return start or identity(fixed.grid)

    fixed, moving = (image(name) for name in ("fixed", "moving"))
    known, guidance = shift(fixed.grid, 3, 1), Guidance({"fixed": fixed})
    found = register_both_ways(fixed, moving, [Kept()], known, guidance=guidance)
    assert masks == {"fixed": {"fixed"}, "moving": {"moving"}}
    turned = starts["moving"]
    assert isinstance(turned, Affine)
    assert torch.allclose(turned.world_matrix(), known.inverse().world_matrix())
    assert found.metrics["disagreement"] < 1e-4


def test_the_command_writes_the_map(warpzoo: Callable, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.nii.gz" for number in range(2)]
    for number, path in enumerate(files):
        nibabel.save(nibabel.Nifti1Image(np.roll(smooth((24, 22, 20)), number, 0), np.diag([2, 2, 3, 1])), path)
    ended = warpzoo("register", *files, "--method", "rigid", "--both_ways", "--output", tmp_path / "out")
    assert ended.code == 0
    written = np.asarray(nibabel.load(tmp_path / "out/disagreement.nii.gz").dataobj)
    numbers = json.loads((tmp_path / "out/metrics.json").read_text())
    assert written.shape == (24, 22, 20)
    assert numbers["disagreement"] == pytest.approx(np.nanmean(written), rel=1e-3)
    assert numbers["settings"]["both_ways"] is True
    assert "the other way round" in numbers["seconds"]
    assert "Where not to believe it" in (tmp_path / "out/report.html").read_text()
    again = warpzoo("register", *files, "--method", "rigid", "--output", tmp_path / "out")
    assert again.code == 0
    assert not (tmp_path / "out/disagreement.nii.gz").exists()
    assert "Where not to believe it" not in (tmp_path / "out/report.html").read_text()


def test_it_must_be_asked_for() -> None:
    found = warpzoo.register(smooth((24, 20)), smooth((24, 20)), method="rigid")
    with pytest.raises(ValueError, match="both_ways must be given"):
        _ = found.disagreement
    with pytest.raises(ValueError, match="both_ways must be true or false, got 'perhaps'"):
        warpzoo.register(smooth((24, 20)), smooth((24, 20)), method="rigid", both_ways="perhaps")  # type: ignore[arg-type]
