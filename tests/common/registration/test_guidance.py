"""Masks and initial transforms: nothing outside a mask is seen, and SimpleITK finds the same with the same masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import nn

import warpzoo
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.transforms import Affine
from warpzoo.images.image import Image, read_image
from warpzoo.losses import Diffusion, MSELoss, MultiResolutionLoss
from warpzoo.registration.budget import Budget
from warpzoo.registration.computing import computing
from warpzoo.registration.descent import Descent
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.network import adapted
from warpzoo.registration.optimisation import Optimisation, Refinement
from warpzoo.registration.pair import register_pair
from warpzoo.registration.similarities import SIMILARITIES
from warpzoo.training.objectives import MultiResolutionObjective, RegistrationObjective
from warpzoo.transforms.landmarks import Landmarks

from .conftest import Ended, oblique, save, smooth

Call = Callable[..., Ended]
SHAPE = (72, 60)


def disc(centre: tuple[float, ...], radius: float, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    lattice = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return (((lattice - np.array(centre)) ** 2).sum(-1) < radius**2).astype(np.float32)


@pytest.fixture
def distracted(tmp_path: Path) -> dict[str, Path]:
    """A body that turns and shifts, and a bright thing over it that moves elsewhere; masks without that thing."""
    body = np.pad(smooth((48, 40)), [(12, 12), (10, 10)]).astype(np.float32)
    truth = sitk.Euler2DTransform((-35.5, -29.5), np.deg2rad(6), (3.0, -2.0))
    still, moved = (save(tmp_path / f"{name}.nii.gz", body) for name in ("fixed", "moving"))
    image = sitk.ReadImage(str(still))
    sitk.WriteImage(sitk.Resample(image, image, truth, sitk.sitkLinear, 0.0), str(moved))
    sitk.WriteTransform(truth.GetInverse(), str(tmp_path / "truth.tfm"))
    files = {"fixed": still, "moving": moved, "truth": tmp_path / "truth.tfm"}
    for side, thing in (("fixed", disc((26, 38), 9)), ("moving", disc((50, 22), 9))):
        values = nibabel.load(files[side]).get_fdata()
        save(files[side], np.where(thing > 0, 9000, values).astype(np.float32))
        files[f"{side}_mask"] = save(
            tmp_path / f"{side}_mask.nii.gz", 1 - ndimage.binary_dilation(thing > 0).astype(np.uint8)
        )
    return files


def distance(one: sitk.Transform, other: sitk.Transform) -> float:
    """Mean distance of two transforms over the body, in voxels of 1 mm."""
    points = [(-float(x), -float(y)) for x in range(14, 58, 4) for y in range(12, 48, 4)]
    return float(
        np.mean(
            [
                np.subtract(one.TransformPoint(p), other.TransformPoint(p)).dot(
                    np.subtract(one.TransformPoint(p), other.TransformPoint(p))
                )
                ** 0.5
                for p in points
            ]
        )
    )


def by_simpleitk(files: dict[str, Path], initial: sitk.Transform) -> sitk.Transform:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    for side, use in (("fixed", method.SetMetricFixedMask), ("moving", method.SetMetricMovingMask)):
        use(sitk.ReadImage(str(files[f"{side}_mask"])))
    method.SetOptimizerAsRegularStepGradientDescent(0.5, 1e-5, 500)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(initial, inPlace=False)
    return method.Execute(*(sitk.ReadImage(str(files[side]), sitk.sitkFloat32) for side in ("fixed", "moving")))


def by_ants(files: dict[str, Path], initial: Path) -> sitk.Transform:
    ants = pytest.importorskip("ants")
    images = {name: ants.image_read(str(path)) for name, path in files.items() if name != "truth"}
    found = ants.registration(
        images["fixed"],
        images["moving"],
        "Rigid",
        initial_transform=str(initial),
        mask=images["fixed_mask"],
        moving_mask=images["moving_mask"],
        mask_all_stages=True,
        aff_metric="GC",
        aff_sampling=1,
        aff_random_sampling_rate=1,
        random_seed=1,
    )
    return sitk.ReadTransform(found["fwdtransforms"][-1])


def test_masks_and_a_start_agree_with_ants(distracted: dict[str, Path], tmp_path: Path) -> None:
    initial = sitk.Euler2DTransform((-35.5, -29.5), np.deg2rad(-3), (0.0, 0.0))
    sitk.WriteTransform(initial, str(tmp_path / "initial.mat"))
    files = {name: str(path) for name, path in distracted.items() if name != "truth"}
    result = warpzoo.register(files.pop("fixed"), files.pop("moving"), "rigid", start=tmp_path / "initial.mat", **files)
    ours = sitk.ReadTransform(str(result.transform.save(tmp_path / "ours.tfm")))
    # its threads make ANTs end elsewhere at each run, up to 0.07 voxels from the truth
    assert any(distance(ours, by_ants(distracted, tmp_path / "initial.mat")) < 0.1 for _ in range(3))


def test_masks_and_a_start_agree_with_itk(warpzoo: Call, distracted: dict[str, Path], tmp_path: Path) -> None:
    initial = sitk.Euler2DTransform((-35.5, -29.5), np.deg2rad(-3), (0.0, 0.0))
    sitk.WriteTransform(initial, str(tmp_path / "initial.tfm"))
    truth, theirs = sitk.ReadTransform(str(distracted["truth"])), by_simpleitk(distracted, initial)
    images = [f"--{name}={distracted[name]}" for name in ("fixed", "moving")]
    masks = [f"--{side}_mask={distracted[f'{side}_mask']}" for side in ("fixed", "moving")]
    options = ["--method=rigid", "--noreport", f"--initial={tmp_path / 'initial.tfm'}"]
    found = {}
    for name, others in {"both": masks, "none": []}.items():
        ended = warpzoo("register", *images, *options, *others, "--output", tmp_path / name)
        assert ended.code == 0, ended.err
        found[name] = sitk.ReadTransform(str(tmp_path / name / "transform.tfm"))
        assert ("inside the masks" in ended.out) == (name == "both")
    assert distance(theirs, truth) < 0.1
    assert distance(found["both"], truth) < 0.1
    assert distance(found["both"], theirs) < 0.1
    assert distance(found["none"], truth) > 0.5


def masked_pair(dims: int) -> tuple[Image, Image, Guidance]:
    """Two images on different grids with something to see everywhere, and masks that leave out a part of each."""
    shapes = ((40, 36), (44, 38)) if dims == 2 else ((22, 20, 18), (20, 24, 18))
    images, masks = [], {}
    for number, (side, shape) in enumerate(zip(("fixed", "moving"), shapes, strict=True)):
        grid = Grid(shape, np.diag([1.0 + 0.1 * number] * dims + [1.0]))
        images.append(Image.in_memory(torch.from_numpy(smooth(shape, 3)[None].astype(np.float32)), grid, side))
        mask = 1 - disc(tuple(0.3 * size for size in shape), 0.2 * shape[0], shape)
        masks[side] = Image.in_memory(torch.from_numpy(mask[None]), grid, f"{side} mask")
    return images[0], images[1], Guidance(masks)


@pytest.mark.parametrize(
    ("method", "dims"),
    [
        *[(Optimisation(name, budget=Budget(12)), 2) for name in ("rigid", "affine", "ffd", "svf")],
        *[(Optimisation("affine", similarity, Budget(12)), 2) for similarity in ("lncc", "mse", "mi")],
        *[(Optimisation("svf", similarity, Budget(12)), 2) for similarity in ("ncc", "mse", "mi", "mind")],
        *[(Optimisation(name, budget=Budget(8)), 3) for name in ("rigid", "svf")],
        (Refinement(Budget(8)), 2),
    ],
    ids=lambda one: one if isinstance(one, int) else f"{one.name}-{one.similarity}",
)
def test_nothing_outside_the_masks_is_seen(method: Optimisation | Refinement, dims: int) -> None:
    fixed, moving, guidance = masked_pair(dims)
    expected = register_pair(fixed, moving, [method], guidance=guidance).transform.field(fixed.grid)
    others = []
    for image, mask in ((fixed, guidance.masks["fixed"]), (moving, guidance.masks["moving"])):
        noise = 9000 * torch.rand_like(image.array)
        others.append(Image(torch.where(mask.array > 0, image.array, noise), image.grid, image.header))
    found = register_pair(*others, [method], guidance=guidance).transform.field(fixed.grid)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    unmasked = register_pair(*others, [method]).transform.field(fixed.grid)
    assert (unmasked - expected).abs().max() > 1e-3


class Shift(nn.Module):
    """A network whose two parameters are the displacement."""

    coarsest = 2

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([0.4, -0.3]))

    def levels(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.shift.view(1, 2, 1, 1).expand(len(image), 2, *image.shape[2:]) / scale for scale in (1, 2)][:1]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        field = self.levels(image)[0]
        return torch.cat([warp(image[:, :1], field), field], 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_not_a_number_outside_the_masks_is_not_seen(dims: int) -> None:
    shape = (40, 36, 32)[:dims]
    body = np.pad(smooth([side - 12 for side in shape]), 6).astype(np.float32)
    images = {"fixed": body, "moving": np.roll(body, 2, 0)}
    masks = {side: np.roll(np.pad(np.ones([n - 8 for n in shape]), 4), 2 * (side == "moving"), 0) for side in images}
    broken = {side: np.where(masks[side] > 0, image, np.nan) for side, image in images.items()}
    given = {f"{side}_mask": mask for side, mask in masks.items()}
    found = warpzoo.register(broken["fixed"], broken["moving"], "affine,svf", **given)
    whole = warpzoo.register(images["fixed"], images["moving"], "affine,svf", **given)
    inside = masks["fixed"] > 0
    assert np.isfinite(found.warped).all()
    np.testing.assert_allclose(found.warped[inside], whole.warped[inside], atol=0.02 * float(body.max()))
    assert found.metrics["ncc_inside"] == pytest.approx(whole.metrics["ncc_inside"], abs=1e-3)
    broken["moving"][tuple(side // 2 for side in shape)] = np.nan
    with pytest.raises(ValueError, match="moving has .* voxels that are NaN or infinite.*leave them out by a mask"):
        warpzoo.register(broken["fixed"], broken["moving"], "affine", **given)


@pytest.mark.parametrize("several", [False, True])
def test_adaptation_compares_within_the_masks(several: bool) -> None:
    """What is outside the masks has no say in where training on the pair leads."""

    def objective(network: nn.Module) -> nn.Module:
        if several:
            return MultiResolutionObjective(network, MultiResolutionLoss(MSELoss(), Diffusion(), [1.0]))
        return RegistrationObjective(network, MSELoss(), symmetric=True)

    image = torch.from_numpy(np.stack([smooth((40, 36), 3), smooth((40, 36), 3)])[None]).float() / 3000
    mask = torch.from_numpy(1 - disc((12, 12), 7, (40, 36))).expand(1, 2, -1, -1)
    noisy = torch.where(mask > 0, image, torch.rand_like(image))

    def trained(seen: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
        with Descent(Budget(10), "adapt") as descent:
            return adapted(Shift(), objective, seen, descent, counted).shift.detach()

    grown = torch.nn.functional.max_pool2d(1 - mask, 5, 1, 2)  # interpolation reads neighbours
    inner = 1 - grown
    torch.testing.assert_close(trained(noisy, inner), trained(image, inner), rtol=0, atol=1e-7)
    assert (trained(noisy, None) - trained(image, None)).abs().max() > 1e-6


def test_metrics_inside_and_outside() -> None:
    fixed, moving, guidance = masked_pair(2)
    for masks in (guidance.masks, {"moving": guidance.masks["moving"]}, {"fixed": guidance.masks["fixed"]}):
        registration = register_pair(fixed, moving, [], guidance=Guidance(masks))
        scale = 1 / 1.1
        positions = np.stack(np.meshgrid(np.arange(40), np.arange(36), indexing="ij")) * scale
        inside = np.ones((40, 36), bool)
        if "moving" in masks:
            weight = ndimage.map_coordinates(masks["moving"].array[0].numpy(), positions, order=1)
            inside &= weight > 1 - 1e-5  # no voxel beyond the mask has a part in the warped one
        if "fixed" in masks:
            inside &= masks["fixed"].array[0].numpy() > 0
        warped = ndimage.map_coordinates(moving.array[0].numpy(), positions, order=1)
        for name, where in (("inside", inside), ("outside", ~inside)):
            expected = np.corrcoef(fixed.array[0].numpy()[where], warped[where])[0, 1]
            assert registration.metrics[f"ncc_{name}"] == pytest.approx(expected, abs=1e-4)
    assert "ncc_inside" not in register_pair(fixed, moving, []).metrics


def test_metrics_inside_and_likeness_see_nothing_outside_the_masks() -> None:
    fixed, moving, guidance = masked_pair(3)
    shift = Affine.from_world(torch.eye(3, 4, dtype=torch.float64)[None] + 0.03, fixed.grid)
    found = []
    for value in (None, 1e6):
        images = [
            image if value is None else replace(image, array=image.array.where(guidance.masks[side].array > 0, value))
            for side, image in (("fixed", fixed), ("moving", moving))
        ]
        registration = register_pair(*images, [Optimisation("rigid", budget=Budget(1))], start=shift, guidance=guidance)
        alike = registration.likeness["start"]
        found.append([registration.metrics["ncc_inside"], alike.windows, alike.information])
    np.testing.assert_allclose(found[1], found[0], rtol=2e-3)


def test_few_voxels_in_masks_do_not_share_much_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other, mask = torch.rand(3, 1, 1, 12, 14, 11, generator=generator)
    mask = (mask < 0.5).float()
    shared = SIMILARITIES["mi"](one, other, mask)
    assert shared < 0.04 * SIMILARITIES["mi"](one, one, mask)


def test_a_mask_of_another_grid_is_resampled_and_said(warpzoo: Call, tmp_path: Path) -> None:
    affine = oblique([1.5, 1.2, 2.0], [-30.0, -25, -20], 12)
    for name, seed in (("fixed", 3), ("moving", 4)):
        save(tmp_path / f"{name}.nii.gz", smooth((24, 22, 20), seed).astype(np.float32), affine)
    like = save(tmp_path / "mask.nii.gz", np.ones((30, 30, 30), np.uint8), oblique([1, 1, 1], [-20, -20, -15], 5))
    files = [tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"]
    ended = warpzoo(
        "register", *files, "--fixed_mask", like, "--method=rigid", "--output", tmp_path / "out", "--noreport"
    )
    assert ended.code == 0, ended.err
    assert "mask.nii.gz has another grid" in ended.out
    assert any("another grid" in one for one in json.loads((tmp_path / "out/metrics.json").read_text())["warnings"])
    mask = sitk.Resample(
        sitk.ReadImage(str(like)), sitk.ReadImage(str(files[0])), sitk.Transform(), sitk.sitkNearestNeighbor
    )
    fitted, _ = Guidance({"fixed": read_image(like)}).fitted(*map(read_image, files))
    np.testing.assert_array_equal(fitted.masks["fixed"].array[0].numpy(), sitk.GetArrayFromImage(mask).T)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fixed_mask=empty.nii.gz"], "empty.nii.gz must have a voxel above 0, got an empty mask"),
        (["--moving_mask=empty.nii.gz"], "empty.nii.gz must have a voxel above 0, got an empty mask"),
        (["--fixed_mask=volume.nii.gz"], "volume.nii.gz must be 2-D as a.nii.gz is, got a 3-D mask"),
        (["--fixed_mask=far.nii.gz"], "far.nii.gz must have a voxel above 0 in a.nii.gz, got none there"),
        (["--fixed_mask=none.nii.gz"], "none.nii.gz does not exist"),
        (["--initial=three.tfm"], "three.tfm must be 2-D as a.nii.gz is, got a 3-D transform"),
        (["--initial=three.tfm,two.tfm"], "transforms must have the same number of axes"),
        (["--initial=two.tfm,none.tfm"], "none.tfm does not exist"),
        (["--interpolation=bicubic"], "interpolation must be one of linear, cubic, nearest, got 'bicubic'"),
        (["--outside=dark"], "outside must be a number, got 'dark'"),
        (["--save=warped,pictures"], "save must be some of warped, transform, displacement, report and inverse"),
        (["--initial=away.tfm"], "under the initial transform a.nii.gz lies nowhere in b.nii.gz"),
        (["--initial=away.tfm", "--method=svf"], "under the initial transform a.nii.gz lies nowhere in b.nii.gz"),
        (["--initial=flat.tfm"], "the initial transform takes all points to a plane"),
        (["--initial=two.tfm,"], "initial must be files joined by single commas, got 'two.tfm,'"),
        (["--fixed_mask="], "fixed_mask must name a file, got an empty text"),
        (["--also="], "also must name a file, got an empty text"),
        (["--threads=100000"], "threads must be"),
        ([f"--seed={2**64}"], "seed must be"),
        (["--fixed_mask=left.nii.gz", "--moving_mask=right.nii.gz", "--method=svf"], "masks must meet"),
    ],
)
def test_bad_input_is_one_sentence(
    warpzoo: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        save(tmp_path / f"{name}.nii.gz", smooth((40, 36), seed).astype(np.float32))
    save(tmp_path / "empty.nii.gz", np.zeros((40, 36), np.uint8))
    save(tmp_path / "volume.nii.gz", np.ones((20, 20, 20), np.uint8))
    save(
        tmp_path / "far.nii.gz",
        np.ones((40, 36), np.uint8),
        np.array([[1, 0, 0, 500], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    )
    half = np.arange(40)[:, None] * np.ones(36)
    save(tmp_path / "left.nii.gz", (half < 16).astype(np.uint8))
    save(tmp_path / "right.nii.gz", (half > 24).astype(np.uint8))
    sitk.WriteTransform(sitk.TranslationTransform(2, (1, 2)), str(tmp_path / "two.tfm"))
    sitk.WriteTransform(sitk.TranslationTransform(2, (500, 0)), str(tmp_path / "away.tfm"))
    flat = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_2_2\n"
    (tmp_path / "flat.tfm").write_text(f"{flat}Parameters: 0 0 0 0 0 0\nFixedParameters: 0 0\n")
    sitk.WriteTransform(sitk.TranslationTransform(3, (1, 2, 3)), str(tmp_path / "three.tfm"))
    ended = warpzoo("register", "a.nii.gz", "b.nii.gz", "--method=rigid", *arguments)
    assert ended.code == 1
    assert ended.err.startswith(("warpzoo register: ",))
    assert len(ended.err.strip().splitlines()) == 1
    assert words in ended.err
    assert not (tmp_path / "registered").exists() or not list((tmp_path / "registered").iterdir())


def test_a_mask_that_steers_nothing_is_said(warpzoo: Call, make_bundle: Call, tmp_path: Path) -> None:
    make_bundle("shift", [1.0, 0.0])
    image = save(tmp_path / "a.nii.gz", smooth((40, 36)).astype(np.float32))
    mask = save(tmp_path / "m.nii.gz", np.ones((40, 36), np.uint8))
    options = ("register", image, image, "--fixed_mask", mask, "--method=shift", "--noreport", "--output", tmp_path)
    assert "masks and landmarks only count in the metrics" in warpzoo(*options).out
    for other in ("--refine=2", "--adapt=2"):
        assert "only count in the metrics" not in warpzoo(*options, other).out


def test_a_list_has_masks_and_starts(warpzoo: Call, tmp_path: Path) -> None:
    content = np.pad(smooth((40, 36)), 8).astype(np.float32)
    save(tmp_path / "a.nii.gz", content)
    save(tmp_path / "b.nii.gz", ndimage.shift(content, (4, 0), order=1))
    save(tmp_path / "m.nii.gz", (content > 0).astype(np.uint8))
    sitk.WriteTransform(sitk.TranslationTransform(2, (-3, 0)), str(tmp_path / "one.tfm"))
    sitk.WriteTransform(sitk.TranslationTransform(2, (-1, 0)), str(tmp_path / "two.tfm"))
    columns = "fixed,moving,fixed_mask,moving_mask,initial"
    rows = columns, 'a.nii.gz,b.nii.gz,m.nii.gz,,"one.tfm,two.tfm"', "a.nii.gz,b.nii.gz,,,"
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    options = (
        "register",
        "--pairs",
        tmp_path / "pairs.csv",
        "--method=rigid",
        "--output",
        tmp_path / "out",
        "--noreport",
    )
    ended = warpzoo(*options)
    assert ended.code == 0, ended.err
    numbers = json.loads((tmp_path / "out/1/metrics.json").read_text())
    assert numbers["files"]["initial"] == ["../../one.tfm", "../../two.tfm"]
    assert numbers["ncc_inside"] > 0.99 > numbers["ncc_inside_before"]
    assert "ncc_inside" not in json.loads((tmp_path / "out/2/metrics.json").read_text())
    assert "2 of 2 pairs are done already" in warpzoo(*options).out


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["matrices", "deformation"])
def test_an_initial_transform_is_gone_on_from(warpzoo: Call, tmp_path: Path, dims: int, kind: str) -> None:
    """Any of ITK's transforms; with nothing left to find, the result is their composition."""
    shape = (40, 36, 22)[:dims]
    affine = np.diag([-1.5, -1.2, 2.0, 1.0]) if dims == 3 else np.diag([-1.5, -1.2, 1, 1])
    fixed = save(tmp_path / "fixed.nii.gz", np.pad(smooth(tuple(s - 10 for s in shape)), 5).astype(np.float32), affine)
    centre = [0.5 * (size - 1) * side for size, side in zip(shape, (1.5, 1.2, 2.0), strict=False)]
    first = sitk.AffineTransform(dims)
    first.SetCenter(centre)
    first.Rotate(0, 1, 0.5)
    second: sitk.Transform = sitk.TranslationTransform(dims, [6.0, -5, 4][:dims])
    if kind == "deformation":
        second = sitk.BSplineTransformInitializer(sitk.ReadImage(str(fixed)), [3] * dims)
        second.SetParameters(np.random.default_rng(0).normal(0, 1.5, len(second.GetParameters())).tolist())
    sitk.WriteTransform(first, str(tmp_path / "first.tfm"))
    sitk.WriteTransform(second, str(tmp_path / "second.tfm"))
    both = sitk.CompositeTransform([second, first])  # the last one is applied first
    field = sitk.TransformToDisplacementField(
        both,
        sitk.sitkVectorFloat64,
        sitk.ReadImage(str(fixed)).GetSize(),
        *(getattr(sitk.ReadImage(str(fixed)), name)() for name in ("GetOrigin", "GetSpacing", "GetDirection")),
    )
    inverse = sitk.InvertDisplacementField(field, 100) if kind == "deformation" else None
    back = sitk.DisplacementFieldTransform(inverse) if inverse is not None else both.GetInverse()
    image = sitk.ReadImage(str(fixed))
    sitk.WriteImage(sitk.Resample(image, image, back, sitk.sitkLinear, 0.0), str(tmp_path / "moving.nii.gz"))
    ended = warpzoo(
        "register",
        fixed,
        tmp_path / "moving.nii.gz",
        "--method=rigid",
        "--noreport",
        "--output",
        tmp_path / "out",
        f"--initial={tmp_path / 'first.tfm'},{tmp_path / 'second.tfm'}",
    )
    assert ended.code == 0, ended.err
    written = tmp_path / "out" / ("transform.tfm" if kind == "matrices" else "transform.h5")
    found = sitk.ReadTransform(str(written))
    inner = [slice(8, -8)] * dims
    points = [
        image.TransformIndexToPhysicalPoint([int(i) for i in index])
        for index in np.argwhere(np.ones(shape))
        if all(8 <= i < size - 8 for i, size in zip(index, shape, strict=True))
    ][::13]
    missed = [np.subtract(found.TransformPoint(p), both.TransformPoint(p)) for p in points]
    assert np.linalg.norm(missed, axis=1).mean() < 0.15, inner
    # and what was written is what SimpleITK makes of it
    resampled = sitk.Resample(sitk.ReadImage(str(tmp_path / "moving.nii.gz")), image, found, sitk.sitkLinear, 0.0)
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out/warped.nii.gz")))
    close = np.abs(warped - sitk.GetArrayFromImage(resampled)) < 3
    assert close.mean() > 0.98


def test_a_slice_starts_from_its_own_transform(warpzoo: Call, tmp_path: Path) -> None:
    """The 3-D files that volumes of one slice get can be gone on from, matrices as matrices."""
    affine = oblique([1.5, 1.2, 5.0], [10.0, -20, 30], 20)
    content = np.pad(smooth((40, 36)), 8)[:, :, None].astype(np.float32)
    fixed = save(tmp_path / "fixed.nii.gz", content, affine)
    moving = save(tmp_path / "moving.nii.gz", ndimage.shift(content, (4, 3, 0), order=1), affine)
    for method, name in (("rigid", "transform.tfm"), ("svf", "transform.h5")):
        first, second = tmp_path / f"{method} 1", tmp_path / f"{method} 2"
        options = ("register", fixed, moving, "--noreport")
        assert warpzoo(*options, "--method", method, "--output", first).code == 0
        ended = warpzoo(*options, "--method=rigid", "--initial", first / name, "--output", second)
        assert ended.code == 0, ended.err
        assert (second / name).exists()
        one, two = (nibabel.load(folder / "warped.nii.gz").get_fdata() for folder in (first, second))
        assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.999


def test_masks_and_starts_from_python(distracted: dict[str, Path]) -> None:
    """The same as arrays, in Compose and from files."""
    arrays = {
        name: nibabel.load(path).get_fdata(dtype=np.float32) for name, path in distracted.items() if name != "truth"
    }
    options = {f"{side}_mask": arrays[f"{side}_mask"] > 0 for side in ("fixed", "moving")}
    by_array = warpzoo.register(arrays["fixed"], arrays["moving"], "rigid", **options)
    files = {name: str(path) for name, path in distracted.items() if name != "truth"}
    by_file = warpzoo.register(files.pop("fixed"), files.pop("moving"), "rigid", **files)
    torch.testing.assert_close(by_array.warped, by_file.warped.array[0].numpy(), rtol=0, atol=30)
    data = warpzoo.Registerd(["m"], "f", "rigid", **options)({"f": arrays["fixed"], "m": arrays["moving"]})
    np.testing.assert_array_equal(data["m"], by_array.warped)
    with pytest.raises(ValueError, match="fixed_mask must have the shape|fixed_mask must"):
        warpzoo.register(arrays["fixed"], arrays["moving"], "rigid", fixed_mask=np.ones((3, 3, 3, 3)))
    volume = smooth((20, 20, 20))
    start = warpzoo.register(volume, volume, "rigid").transform
    with pytest.raises(ValueError, match="start must be 2-D as the images are, got a 3-D transform"):
        warpzoo.register(arrays["fixed"], arrays["moving"], "rigid", start=start)
    assert isinstance(by_array.transform.transform, Affine)


def landmarks_pair(dims: int) -> tuple[Image, Image, np.ndarray, np.ndarray]:
    """Images on different grids, and landmarks of both in the world that an affine map nearly takes to one another."""
    random = np.random.default_rng(0)
    fixed, moving, _ = masked_pair(dims)
    inner = np.array(fixed.grid.shape) * 0.2
    points = random.uniform(inner, np.array(fixed.grid.shape) - inner, (12, dims))
    matrix = np.eye(dims) + random.normal(0, 0.05, (dims, dims))
    return fixed, moving, points, points @ matrix.T + 1.5 + random.normal(0, 0.3, points.shape)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", ["rigid", "affine"])
def test_heavy_landmarks_decide_as_least_squares_do(method: str, dims: int) -> None:
    """Numpy's least squares for affine maps, Kabsch's rotation for rigid ones."""
    fixed, moving, here, there = landmarks_pair(dims)
    if method == "affine":
        design = np.hstack([here, np.ones((len(here), 1))])
        expected = design @ np.linalg.lstsq(design, there, rcond=None)[0]
    else:
        left, _, right = np.linalg.svd((there - there.mean(0)).T @ (here - here.mean(0)))
        turn = left @ np.diag([*[1] * (dims - 1), np.linalg.det(left @ right)]) @ right
        expected = (here - here.mean(0)) @ turn.T + there.mean(0)
    points = {
        side: Landmarks(torch.from_numpy(values), ({},) * len(values))
        for side, values in (("fixed", here), ("moving", there))
    }
    found = register_pair(
        fixed, moving, [Optimisation(method)], guidance=Guidance(points=points, landmarks_weight=1e4)
    ).transform
    np.testing.assert_allclose(found.world(torch.from_numpy(here))[0], expected, atol=0.1)


@pytest.mark.parametrize("method", ["svf", "ffd", "affine,svf"])
def test_landmarks_drive_deformations(warpzoo: Call, tmp_path: Path, method: str) -> None:
    """What the images do not show (a plain field) the landmarks do, also from a start and within refinement."""
    image = disc((24, 22), 12, (48, 44)) + 0.5 * disc((14, 12), 5, (48, 44))
    fixed = save(tmp_path / "fixed.nii.gz", ndimage.gaussian_filter(image, 1), np.diag([2.0, 2, 1, 1]))
    here = np.array([[40.0, 36], [48, 44], [56, 52], [44, 52]])
    shift = np.array([[2.0, 1], [1.5, 1.5], [2, 1], [2, 1.5]])
    for name, points in (("fixed", here), ("moving", here + shift)):
        rows = "\n".join(f"{x},{y}" for x, y in points)
        (tmp_path / f"{name}.csv").write_text(f"x,y\n{rows}\n")
    options = ("register", fixed, fixed, f"--method={method}", "--noreport")
    options += tuple(f"--{side}_points={tmp_path / side}.csv" for side in ("fixed", "moving"))
    errors = []
    for weight in (0, 0.5):
        ended = warpzoo(*options, f"--landmarks_weight={weight}", "--output", tmp_path / str(weight))
        assert ended.code == 0, ended.err
        errors.append(json.loads((tmp_path / str(weight) / "metrics.json").read_text())["tre"])
    assert errors[0] > 2
    assert errors[1] < 0.6


def test_landmarks_weight_is_checked(warpzoo: Call, tmp_path: Path) -> None:
    image = save(tmp_path / "a.nii.gz", smooth((40, 36)).astype(np.float32))
    options = ("register", image, image, "--method=rigid", "--output", tmp_path / "out")
    for weight, words in (("0.1", "fixed_points and moving_points must be given"), ("-1", "landmarks_weight must be")):
        ended = warpzoo(*options, f"--landmarks_weight={weight}")
        assert ended.code == 1
        assert words in ended.err
    for name, value in (("threads", 0), ("seed", -1)):
        assert f"{name} must be a whole number" in warpzoo(*options, f"--{name}={value}").err
    assert not (tmp_path / "out").exists()


def test_threads_are_given_back() -> None:
    before, state = torch.get_num_threads(), torch.get_rng_state()
    with computing(seed=5, threads=before + 1):
        assert torch.get_num_threads() == before + 1
        drawn = torch.rand(3)
    assert torch.get_num_threads() == before
    torch.testing.assert_close(torch.get_rng_state(), state)
    with computing(seed=5):
        torch.testing.assert_close(torch.rand(3), drawn)
