"""`warpzoo check` and the plan of `warpzoo train`: what a training would refuse is said before, and in one sentence."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from warpzoo.bundles import find_bundle
from warpzoo.bundles.overrides import check_overrides
from warpzoo.commands.check import check
from warpzoo.commands.train import train
from warpzoo.errors import plain_reason
from warpzoo.training import PairDataset, list_images, pad_or_crop
from warpzoo.training.reading import arrays_of

SMALL = {"device": "cpu", "epochs": 1, "steps_per_epoch": 1, "val_interval": 1, "batch_size": 1}
TINY = {**SMALL, "network_def#channels": [4, 6, 6, 6], "network_def#features": 4}


def save_pictures(folder, count=5, shape=(40, 36), first=0):
    """Grey PNGs of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        values = np.random.default_rng(number).integers(0, 255, shape, dtype=np.uint8)
        Image.fromarray(values).save(folder / f"sl {number:02}.png")
    return folder


@pytest.fixture
def pictures(tmp_path):
    return save_pictures(tmp_path / "pictures")


@pytest.fixture
def volumes(tmp_path):
    folder = tmp_path / "volumes"
    folder.mkdir()
    for number in range(5):
        values = np.random.default_rng(number).normal(100, 20, (24, 20, 18)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"v{number}.nii.gz")
    return folder


def reason(call):
    """The one sentence that a call ends with."""
    with pytest.raises(Exception) as error:
        call()
    said = plain_reason(error.value)
    assert "\n" not in said
    return said


def test_a_run_below_its_images_is_none_of_them(pictures, capsys):
    options = {**TINY, "output": str(pictures / "run")}
    train("voxelmorph_dense", str(pictures), **options)
    assert [*(pictures / "run" / "pictures").glob("*.png")]
    capsys.readouterr()
    check(str(pictures), method="voxelmorph_dense")
    printed = capsys.readouterr().out
    assert "left out: run, of a training" in printed
    assert "epoch" not in printed
    train("voxelmorph_dense", str(pictures), **options, overwrite=True)
    run = json.loads((pictures / "run" / "run.json").read_text())
    assert sum(map(len, run["data"].values())) == 5


@pytest.fixture
def archive(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "pairs.npz"
    ed, es = random.integers(0, 255, (2, 6, 40, 36), dtype=np.uint8)
    patients = [f"p{number // 2}" for number in range(6)]
    np.savez(path, ed=ed, es=es, ed_lv=ed // 128, es_lv=es // 128, patient=patients, slice=[0, 1] * 3)
    return path


def test_the_arrays_of_an_archive_are_named(archive, tmp_path, capsys):
    said = reason(lambda: check(str(archive), method="voxelmorph_dense"))
    assert "has the arrays ed, es, ed_lv, es_lv, patient, slice; images must name those that are images" in said
    names = {"images": "ed,es", "labels": "ed_lv,es_lv", "group": "patient,slice", "subject": "patient"}
    check(str(archive), method="voxelmorph_dense", **names)
    printed = capsys.readouterr().out
    assert "p1/0/2/es  40 × 36" in printed
    assert "validation: 1 of 3 subjects are held out, such as p" in printed
    train("voxelmorph_dense", str(archive), output=str(tmp_path / "run"), **names, **TINY)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    held = {name.split("/")[0] for name in run["data"]["validation"]}
    assert len(held) == 1
    assert not held & {name.split("/")[0] for name in run["data"]["train"]}
    assert len(run["data"]["train"]) == 8
    assert run["config"]["pairing"] == "same_group"
    assert run["config"]["key_metric"] == "dice"


def test_the_only_array_of_images_needs_no_name(tmp_path, capsys):
    digits = np.random.default_rng(0).integers(0, 255, (20, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "digits.npz", x=digits, y=[0, 1] * 10)
    check(str(tmp_path / "digits.npz"), method="voxelmorph_dense", group="y")
    assert "pairs: within 2 groups" in capsys.readouterr().out
    said = reason(lambda: check(str(tmp_path), images="x"))
    assert said.startswith("images must be given for an .npz of arrays alone")


def test_a_denoiser_leaves_out_what_cannot_be_used(pictures, tmp_path, capsys):
    Image.fromarray(np.zeros((40, 36, 3), np.uint8) + np.uint8([1, 2, 3])).save(pictures / "colour.png")
    said = reason(lambda: check(str(pictures), method="psf_blindspot"))
    assert "`warpzoo train --skip` leaves it out" in said
    options = {**SMALL, "output": str(tmp_path / "run"), "network_def#channels": 4, "patch": 16}
    assert "leave it out (--skip)" in reason(lambda: train("psf_blindspot", str(pictures), **options))
    train("psf_blindspot", str(pictures), skip=True, **options)
    assert "left out: 1 of 6 images: colour.png" in capsys.readouterr().out
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sorted([*run["data"]["train"], *run["data"]["validation"]]) == [f"sl {n:02}.png" for n in range(5)]


def test_check_refuses_what_a_training_refuses(pictures, capsys):
    for call in (
        lambda: check(str(pictures), method="dirnet"),
        lambda: train("dirnet", str(pictures), output="nowhere", device="cpu"),
    ):
        said = reason(call)
        assert re.match(r"images of 36 × 40 voxels cannot be trained on by dirnet as it is set: .*window = 51", said)
        assert said.endswith("Choose a smaller one (--similarity#window), or pad the images (--size).")
    for way_out in ({"size": "52,56"}, {"similarity#window": 15}):
        check(str(pictures), method="dirnet", **way_out)
        assert "batch: 8 pairs a step" in capsys.readouterr().out
    for method in ("dirnet", "psf_blindspot"):
        said = reason(lambda one=method: check(str(pictures), method=one, batch_sise=4))
        assert said == "batch_sise is no setting of this configuration (did you mean batch_size?)."
    assert reason(lambda: check(str(pictures), seed=4)).startswith("method must be given with the settings of one")


def test_images_must_make_pairs_on_both_sides(pictures, tmp_path):
    rows = [f"pictures/sl {n:02}.png,{n // 2}" for n in range(4)]
    (tmp_path / "two.csv").write_text("\n".join(["image,subject", *rows]))
    train("voxelmorph_dense", str(tmp_path / "two.csv"), output=str(tmp_path / "run"), **TINY)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sorted(map(len, run["data"].values())) == [2, 2]
    save_pictures(tmp_path / "pictures", 1, first=9)
    (tmp_path / "one.csv").write_text("\n".join(["image,subject", *rows[:2], "pictures/sl 09.png,9"]))
    said = reason(lambda: check(str(tmp_path / "one.csv"), method="voxelmorph_dense"))
    assert said.endswith("or several images of each of two, got 3 images of 2 subjects.")
    said = reason(lambda: train("voxelmorph_dense", str(tmp_path / "one.csv"), labels="x", output="nowhere"))
    assert said.endswith("use its column `label`.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": "1,2"}, r"^spacing must be one positive length, or one for each of the 3 axes, got \[1, 2\]"),
        ({"size": "32,32"}, r"^size must be 3 numbers, one for each axis of the images, got 32 × 32\."),
        ({"spacing": "500"}, r"^spacing must leave 4 voxels or more along each axis, got 1 × 1 × 1 of v0\.nii\.gz"),
    ],
)
def test_a_grid_of_another_kind_is_one_sentence(volumes, options, message):
    for call in (
        lambda: check(str(volumes), method="voxelmorph_dense", **options),
        lambda: train("voxelmorph_dense", str(volumes), output="nowhere", dry_run=True, **options),
    ):
        assert re.search(message, reason(call)), reason(call)


def test_subjects_are_named_as_one_would(pictures, capsys):
    options = {"output": "nowhere", "dry_run": True, "device": "cpu"}
    for subjects in ("sl 02.png,sl 04.png", ("sl 02.png", "sl 04.png")):
        train("voxelmorph_dense", str(pictures), validation_subjects=subjects, **options)
        assert "validation: 2 of 5 subjects are held out, such as sl 02.png" in capsys.readouterr().out
    said = reason(lambda: train("stn_affine", str(pictures), validation_subjects="sl 2.png", **options))
    assert said.endswith("got 'sl 2.png' (did you mean sl 02.png?).")
    known = {"validation_subjects": {"_target_": "warpzoo.training.draw_subjects"}}
    with pytest.raises(ValueError, match=r"validation_subjects must be a list of names, .*got 'sl 02.png'"):
        check_overrides(known, {"validation_subjects": "sl 02.png"})


def test_a_variant_for_other_images_is_refused(pictures):
    for method, variant in (("stn_affine", "hippocampus"), ("dirnet", "digits")):
        said = reason(lambda one=method, other=variant: check(str(pictures), method=one, variant=other))
        assert said == f"variant must be one for any images, got '{variant}', which lists its own (records)."


def test_weights_to_start_from_must_be_there(pictures):
    said = reason(lambda: train("voxelmorph_dense", str(pictures), output="nowhere", initial_weights="/nothere.pt"))
    assert said == "/nothere.pt does not exist; initial_weights must be a file of weights."


def test_a_run_is_repeated_by_its_folder(tmp_path):
    (tmp_path / "run.json").write_text('{"config": {}}')
    assert reason(lambda: train(again=str(tmp_path), output="nowhere")).startswith(f"{tmp_path}/run.json must be the")


@pytest.mark.parametrize("method", ["fcn_multires", "voxelmorph_dense", "dirnet"])
def test_images_kept_in_memory_have_a_bound_that_can_be_set(pictures, method):
    bundle = find_bundle(method)
    variants = ["folder", *([] if bundle.spatial_dims == 2 else ["2d"])]
    check_overrides(bundle.settings("train", variants), {"cache": 0.001})
    for side in ("train", "validate"):
        data = {"dataset_dir": str(pictures), "device": "cpu"}
        kept = bundle.config("train", variants, cache=0.001, **data).get_parsed_content(f"{side}#dataset").cache
        assert kept.bound == 1e6
        kept = bundle.config("train", variants, **data).get_parsed_content(f"{side}#dataset").cache
        assert kept.bound > 1e7


@pytest.mark.parametrize("method", ["stn_affine", "deep_affine"])
def test_who_is_held_out_is_not_trained_on_in_other_places_either(pictures, tmp_path, method, capsys):
    check(str(pictures), method=method)
    assert "validation: 2 of 5 subjects are held out" in capsys.readouterr().out
    train(method, str(pictures), output=str(tmp_path / "run"), side=16, **{"validate#dataset#count": 2}, **SMALL)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    names = [set(run["data"][one]) for one in ("train", "validation")]
    assert [len(side) for side in names] == [3, 2]
    assert not names[0] & names[1]
    assert run["epochs"][0]["placement"] == run["epochs"][0]["key_metric"]  # what is best has a curve of its own
    assert "<h3>placement: " in (tmp_path / "run" / "report.html").read_text()
    assert "are in training and validation" not in capsys.readouterr().out


def test_far_too_many_workers_are_refused(pictures):
    for method in ("voxelmorph_dense", "psf_blindspot"):
        said = reason(
            lambda one=method: train(one, str(pictures), output="nowhere", num_workers=9999, epochs=1, device="cpu")
        )
        assert re.match(r"num_workers must be \d+ or fewer where there are \d+ processors, got 9999\.", said)


def test_noise_is_doubted_once_for_each_image_and_not_for_all_of_many(tmp_path, capsys):
    random = np.random.default_rng(0)
    for number in range(5):
        rough = random.normal(100, 20, (128, 128))
        smooth = (rough + np.roll(rough, 1, 0) + np.roll(rough, 1, 1) + np.roll(rough, (1, 1), (0, 1))) / 4
        Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / f"{number}.png")
    check(str(tmp_path), method="psf_blindspot")
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(warnings) == 4
    assert all(re.search(r"in a row \(correlation 0\.\d+\) and in a column \(corr", line) for line in warnings[:3])
    assert all(line.count("correlated") == 1 for line in warnings[:3])
    assert warnings[3] == "warning: 2 more of 5 images give rise to doubts, such as 3.png"


def turned(array, degrees, spacing=1.0):
    """A NIfTI of the volume whose first two axes are turned about the third."""
    angle = np.radians(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= spacing
    return nib.Nifti1Image(array, affine)


def test_what_is_done_to_oblique_images_and_pixels_is_said(volumes, tmp_path, capsys):
    for number, degrees in ((1, 29), (2, -12)):
        path = volumes / f"v{number}.nii.gz"
        nib.save(turned(nib.load(path).get_fdata().astype(np.float32), degrees), path)
    check(str(volumes))
    printed = capsys.readouterr().out
    assert "oblique: 2 of 5 images, by up to 29° (v1.nii.gz), keep their own axes" in printed

    flat = save_pictures(tmp_path / "flat", 3)
    for number, signs in enumerate([(1, 1), (-1, -1), (-1, 1)]):
        image = sitk.GetImageFromArray(np.random.default_rng(number).normal(0, 1, (40, 36)).astype(np.float32))
        image.SetDirection(np.diag([-1.0 * signs[0], -1.0 * signs[1]]).ravel())  # of ITK's axes, LP
        sitk.WriteImage(image, str(flat / f"placed {number}.nrrd"))
    check(str(flat))
    printed = capsys.readouterr().out
    assert "turned: 2 of 6 images, stored as 1 LP, 1 LA, come in the order of RA axes" in printed
    assert "warning: 3 of 6 images have no spacing, such as sl 00.png" in printed


def test_spacings_become_one_that_is_there(volumes, capsys):
    for number in (3, 4):
        path = volumes / f"v{number}.nii.gz"
        nib.save(turned(nib.load(path).get_fdata().astype(np.float32), 0, 1.5), path)
    (volumes / "v0.nii.gz").unlink()
    check(str(volumes))
    printed = capsys.readouterr().out
    assert "voxels of 1 × 1 × 1 mm" in printed
    assert "resampled: 2 of 4 images (2 of 1.5 × 1.5 × 1.5 mm)" in printed


def test_an_image_that_is_constant_only_as_it_is_trained_on(tmp_path):
    for number in range(2):
        values = np.zeros((40, 40), np.uint8)
        values[:2] = 200 + number
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    pairs = PairDataset(list_images(tmp_path), transform=pad_or_crop([16, 16]))
    with pytest.raises(
        ValueError, match=r"0\.png is constant \(0\.0\) once it is resampled, and padded or cropped: cho"
    ):
        pairs[0]


def test_label_maps_may_be_stored_the_other_way_round(volumes, tmp_path, capsys):
    labels = tmp_path / "labels"
    labels.mkdir()
    for path in volumes.iterdir():
        image = nib.load(path)
        values = (image.get_fdata() > 100).astype(np.uint8)
        change = nib.orientations.axcodes2ornt("LPS")
        nib.save(nib.Nifti1Image(values, image.affine).as_reoriented(change), labels / path.name)
    check(str(volumes), method="voxelmorph_dense", labels=str(labels))
    found = arrays_of(list_images(volumes, labels=labels)[0])
    assert torch.equal(found["label"], (found["image"] > 100).long())
    shifted = nib.load(labels / "v1.nii.gz")
    shifted.affine[0, 3] += 3
    nib.save(nib.Nifti1Image(np.asarray(shifted.dataobj), shifted.affine), labels / "v1.nii.gz")
    assert "v1.nii.gz must have the grid of" in reason(lambda: check(str(volumes), labels=str(labels)))


def test_a_missing_file_is_a_line_of_the_table(volumes, tmp_path, capsys):
    labels = tmp_path / "labels"
    labels.mkdir()
    for path in sorted(volumes.iterdir())[1:]:
        image = nib.load(path)
        nib.save(nib.Nifti1Image((image.get_fdata() > 100).astype(np.uint8), image.affine), labels / path.name)
    said = reason(lambda: check(str(volumes), method="voxelmorph_dense", labels=str(labels)))
    printed = capsys.readouterr().out
    assert "labels/v0.nii.gz does not exist" in said
    assert re.search(r"^v0\.nii\.gz.*\n    cannot be used: .*labels/v0\.nii\.gz does not exist", printed, re.MULTILINE)
    assert "v4.nii.gz" in printed
    options = {"labels": str(labels), "output": str(tmp_path / "run"), "validation_subjects": "v1.nii.gz,v2.nii.gz"}
    train("voxelmorph_dense", str(volumes), skip=True, **options, **TINY)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sorted(run["data"]["train"]) == ["v3.nii.gz", "v4.nii.gz"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,lable\na.png,b.png\n",
            "the column 'lable' is not known; rename it to 'label', or remove it if it is something else.",
        ),
        (
            "image; subject_id\na.png;anna\n",
            "the column 'subject_id' is not known; rename it to 'subject', or remove it if it is something else.",
        ),
        ("image,id\na.png,x\nb.png,x\n", "entry 2: x is the id of entry 1; give it another one."),
        ("image\na.png\na.png\n", "entry 2: a.png is the id of entry 1; give it an `id` of its own, or be there once."),
    ],
)
def test_a_list_that_means_something_else_is_refused(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    assert reason(lambda: check(str(tmp_path / "list.csv"))) == f"{tmp_path / 'list.csv'}, {message}".replace(
        ".csv, the", ".csv: the"
    )


@pytest.mark.parametrize("parted", [",", ";", "\t", " , "])
def test_columns_may_be_parted_by_other_marks_and_hold_more(pictures, parted):
    rows = [("image", "subject", "age")] + [(f"sl {n:02}.png", f"s{n % 3}", "50") for n in range(5)]
    (pictures / "list.CSV").write_text("\n".join(map(parted.join, rows)), encoding="utf-8-sig")
    records = list_images(pictures / "list.CSV")
    assert [record["subject"] for record in records] == ["s0", "s1", "s2", "s0", "s1"]
    assert records[4]["image"] == pictures / "sl 04.png"


def test_labels_are_looked_through_and_decide_only_where_those_held_out_have_some(pictures, tmp_path, capsys):
    labels = save_pictures(tmp_path / "labels", 5)
    for number, path in enumerate(sorted(labels.iterdir())):
        values = np.full((40, 36), 3 if number else 0, np.uint8)
        values[:20] = 0
        Image.fromarray(values).save(path)
    options = {"labels": str(labels), "method": "voxelmorph_dense", "device": "cpu"}
    check(str(pictures), validation_subjects="sl 00.png,sl 01.png", **options)
    printed = capsys.readouterr().out
    assert "labels: of 5 of 5 images, with the values 3" in printed
    assert "warning: 1 of 5 label maps are 0 everywhere, such as that of sl 00.png" in printed
    assert "labels: 1 of the 2 images that are held out have none, such as sl 00.png, so that ncc says" in printed
    options |= TINY
    del options["method"]
    for subjects, metric in {"sl 00.png,sl 01.png": "ncc", "sl 02.png,sl 01.png": "dice"}.items():
        out = str(tmp_path / metric)
        train("voxelmorph_dense", str(pictures), output=out, validation_subjects=subjects, **options)
        assert json.loads((tmp_path / metric / "run.json").read_text())["config"]["key_metric"] == metric


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience"),
        ({"budget": "-1h"}, "budget must be a time such as"),
        ({"precision": "fp16"}, "precision must be one of float32, bf16"),
        ({"pairing": "al"}, "pairing must be one of"),
        ({"key_metric": "dicee"}, r"key_metric must be one of .*got 'dicee' \(did you mean dice\?\)"),
        ({"accumulate": 3, "batch_size": 2}, "accumulate must be from 1 to 2, the pairs of a batch, got 3"),
        ({"spacing": "0"}, "spacing must be numbers above 0"),
        ({"spacing": "nan"}, "spacing must be numbers above 0"),
        ({"tracking": "mlfow"}, "tracking must be mlflow"),
        ({"trials": 3}, "trials must be given with search"),
        ({"search": "nowhere.json"}, r"nowhere\.json does not exist"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(pictures, options, message):
    options = {"device": "cpu", **options}
    said = reason(lambda: train("voxelmorph_dense", str(pictures), output="nowhere", dry_run=True, **options))
    assert re.search(message, said), said


def test_where_the_headers_put_images_is_said_to_be_left_out(volumes, capsys):
    values = np.random.default_rng(9).normal(100, 20, (24, 20, 18)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, 3] = 0, 30, 0
    nib.save(nib.Nifti1Image(values, affine), volumes / "v5.nii.gz")
    check(str(volumes))
    assert "by these the middles lie up to 25 mm from their mean (v5.nii.gz)" in capsys.readouterr().out


def test_values_that_stand_out_are_said(pictures, tmp_path, capsys):
    values = np.random.default_rng(9).normal(100, 20, (40, 36)).astype(np.float32)
    values[3, 3] = 1e30
    Image.fromarray(values).save(pictures / "far.tif")
    check(str(pictures))
    assert "far.tif has values up to 1e+30, where nearly all are below" in capsys.readouterr().out


def test_a_denoisers_training_is_planned_by_check(pictures, capsys):
    (pictures / "copy.png").write_bytes((pictures / "sl 00.png").read_bytes())
    check(str(pictures), method="psf_blindspot")
    printed = capsys.readouterr().out
    assert "warning: the same image 2 times: copy.png, sl 00.png" in printed
    assert "validation: 1 of 6 images are held out" in printed
    check(str(pictures), method="psf_blindspot", hold_out=0.5)
    assert "validation: 3 of 6 images are held out" in capsys.readouterr().out
    said = reason(lambda: check(str(pictures), method="psf_blindspot", hold_out=3))
    assert said == "hold_out must be a share in [0, 1), got 3."


@pytest.mark.parametrize("field", ["images", "labels"])
def test_arrays_that_lose_something_are_refused(tmp_path, field):
    values = {"images": np.ones((5, 20, 18), np.complex64), "labels": np.full((5, 20, 18), 0.5)}
    arrays = {name: np.random.default_rng(0).integers(0, 9, (5, 20, 18)) for name in values} | {field: values[field]}
    np.savez(tmp_path / "a.npz", **arrays)
    said = reason(lambda: check(str(tmp_path / "a.npz"), images="images", labels="labels"))
    assert ("real numbers, got complex64" if field == "images" else "label map of whole numbers") in said
