"""The public sets' loaders on small archives of the same layout, from where a browser would get the real ones."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from monai.apps.utils import HashCheckError

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def public(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from experiments import public_images

    return public_images


@pytest.fixture
def published(public, tmp_path, monkeypatch):
    """`published(name, {path in the archive: array})`: what the set's address gives, with its right checksum."""

    def publish(name, images, sha256=None):
        archive = tmp_path / "server" / public.SETS[name].archive
        archive.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(archive, "w") as file:
            for path, values in images.items():
                tifffile.imwrite(tmp_path / "one.tif", values, photometric="minisblack")
                file.write(tmp_path / "one.tif", path)
        sha256 = sha256 or hashlib.sha256(archive.read_bytes()).hexdigest()
        monkeypatch.setitem(public.SETS, name, replace(public.SETS[name], url=archive.as_uri(), sha256=sha256))

    return publish


@pytest.mark.parametrize("name", ["convallaria", "mouse_actin"])
def test_a_frame_and_the_mean_of_all(public, published, tmp_path, name):
    frames = np.random.default_rng(0).poisson(50, (5, 20, 24)).astype(np.uint16)
    published(name, {public.SETS[name].files: frames})
    (path,) = public.fetch(name, tmp_path / "data")
    noisy, clean = public.frame_and_mean(path, 3)
    np.testing.assert_array_equal(noisy, frames[3])
    np.testing.assert_allclose(clean, frames.mean(0), rtol=1e-6)
    (tmp_path / "server" / public.SETS[name].archive).unlink()
    assert public.fetch(name, tmp_path / "data") == [path]  # not again
    with pytest.raises(ValueError, match=r"frame must be in \[0, 5\) .* got 5 .*5 frames"):
        public.frame_and_mean(path, 5)


def test_livecell_with_noise(public, published, tmp_path):
    images = {f"images/livecell_test_images/{n}.tif": np.full((52, 70), 10 * n, np.uint8) for n in range(3)}
    published("livecell", images)
    paths = public.fetch("livecell", tmp_path / "data")
    assert [path.stem for path in paths] == ["0", "1", "2"]
    pairs = public.with_noise(paths, 100.0)
    for number, (noisy, clean) in enumerate(pairs):
        assert (clean == 10 * number).all()
        assert (noisy - clean).std() == pytest.approx(100, rel=0.05)
    assert not np.array_equal(*(noisy - clean for noisy, clean in pairs[:2]))
    np.testing.assert_array_equal(public.with_noise(paths, 100.0)[2][0], pairs[2][0])


def test_a_broken_download_is_not_used(public, published, tmp_path):
    published("convallaria", {public.SETS["convallaria"].files: np.zeros((2, 8, 8), np.uint16)}, sha256="0" * 64)
    with pytest.raises(HashCheckError):
        public.fetch("convallaria", tmp_path / "data")


def test_what_is_not_there_is_said(public, published, tmp_path):
    with pytest.raises(ValueError, match="name must be one of convallaria"):
        public.fetch("cats", tmp_path)
    published("mouse_actin", {"another/name.tif": np.zeros((2, 8, 8), np.uint16)})
    with pytest.raises(ValueError, match="the archive has changed"):
        public.fetch("mouse_actin", tmp_path / "data")
