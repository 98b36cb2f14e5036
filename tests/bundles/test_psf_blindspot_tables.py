"""`scripts/reproduce.py psf_blindspot` on made-up fields of the real ones' layout, with networks of a few steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def reproduce(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import reproduce
    from experiments import psf_blindspot

    monkeypatch.setattr(psf_blindspot, "BUDGET", "3steps")
    filters = {name: psf_blindspot.FILTERS[name] for name in ("gaussian", "median")}
    monkeypatch.setattr(psf_blindspot, "FILTERS", filters)
    monkeypatch.setattr(psf_blindspot, "installed_version", lambda package: None)
    return reproduce


@pytest.fixture
def data(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "data" / "microscopy" / "fmd"
    for name in ("noisy", "average50"):
        (folder / name).mkdir(parents=True)
    for name in ("one", "two"):
        clean = 40 + 40 * ndimage.gaussian_filter(random.normal(size=(128, 112)), 3) * 8
        clean = np.clip(clean, 5, 250)
        tifffile.imwrite(folder / "average50" / f"{name}.tif", clean.astype(np.uint8))
        noisy = np.clip(random.poisson(np.roll(clean, 1, axis=0)), 0, 255)
        tifffile.imwrite(folder / "noisy" / f"{name}.tif", noisy.astype(np.uint8))
    (tmp_path / "models").mkdir()
    return tmp_path


def run(reproduce, data, name, *more):
    arguments = ["psf_blindspot", "--only", name, "--data", str(data / "data"), "--weights", str(data / "models")]
    assert reproduce.main([*arguments, "--output", str(data / "out"), *more]) == 0
    page = (data / "out" / "results.md").read_text(encoding="utf-8")
    return json.loads((data / "out" / "results.json").read_text(encoding="utf-8"))[name], page


def test_filters(reproduce, data):
    result, page = run(reproduce, data, "filters")
    for rows in result["rows"].values():
        assert rows["noisy"]["snr"] == pytest.approx(13.48, abs=0.1)
        tuned, chosen = (rows[f"gaussian, {how}"]["snr"] for how in ("tuned on the clean image", "chosen without"))
        assert 14 < chosen <= tuned
    assert "| 29.53 |" in page


def test_fields(reproduce, data):
    result, page = run(reproduce, data, "fields", "--limit", "1")
    (rows,) = result["rows"].values()
    folder = data / "data" / "microscopy" / "fmd"
    noisy, clean = (tifffile.imread(folder / name / "one.tif").astype(float) for name in ("noisy", "average50"))
    expected = peak_signal_noise_ratio(clean, noisy, data_range=np.ptp(clean))
    assert rows["noisy"]["psnr"] == pytest.approx(expected, abs=0.01)
    for name in ("none (Noise2Void)", "PSF 0.5", "PSF 1 (default)", "PSF 1.5", "PSF learnt"):
        assert rows[name]["scale_invariant_psnr"] >= rows[name]["psnr"] > 20
        assert rows[name]["mean_ratio"] == pytest.approx(1, abs=0.01)
        assert rows[name]["steps"] == 3
        assert rows[name]["psnr_moved"] > rows[name]["psnr"]
    assert result["shifts"]["one"] == pytest.approx([1, 0], abs=0.05)
    assert rows["PSF 1.5"]["sigma"] == [1.5, 1.5]
    assert rows["none (Noise2Void)"]["sigma"] is None
    assert page.count("one, default network:") == 2
    assert (data / "out" / "figures" / "fields.png").stat().st_size > 20_000


def test_bm3d_is_told_the_noise_level_where_it_is_installed(reproduce, data, monkeypatch):
    from experiments import psf_blindspot

    told = []

    def bm3d(image, level):
        told.append(level)
        return ndimage.gaussian_filter(image, level / 10)

    monkeypatch.setitem(sys.modules, "bm3d", SimpleNamespace(bm3d=bm3d))
    monkeypatch.setattr(psf_blindspot, "installed_version", lambda package: "4" if package == "bm3d" else None)
    result, page = run(reproduce, data, "filters", "--limit", "1")
    rows = result["rows"]["one"]
    assert rows["bm3d, tuned on the clean image"]["snr"] >= rows["bm3d, chosen without"]["snr"]
    assert rows["bm3d, chosen without"]["size"] == 1
    # the noise that was added has an SNR of 13.48 dB
    clean = tifffile.imread(data / "data" / "microscopy" / "fmd" / "average50" / "one.tif").astype(float)
    assert told[-1] == pytest.approx(np.sqrt((clean**2).mean() / 10**1.348), rel=0.1)
    assert "| bm3d, chosen without |" in page


def test_exposures(reproduce, data):
    random = np.random.default_rng(1)
    folder = data / "data" / "microscopy" / "lowsnr_pairs"
    folder.mkdir()
    clean = 100 + 120 * ndimage.gaussian_filter(random.normal(size=(120, 112)), 1.5)
    noisy = 0.3 * clean + 20 + random.normal(0, 5, clean.shape)
    for which, image in (("high", clean), ("low", noisy)):
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"cells-{which}snr-sample.png")
    result, page = run(reproduce, data, "exposures")
    (rows,) = result["rows"].values()
    inside = 0.3 * (clean.max() - clean.min())
    assert rows["noisy"]["psnr"] == pytest.approx(20 * np.log10(inside / 5), abs=0.3)
    assert result["shifts"]["cells"] == pytest.approx([0, 0], abs=0.05)
    assert rows["gaussian, tuned on the clean image"]["psnr"] > rows["noisy"]["psnr"] + 2
    assert rows["PSF 1 (default)"]["steps"] == 3
    assert page.count("cells, default network:") == 1


def test_simulated(reproduce, data, monkeypatch):
    from experiments import psf_blindspot_simulated

    nuclei = psf_blindspot_simulated.nuclei
    monkeypatch.setattr(psf_blindspot_simulated, "LONGER", "4steps")
    monkeypatch.setattr(psf_blindspot_simulated, "nuclei", lambda random: nuclei(random, side=96, count=6))
    result, page = run(reproduce, data, "simulated")
    assert result["rows"]["PSF 1 (default)"]["psnr"] > result["rows"]["noisy"]["psnr"] + 3
    assert "dB to the plain U-Net in 4steps" in page


def test_volumes(reproduce, data, monkeypatch):
    from experiments import psf_blindspot_volumes

    monkeypatch.setattr(psf_blindspot_volumes, "SHAPE", (16, 48, 48))
    monkeypatch.setattr(
        psf_blindspot_volumes, "NETWORKS", {"slice by slice": ([], None), "as a volume": (["3d"], "2steps")}
    )
    rows, page = run(reproduce, data, "volumes")[0]["rows"], (data / "out" / "results.md").read_text(encoding="utf-8")
    assert rows["slice by slice"]["steps"] == 3
    assert rows["as a volume"]["steps"] == 2
    # light that is smooth in three directions: even an untrained mean of blurred volumes sees more than its slices
    assert rows["as a volume"]["psnr"] > rows["noisy"]["psnr"] + 3
    tuned = [
        rows[f"{name}, tuned on the clean volume"]["psnr"] for name in ("gaussian", "gaussian in three directions")
    ]
    assert rows["noisy"]["psnr"] < tuned[0] < tuned[1]
    assert "16 × 48 × 48 voxels" in page


def test_starts(reproduce, data, monkeypatch):
    from experiments import psf_blindspot_starts

    monkeypatch.setattr(psf_blindspot_starts, "BUDGETS", ("2steps", "4steps"))
    monkeypatch.setattr(psf_blindspot_starts, "LEARNT", "30steps")
    result, page = run(reproduce, data, "starts")
    assert list(result["rows"]) == ["one", "two"]
    for found in result["rows"].values():
        for nothing, others in found.values():
            assert nothing > 20
            assert others != nothing  # the weights are those of the other field
    assert "| one, from nothing | one, from the others |" in page
