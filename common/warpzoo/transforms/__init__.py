"""Transforms and landmarks as files: ITK, ANTs, SimpleITK, elastix and Slicer read and write them."""

from warpzoo.transforms.landmarks import Landmarks, read_points, warp_points, write_points
from warpzoo.transforms.reading import read_start, read_transform, read_transforms
from warpzoo.transforms.writing import write_transform, write_transforms, write_velocity

__all__ = [
    "Landmarks",
    "read_points",
    "read_start",
    "read_transform",
    "read_transforms",
    "warp_points",
    "write_points",
    "write_transform",
    "write_transforms",
    "write_velocity",
]
