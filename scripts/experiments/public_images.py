"""Public noisy microscopy images and their sources: the sets on which filters and networks are compared.

Layout, as in the publishers' archives:

    Convallaria_diaphragm/20190520_tl_25um_50msec_05pc_488_130EM_Conv.tif    100 frames of one field
    Mouse actin/sample_attempt2.tif                                          100 frames of one field
    images/livecell_train_val_images/*.tif, images/livecell_test_images/*.tif    phase contrast, 520 × 704, 8 bit

The frames of a field differ only by their noise, so their mean is the clean image. LIVECell's images have little noise;
more is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from warpzoo.images.stacks import open_stack

LICENCE_CC_BY = "CC BY 4.0"


@dataclass(frozen=True)
class PublicSet:
    """An archive: its address, its SHA-256 if published, its pattern of image files and its licence."""

    url: str
    archive: str
    files: str
    licence: str
    source: str
    sha256: str | None = None


SETS = {
    "convallaria": PublicSet(
        "https://zenodo.org/record/5156913/files/Convallaria_diaphragm.zip?download=1",
        "Convallaria_diaphragm.zip",
        "Convallaria_diaphragm/20190520_tl_25um_50msec_05pc_488_130EM_Conv.tif",
        LICENCE_CC_BY,
        "Krull A, Vičar T, Prakash M, Lalit M, Jug F. Probabilistic Noise2Void. Frontiers in Computer Science 2020.",
        "8a2ac3e2792334c833ee8a3ca449fc14eada18145f9d56fa2cb40f462c2e8909",
    ),
    "mouse_actin": PublicSet(
        "https://zenodo.org/record/5156937/files/Mouse%20actin.zip?download=1",
        "Mouse_actin.zip",
        "Mouse actin/sample_attempt2.tif",
        LICENCE_CC_BY,
        "Prakash M, Lalit M, Tomancak P, Krull A, Jug F. Fully Unsupervised Probabilistic Noise2Void. ISBI 2020.",
    ),
    "livecell": PublicSet(
        "http://livecell-dataset.s3.eu-central-1.amazonaws.com/LIVECell_dataset_2021/images.zip",
        "LIVECell_images.zip",
        "images/livecell_test_images/*.tif",
        "CC BY-NC 4.0",
        "Edlund C et al. LIVECell: a large-scale dataset for label-free live cell segmentation. Nature Methods 2021.",
    ),
}


def fetch(name: str, folder: str | Path) -> list[Path]:
    """The set's images below the folder, downloaded and unpacked if they are not there yet."""
    if name not in SETS:
        raise ValueError(f"name must be one of {', '.join(SETS)}, got {name!r}.")
    chosen, folder = SETS[name], Path(folder)
    if not (found := sorted(folder.glob(chosen.files))):
        from monai.apps.utils import download_url, extractall

        archive = folder / chosen.archive
        download_url(chosen.url, archive, hash_val=chosen.sha256, hash_type="sha256")
        extractall(archive, folder)
        found = sorted(folder.glob(chosen.files))
    if not found:
        raise ValueError(f"{folder} holds no {chosen.files} after unpacking {chosen.url}: the archive has changed.")
    return found


def frame_and_mean(path: str | Path, frame: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One noisy frame of a field, and the mean of all its frames: float32, (rows, columns)."""
    stack = open_stack(path)
    count, rows, columns = stack.shape
    if not 0 <= frame < count or count < 2:
        raise ValueError(f"frame must be in [0, {count}) of two frames or more, got {frame} ({path}: {count} frames).")
    window = (slice(0, rows), slice(0, columns))
    mean = np.zeros((rows, columns))
    for index in range(count):
        mean += stack.read(index, window) / count
    return stack.read(frame, window), mean.astype(np.float32)


def with_noise(paths: Sequence[str | Path], deviation: float, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each image with Gaussian noise added, not clipped, and without: pairs of float32 (rows, columns)."""
    random = np.random.default_rng(seed)
    pairs = []
    for path in paths:
        stack = open_stack(path)
        clean = stack.read(0, tuple(slice(0, size) for size in stack.shape[1:]))
        pairs.append((clean + random.normal(0, deviation, clean.shape).astype(np.float32), clean))
    return pairs
