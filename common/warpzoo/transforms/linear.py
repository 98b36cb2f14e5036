"""ITK's linear transforms: their parameters → a matrix, a translation and the centre that they turn about, in LPS.

Convention: `matrix @ (x − centre) + centre + translation`, as itk::MatrixOffsetTransformBase; angles in radians.
"""

from __future__ import annotations

import numpy as np

_MATRICES = ("AffineTransform", "MatrixOffsetTransformBase", "FixedCenterOfRotationAffineTransform")
PARAMETERS = {
    2: {
        "IdentityTransform": 0,
        "TranslationTransform": 2,
        "ScaleTransform": 2,
        "ScaleLogarithmicTransform": 2,
        **dict.fromkeys(_MATRICES, 6),
        "CenteredAffineTransform": 8,
        **dict.fromkeys(("Rigid2DTransform", "Euler2DTransform"), 3),
        **dict.fromkeys(("CenteredRigid2DTransform", "CenteredEuler2DTransform"), 5),
        "Similarity2DTransform": 4,
        "CenteredSimilarity2DTransform": 6,
    },
    3: {
        "IdentityTransform": 0,
        "TranslationTransform": 3,
        "ScaleTransform": 3,
        "ScaleLogarithmicTransform": 3,
        **dict.fromkeys(_MATRICES, 12),
        "CenteredAffineTransform": 15,
        "Euler3DTransform": 6,
        "CenteredEuler3DTransform": 9,
        "VersorTransform": 3,
        "VersorRigid3DTransform": 6,
        "Similarity3DTransform": 7,
        "ScaleVersor3DTransform": 9,
        "ScaleSkewVersor3DTransform": 15,
    },
}
"""How many parameters each kind has in two and in three dimensions."""


def linear(kind: str, dims: int, p: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrix, translation and centre of one of the kinds in `PARAMETERS`; `fixed` is empty or holds the centre."""
    zero, eye = np.zeros(dims), np.eye(dims)
    centre = fixed[:dims] if len(fixed) else zero
    if kind == "IdentityTransform":
        return eye, zero, zero
    if kind == "TranslationTransform":
        return eye, p, zero
    if kind in _MATRICES:
        return p[: dims * dims].reshape(dims, dims), p[dims * dims :], centre
    if kind == "CenteredAffineTransform":
        return p[: dims * dims].reshape(dims, dims), p[-dims:], p[dims * dims : -dims]
    if kind in ("ScaleTransform", "ScaleLogarithmicTransform"):
        return np.diag(np.exp(p) if "Log" in kind else p), zero, centre
    centred = kind.startswith("Centered")
    if dims == 2:
        scale, p = (p[0], p[1:]) if "Similarity" in kind else (1.0, p)
        return (scale * _rotation(p[0]), p[3:], p[1:3]) if centred else (scale * _rotation(p[0]), p[1:], centre)
    if "Euler3D" in kind:
        x, y, z = (_rotation(angle, axis) for axis, angle in enumerate(p[:3]))
        rotation = z @ y @ x if len(fixed) > 3 and fixed[3] != 0 else z @ x @ y
        return (rotation, p[6:], p[3:6]) if centred else (rotation, p[3:], centre)
    versor = _versor(p[:3])
    if kind == "VersorTransform":
        return versor, zero, centre
    if kind == "VersorRigid3DTransform":
        return versor, p[3:], centre
    if kind == "Similarity3DTransform":
        return p[6] * versor, p[3:6], centre
    stretch = np.diag(p[6:9] - 1)
    if kind == "ScaleSkewVersor3DTransform":
        stretch[[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]] = p[9:15]
    return versor + stretch, p[3:6], centre


def _rotation(angle: float, axis: int | None = None) -> np.ndarray:
    """By an angle in the plane, or about an axis in space."""
    cosine, sine = np.cos(angle), np.sin(angle)
    plane = np.array([[cosine, -sine], [sine, cosine]])
    if axis is None:
        return plane
    rotation = np.eye(3)
    others = [(axis + 1) % 3, (axis + 2) % 3]
    rotation[np.ix_(others, others)] = plane
    return rotation


def _versor(vector: np.ndarray) -> np.ndarray:
    """The rotation of a unit quaternion, from its vector part."""
    x, y, z = vector
    w = np.sqrt(max(0.0, 1 - vector @ vector))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross
