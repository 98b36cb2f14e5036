"""The placements of all frames of a series solved together, from what was found for each frame and between frames.

Convention: matrices (dims + 1, dims + 1) of the world. That of a frame takes points of the reference to the frame, that
of a pair (i, j) points of frame i to frame j: `pair[i, j] @ frame[i] ≈ frame[j]`, as far apart as `points` of the
reference are by them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu

ROUNDS = 20
"""Of least squares, each with less weight for what the one before found to be far off."""
HELD = 1e8
"""Weight of the frame that is the reference itself."""
USUAL = 1.5
"""Of the median distance: what is further off loses weight."""


def solved_together(
    frames: Mapping[int, np.ndarray],
    pairs: Mapping[tuple[int, int], np.ndarray],
    points: np.ndarray,
    own: int | None = None,
) -> dict[int, np.ndarray]:
    """The matrices of all frames that are least far from what was found, by robust least squares (Cauchy weights): a
    frame that was placed wrongly is placed by its neighbours, and errors from pair to pair do not add up.

    Args:
        frames: what was found from the reference to each frame.
        pairs: what was found between frames, of which both are among `frames`.
        points: (count, dims) in the world, where it matters.
        own: the frame that is the reference itself.
    """
    numbers = sorted(frames)
    place = {frame: number for number, frame in enumerate(numbers)}
    dims = points.shape[1]
    homogeneous = np.column_stack([points, np.ones(len(points))])
    # M · X at all points is as long as M · root: the matrices are sought as their products with it
    root = np.linalg.cholesky(homogeneous.T @ homogeneous / len(points))
    pairs = {(i, j): matrix for (i, j), matrix in pairs.items() if i in place and j in place}
    found = np.stack([frames[frame][:-1] @ root for frame in numbers])
    direct, solution = found.copy(), found
    weights = np.ones(len(numbers)), np.ones(len(pairs))
    if own is not None:
        weights[0][place[own]] = HELD
    edges = np.array([(place[i], place[j]) for i, j in pairs], int).reshape(-1, 2)
    between = np.array([*pairs.values()]).reshape(-1, dims + 1, dims + 1)
    linear, shift = between[:, :-1, :-1], between[:, :-1, -1:] * root[-1]
    for _ in range(ROUNDS):
        solution = _solved(direct, edges, linear, shift, weights)
        apart = (
            np.linalg.norm(solution - direct, axis=(1, 2)),
            np.linalg.norm(linear @ solution[edges[:, 0]] + shift - solution[edges[:, 1]], axis=(1, 2)),
        )
        usual = max(USUAL * float(np.median(np.concatenate(apart))), 1e-9)
        weights = 1 / (1 + (apart[0] / usual) ** 2), 1 / (1 + (apart[1] / usual) ** 2)
        if own is not None:
            weights[0][place[own]] = HELD
    back = np.linalg.inv(root)
    matrices = {}
    for frame, number in place.items():
        matrices[frame] = np.vstack([solution[number] @ back, np.eye(dims + 1)[-1]])
    return matrices


def _solved(
    direct: np.ndarray,
    edges: np.ndarray,
    linear: np.ndarray,
    shift: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Weighted least squares of `solution = direct` and, for the edges (i, j), of `linear · solution[i] + shift =
    solution[j]`; all columns of the matrices have the same equations."""
    count, dims = direct.shape[:2]
    first, second = edges.T
    weight, turned = weights[1][:, None, None], linear.transpose(0, 2, 1)
    own = np.broadcast_to(np.eye(dims), (count, dims, dims))
    places = np.arange(count)
    blocks = [
        (places, places, weights[0][:, None, None] * own),
        (first, first, weight * turned @ linear),
        (second, second, weight * own[second]),
        (first, second, -weight * turned),
        (second, first, -weight * linear),
    ]
    right = weights[0][:, None, None] * direct
    np.add.at(right, first, -weight * turned @ shift)
    np.add.at(right, second, weight * shift)
    inner = np.indices((dims, dims))[:, None]
    rows = np.concatenate([(dims * i[:, None, None] + inner[0]).ravel() for i, _, _ in blocks])
    columns = np.concatenate([(dims * j[:, None, None] + inner[1]).ravel() for _, j, _ in blocks])
    values = np.concatenate([block.ravel() for *_, block in blocks])
    size = count * dims
    system = coo_matrix((values, (rows, columns)), shape=(size, size))  # what has one place is added
    solution: np.ndarray = splu(system.tocsc()).solve(right.reshape(size, dims + 1))
    return solution.reshape(count, dims, dims + 1)
