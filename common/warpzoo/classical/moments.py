"""What two images show, brought together by its moments: centre, size and direction of the bright part.

Convention: as in `placing`.
"""

from __future__ import annotations

import numpy as np

from warpzoo.classical.placing import correlation, moved_by

LEAST, MOST = 0.6, 1.6
"""Of what is a change of size."""


def bright(image: np.ndarray) -> np.ndarray:
    """The part of a smooth image above Otsu's threshold, as far as it hangs together with its largest piece."""
    from skimage.filters import threshold_otsu
    from skimage.measure import label

    pieces = label(image > threshold_otsu(image))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest: np.ndarray = pieces == sizes.argmax()
    return largest if sizes.max() > 0 else np.ones_like(image, bool)


def from_moments(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The matrix (dims, dims + 1) that takes the first image's bright part to the other's: the shift alone, with the
    ellipse as well, or with its direction, whichever makes them more alike."""
    (here, own), (there, its) = (_moments(bright(image)) for image in (one, other))
    dims = one.ndim
    candidates = [np.eye(dims), _between(own, its), _turned(own, its)]
    matrices = [np.column_stack([linear, there - linear @ here]) for linear in candidates]
    matrices.append(np.eye(dims, dims + 1))
    return max(matrices, key=lambda matrix: correlation(one, moved_by(other, matrix)))


def _moments(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    voxels = np.argwhere(mask).astype(float)
    covariance = np.cov(voxels.T) + 1e-3 * np.eye(mask.ndim)
    return voxels.mean(0), covariance


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    root: np.ndarray = vectors * np.sqrt(values) @ vectors.T
    return root


def _between(own: np.ndarray, its: np.ndarray) -> np.ndarray:
    """The symmetric matrix that takes one covariance to the other."""
    root = _root(own)
    back = np.linalg.inv(root)
    return back @ _root(root @ its @ root) @ back


def _turned(own: np.ndarray, its: np.ndarray) -> np.ndarray:
    """Axis on axis, by the least rotation, each as long as the other's."""
    (lengths, axes), (others, targets) = (np.linalg.eigh(one) for one in (own, its))
    targets = targets * np.sign((axes * targets).sum(0))
    if np.linalg.det(targets @ axes.T) < 0:
        targets[:, 0] *= -1
    turned: np.ndarray = targets * np.sqrt(others / lengths).clip(LEAST, MOST) @ axes.T
    return turned
