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
    edges = [(place[i], place[j], matrix) for (i, j), matrix in pairs.items()]
    for _ in range(ROUNDS):
        solution = _solved(direct, edges, weights, root[-1], dims)
        apart = (
            np.linalg.norm(solution - direct, axis=(1, 2)),
            np.array([np.linalg.norm(_through(matrix, solution[i], root[-1]) - solution[j]) for i, j, matrix in edges]),
        )
        together = np.concatenate(apart)
        usual = max(USUAL * float(np.median(together)), 1e-9)
        weights = 1 / (1 + (apart[0] / usual) ** 2), 1 / (1 + (apart[1] / usual) ** 2)
        if own is not None:
            weights[0][place[own]] = HELD
    back = np.linalg.inv(root)
    matrices = {}
    for frame, number in place.items():
        matrices[frame] = np.vstack([solution[number] @ back, np.eye(dims + 1)[-1]])
    return matrices


def _through(matrix: np.ndarray, placed: np.ndarray, last: np.ndarray) -> np.ndarray:
    """A pair's matrix after that of its first frame."""
    return matrix[:-1, :-1] @ placed + np.outer(matrix[:-1, -1], last)


def _solved(
    direct: np.ndarray,
    edges: list[tuple[int, int, np.ndarray]],
    weights: tuple[np.ndarray, np.ndarray],
    last: np.ndarray,
    dims: int,
) -> np.ndarray:
    """Weighted least squares; all columns of the matrices have the same equations."""
    count = len(direct)
    blocks: dict[tuple[int, int], np.ndarray] = {}
    right = weights[0][:, None, None] * direct

    def add(i: int, j: int, block: np.ndarray) -> None:
        blocks[i, j] = blocks.get((i, j), np.zeros((dims, dims))) + block

    for number in range(count):
        add(number, number, weights[0][number] * np.eye(dims))
    for (i, j, matrix), weight in zip(edges, weights[1], strict=True):
        linear, shift = matrix[:-1, :-1], np.outer(matrix[:-1, -1], last)
        add(i, i, weight * linear.T @ linear)
        add(j, j, weight * np.eye(dims))
        add(i, j, -weight * linear.T)
        add(j, i, -weight * linear)
        right[i] -= weight * linear.T @ shift
        right[j] += weight * shift
    rows, columns, values = [], [], []
    inner = np.indices((dims, dims))
    for (i, j), block in blocks.items():
        rows.append((dims * i + inner[0]).ravel())
        columns.append((dims * j + inner[1]).ravel())
        values.append(block.ravel())
    size = count * dims
    system = coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(size, size))
    solution: np.ndarray = splu(system.tocsc()).solve(right.reshape(size, dims + 1))
    return solution.reshape(count, dims, dims + 1)
