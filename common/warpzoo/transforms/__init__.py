"""Transforms and landmarks as files: ITK, ANTs, SimpleITK, elastix and Slicer read and write them."""

from warpzoo.transforms.landmarks import Landmarks, points_by_frame, read_points, together, warp_points, write_points
from warpzoo.transforms.reading import frames_of, read_start, read_transform, read_transforms
from warpzoo.transforms.writing import write_transform, write_transforms, write_velocity

__all__ = [
    "Landmarks",
    "frames_of",
    "points_by_frame",
    "read_points",
    "read_start",
    "read_transform",
    "read_transforms",
    "together",
    "warp_points",
    "write_points",
    "write_transform",
    "write_transforms",
    "write_velocity",
]
