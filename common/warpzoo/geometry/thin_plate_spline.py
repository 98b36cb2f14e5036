"""Thin-plate spline: the interpolation of displacements at landmarks with the least bending energy; global support.

Convention: kernel r² log r in 2-D and in 3-D, an affine part and no smoothing (what scipy calls `thin_plate_spline` of
degree 1). Positions and displacements are in voxels. On a grid, control points sit where those of the B-splines do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from warpzoo.checks import check_points, has_values
from warpzoo.geometry.bspline import check_control_points
from warpzoo.geometry.sampling import precise, voxel_coordinates


def thin_plate_coefficients(landmarks: Tensor, displacement: Tensor) -> Tensor:
    """The weights of the kernels and of the affine part, (..., landmarks + dims + 1, channels), in float64.

    `landmarks` (..., landmarks, dims): dims + 1 or more, all different, not all on one line (in one plane in 3-D).
    `displacement` (..., landmarks, channels).
    """
    if not torch.jit.is_scripting():
        check_landmarks("landmarks", landmarks)
    scaled = _scaled(landmarks, landmarks)
    affine = _affine_part(scaled)
    corner = torch.zeros_like(affine[..., : affine.shape[-1], :])
    upper = torch.cat([_kernel(scaled, scaled), affine], -1)
    lower = torch.cat([affine.transpose(-1, -2), corner.transpose(-1, -2)], -1)
    displacement = displacement.double()
    nothing = torch.zeros_like(displacement[..., : affine.shape[-1], :])
    return torch.linalg.solve(torch.cat([upper, lower], -2), torch.cat([displacement, nothing], -2))


def thin_plate_basis(points: Tensor, landmarks: Tensor) -> Tensor:
    """The kernels and the affine part at points: (..., points, landmarks + dims + 1), in float64."""
    scaled = _scaled(points, landmarks)
    return torch.cat([_kernel(scaled, _scaled(landmarks, landmarks)), _affine_part(scaled)], -1)


def control_grid(count: list[int], spacing: list[int], device: torch.device) -> Tensor:
    """Where a grid of control points lies, (control points, dims) in voxels, in float64."""
    step = torch.tensor(spacing, dtype=torch.float64, device=device)
    return voxel_coordinates(count, torch.float64, device).flatten(1).t() * step + 0.5 * (step - 1)


def grid_weights(count: list[int], shape: list[int], spacing: list[int], device: torch.device) -> Tensor:
    """The matrix (voxels, control points) from a grid of control points to every voxel, in float64."""
    landmarks = control_grid(count, spacing, device)
    voxels = voxel_coordinates(shape, torch.float64, device).flatten(1).t()
    unit = torch.eye(landmarks.shape[0], dtype=torch.float64, device=device)
    return thin_plate_basis(voxels, landmarks) @ thin_plate_coefficients(landmarks, unit)


class ThinPlateField(nn.Module):
    """Control points → displacement on the image's grid, for networks.

    The matrix is cached for the last sizes. ONNX has no linear solve: run the layer once on the size of the exported
    network, and the matrix is exported as a constant; only the batch size remains dynamic.
    """

    def __init__(self, spacing: int | list[int], spatial_dims: int = 2) -> None:
        super().__init__()
        self.spacing = [spacing] * spatial_dims if isinstance(spacing, int) else list(spacing)
        self.kept_sizes = [0]
        # not a buffer: DDP requires buffers of one size in all processes
        self.kept_weights = torch.zeros(0)

    def forward(self, control_points: Tensor, image: Tensor) -> Tensor:
        shape, count = list(image.shape[2:]), list(control_points.shape[2:])
        if not torch.jit.is_scripting():
            check_control_points(control_points, shape, self.spacing)
            with torch.autocast(control_points.device.type, enabled=False):
                field = self._multiply(precise(control_points), shape, count)
        else:  # scripted code cannot disable autocast, but autocast does not change float64
            field = self._multiply(control_points.double(), shape, count).to(precise(control_points).dtype)
        return field.reshape([-1, control_points.shape[1]] + shape)

    def _multiply(self, points: Tensor, shape: list[int], count: list[int]) -> Tensor:
        kept = self.kept_weights
        if self.kept_sizes != shape + count or kept.device != points.device or kept.dtype != points.dtype:
            if not torch.jit.is_scripting():
                kept = self._outside_graphs(shape, count, points)
            else:
                kept = grid_weights(count, shape, self.spacing, points.device).to(points.dtype)
            self.kept_sizes, self.kept_weights = shape + count, kept
        return points.flatten(2) @ kept.t()

    @torch.jit.unused
    def _outside_graphs(self, shape: list[int], count: list[int], points: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            raise ValueError(
                f"a thin-plate spline from {count} control points to {shape} voxels cannot be exported to ONNX, which "
                "has no linear solve; run the layer once on that size first and keep its sizes fixed."
            )
        with torch.inference_mode(False):
            return grid_weights(count, shape, self.spacing, points.device).to(points.dtype)


def check_landmarks(name: str, landmarks: Tensor) -> None:
    """Requires finite (..., landmarks, 2 or 3), all different, not all on one line or in one plane."""
    dims = landmarks.shape[-1] if isinstance(landmarks, Tensor) and landmarks.dim() else 0
    check_points(name, landmarks, dims if dims in (2, 3) else 3)
    if not has_values(landmarks):
        return
    found = landmarks.detach().double()
    rank = torch.linalg.matrix_rank(_affine_part(found - found.mean(-2, keepdim=True)))
    if bool((rank <= dims).any()):
        raise ValueError(
            f"{name} must be {dims + 1} landmarks or more, not all {'on one line' if dims == 2 else 'in one plane'}, "
            f"got shape {tuple(landmarks.shape)}."
        )
    distances = torch.cdist(found, found) + torch.eye(found.shape[-2], dtype=found.dtype, device=found.device)
    if bool((distances == 0).any()):
        raise ValueError(f"{name} must differ from one another, got the same one twice.")


def _scaled(points: Tensor, landmarks: Tensor) -> Tensor:
    """Positions from the landmarks' centre in units of their extent, for a well-conditioned system, in float64."""
    landmarks = landmarks.double()
    centre = landmarks.mean(-2, keepdim=True)
    return (points.double() - centre) / (landmarks - centre).abs().amax([-2, -1], keepdim=True)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    squared = (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)
    return 0.5 * squared * squared.clamp_min(1e-300).log()


def _affine_part(points: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(points[..., :1]), points], -1)
