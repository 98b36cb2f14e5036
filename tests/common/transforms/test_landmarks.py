"""Landmarks: they move to where the image moves, whatever file and coordinate system they come in."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image as Picture

from warpzoo.files import FileError
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.transforms import Affine, Composition, DisplacementField, Transform, resample
from warpzoo.images.image import Header, read_image
from warpzoo.transforms.landmarks import Landmarks, read_points, warp_points, write_points

POINTS = torch.tensor([[10.5, -20.25, 30.0], [-1.0, 2.0, 3.125], [0.0, 100.0, -7.5]], dtype=torch.float64)
ROWS = ({"label": "left eye"}, {"label": "tip, of nose"}, {"label": "F-3"})


def make_grid(dims: int, seed: int, shape: tuple[int, ...]) -> Grid:
    generator = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.eye(dims) + 0.3 * generator.standard_normal((dims, dims)))
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = turn * generator.uniform(0.8, 1.6, dims)
    affine[:dims, dims] = 12 - affine[:dims, :dims] @ (0.5 * (np.array(shape) - 1))
    return Grid(shape, affine)


def make_transform(grid: Grid) -> Transform:
    generator = torch.Generator().manual_seed(5)
    dims = grid.dims
    matrix = torch.eye(dims, dims + 1) + 0.05 * torch.randn(dims, dims + 1, generator=generator)
    coarse = 0.8 * torch.randn(1, dims, *[4] * dims, generator=generator)
    field = torch.nn.functional.interpolate(coarse, grid.shape, mode="trilinear" if dims == 3 else "bilinear")
    return Composition(Affine(matrix[None], grid), DisplacementField(field, grid))


@pytest.mark.parametrize("dims", [2, 3])
def test_landmarks_move_to_where_the_image_moves(dims: int) -> None:
    fixed, moving = make_grid(dims, 1, (34, 31, 29)[:dims]), make_grid(dims, 2, (30, 35, 33)[:dims])
    transform = make_transform(fixed)
    middle = 0.5 * torch.tensor(moving.shape, dtype=torch.float64)
    marks = moving.to_world((middle + torch.tensor([3.0, -2.0, 4.0][:dims]))[None])
    # a bright blob at the landmark: where its centre of mass comes to lie is where the landmark belongs
    distance = (moving.to_world(moving.coordinates(torch.float64)) - marks).square().sum(-1)
    blob = torch.exp(-distance / (2 * 1.5**2)).reshape(1, 1, *moving.shape)
    warped = resample(blob, moving, transform, fixed).flatten().double()
    world = fixed.to_world(fixed.coordinates(torch.float64))
    centre = (warped[:, None] * world).sum(0) / warped.sum()
    warped = warp_points(transform, marks)
    assert (warped[0] - centre).norm() < 0.2
    assert (marks[0] - centre).norm() > 1, "the transform moves too little to tell one direction from the other"
    assert torch.allclose(warp_points(transform, warped, to_fixed=False), marks, atol=1e-3)


@pytest.mark.parametrize("suffix", [".csv", ".fcsv", ".mrk.json"])
def test_landmarks_come_back(suffix: str, tmp_path: Path) -> None:
    path = write_points(tmp_path / f"points{suffix}", Landmarks(POINTS, ROWS))
    read = read_points(path)
    assert torch.allclose(read.points, POINTS, atol=1e-6)
    assert read.rows == ROWS


def test_a_csv_is_in_ras_and_slicers_files_say_what_they_are_in(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,x,y,z\nnose,1,2,3\n")
    (tmp_path / "ras.fcsv").write_text(
        "# Markups fiducial file version = 4.6\n# CoordinateSystem = 0\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label\n"
        "vtk_1,1,2,3,0,0,0,1,1,1,0,nose\n"
    )
    (tmp_path / "lps.fcsv").write_text("# CoordinateSystem = LPS\nvtk_1,-1,-2,3,0,0,0,1,1,1,0,nose,,\n")
    for system, position in (("RAS", [1, 2, 3]), ("LPS", [-1, -2, 3])):
        points = [{"label": "nose", "position": position}]
        markups = [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": points}]
        (tmp_path / f"{system}.mrk.json").write_text(json.dumps({"markups": markups}))
    for name in ("a.csv", "ras.fcsv", "lps.fcsv", "RAS.mrk.json", "LPS.mrk.json"):
        read = read_points(tmp_path / name)
        assert read.points.tolist() == [[1, 2, 3]], name
        assert read.rows[0]["label"] == "nose"


def test_other_columns_separators_and_missing_headers(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_text("\ufefftrack;t;X;Y\n7;0;1.5;2\n8;3;4;5\n", encoding="utf-8")
    read = read_points(tmp_path / "tracks.csv")
    assert read.points.tolist() == [[1.5, 2], [4, 5]]
    write_points(tmp_path / "written.csv", read)
    assert (tmp_path / "written.csv").read_text() == "track,t,x,y\n7,0,1.5,2\n8,3,4,5\n"
    (tmp_path / "bare.csv").write_text("1,2,3\n4,5,6\n")
    assert read_points(tmp_path / "bare.csv").points.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_landmarks_of_a_picture_are_pixels(tmp_path: Path) -> None:
    Picture.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "picture.png")
    image = read_image(tmp_path / "picture.png")
    (tmp_path / "points.csv").write_text("x,y\n12,7\n")
    read = read_points(tmp_path / "points.csv", image.header)
    assert image.grid.to_voxels(read.points).tolist() == [[12, 7]]
    write_points(tmp_path / "written.csv", read, image.header)
    assert (tmp_path / "written.csv").read_text() == "x,y\n12,7\n"


def test_landmarks_of_one_slice_lie_on_its_plane(tmp_path: Path) -> None:
    affine = np.array([[0.9, 0.1, 0.2, 3.0], [0.0, 1.5, 0.4, -8.0], [-0.2, -0.3, 2.0, 50.0], [0, 0, 0, 1]])
    affine[:3, :3] = np.linalg.qr(affine[:3, :3])[0] * [1, 1.5, 2]
    image = nibabel.Nifti1Image(np.ones((9, 1, 8), np.float32), affine)
    image.set_qform(affine, 1)
    nibabel.save(image, tmp_path / "slice.nii.gz")
    read = read_image(tmp_path / "slice.nii.gz")
    world = affine[:3, :3] @ [4, 0, 5] + affine[:3, 3]
    write_points(tmp_path / "points.csv", Landmarks(torch.tensor(world)[None], ({},)))
    landmarks = read_points(tmp_path / "points.csv", read.header)
    assert np.allclose(read.grid.to_voxels(landmarks.points), [[4, 5]], atol=1e-4)
    write_points(tmp_path / "written.mrk.json", landmarks, read.header)
    assert np.allclose(read_points(tmp_path / "written.mrk.json").points, world[None], atol=1e-4)


def test_what_is_no_landmark_file_is_said_with_its_line(tmp_path: Path) -> None:
    header = Header(tmp_path / "fixed.nii.gz", (4, 5, 6), np.eye(4), np.dtype("uint8"))
    for name, content, message in (
        ("a.csv", "label,u,v\nnose,1,2\n", "got label, u, v"),
        ("b.csv", "x,y,z\n1,2,3\n1,two,3\n", "line 3: 1,two,3"),
        ("c.csv", "", "empty"),
        ("d.csv", "x,y,z\n", "no landmark"),
        ("e.csv", "x,y,z\n1,nan,2\n", "finite positions, got NaN"),
        ("f.csv", "x,y\n1,2\n", "2-D landmarks for the 3-D image"),
        ("a.fcsv", "# CoordinateSystem = IJK\nid,1,2,3\n", "IJK"),
        ("b.fcsv", "id,1\n", "cannot be read"),
        ("a.mrk.json", '{"markups": [', "cannot be read"),
        ("a.txt", "1 2 3", "another suffix"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(FileError, match=message) as caught:
            read_points(tmp_path / name, header)
        assert name in str(caught.value)
    with pytest.raises(FileError, match=r"must be named .csv"):
        write_points(tmp_path / "a.txt", Landmarks(POINTS, ROWS))


@pytest.mark.parametrize("text", ["x,y\n1,\x1b[31m2\n", "x,\0y\n1,2\n", f"x,y\n1,{'a' * 5000}\n", f"{'x,' * 5000}\n"])
def test_what_is_quoted_of_a_file_is_short_and_printable(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(FileError, match=r"a\.csv") as caught:
        read_points(tmp_path / "a.csv")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
