from __future__ import annotations

import base64
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image as Picture

from warpzoo.errors import Finding
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.images.content import centre_of, window
from warpzoo.report import panels
from warpzoo.report.colours import BLUE_TO_RED, VIRIDIS
from warpzoo.report.figure import save_registration_figure
from warpzoo.report.page import write_report
from warpzoo.report.planes import planes_of
from warpzoo.report.verdicts import folding_verdict

SHAPES = [(40, 56), (28, 36, 22)]
TURNED = np.array([[0, 0, -2.0, 36], [1, 0, 0, 0], [0, -3.0, 0, 27], [0, 0, 0, 1]])
"""Axes of the array: anterior, inferior, left."""
PROVENANCE = {
    "command": "warpzoo register 'a & b.nii' \"<script>alert(1).nii\" --method dirnet",
    "method": "dirnet",
    "files": {"fixed": "data/<fixed> & $co_$.nii.gz", "moving": "data/<script>alert(1).nii", "also": None},
    "versions": {"warpzoo": "9.8.7", "torch": "2.13.0"},
}


def phantom(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return torch.nn.functional.interpolate(
        torch.rand(1, 1, *[size // 6 for size in shape], generator=generator), size=shape, mode=mode
    )[0, 0]


def bend(shape, amount=1.5, seed=1):
    components = [phantom(shape, seed + axis) for axis in range(len(shape))]
    return amount * (2 * torch.stack(components) - 1)


def metrics(**more):
    return {
        "ncc_before": 0.4321,
        "ncc": 0.9876,
        "folding": 0.0,
        "folding_corners": 0.0,
        "seconds": {"read": 0.25, "network": 1.5},
        **more,
    }


def report(folder, shape, affine=None, displacement=None, **options):
    fixed = phantom(shape)
    displacement = bend(shape) if displacement is None else displacement
    warped = warp(fixed[None, None], displacement[None])[0, 0]
    given = {"metrics": metrics(), "provenance": PROVENANCE, **options}
    path = write_report(folder, fixed, fixed, warped, displacement, Grid(shape, affine), **given)
    return path.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element with its attributes, and the nesting checked."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def text_of(page):
    visible = re.sub(r"<(style|script)>.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", visible)))


def picture_of(source):
    return np.asarray(Picture.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_page_is_whole_and_loads_nothing(tmp_path, shape):
    page = report(tmp_path / "new" / "folder", shape)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["report.html", "report.png"]
    elements = Elements(page).found
    for tag, attributes in elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert "url(" not in page
    pictures = [attributes for tag, attributes in elements if tag == "img"]
    planes = 1 if len(shape) == 2 else 3
    assert len(pictures) == 10 * planes
    assert all("alt" in attributes and picture_of(attributes["src"]).size > 1000 for attributes in pictures)
    drawings = [attributes["d"] for tag, attributes in elements if tag == "path"]
    assert len(drawings) == planes
    with Picture.open(tmp_path / "new" / "folder" / "report.png") as overview:
        assert overview.width > 800


@pytest.mark.parametrize("shape", SHAPES)
def test_names_are_escaped_and_everything_is_told(tmp_path, shape):
    numbers = metrics(
        dice_before={"1": 0.512, "17": 0.522},
        dice={"1": 0.733, "17": float("nan")},
        dice_before_mean=0.517,
        dice_mean=0.733,
        tre_before=12.34,
        tre=1.57,
        peak_memory=1234,
    )
    findings = [Finding("warning", "<b>odd</b> header.", "Mend & see.")]
    page = report(tmp_path, shape, metrics=numbers, findings=findings)
    assert "<script>alert" not in page
    assert "<b>odd" not in page
    text = text_of(page)
    for phrase in ("<script>alert(1).nii → <fixed> & $co_$.nii.gz", "<b>odd</b> header. Mend & see.", "dirnet"):
        assert phrase in text
    for number in ("0.432", "0.988", "0.512", "0.733", "0.522", "12.34", "1.57", "0 %", "0.25 s", "1.75 s", "1234"):
        assert number in text
    for words in (PROVENANCE["command"], "9.8.7", "17", "–", "rose from 0.432 to 0.988", "fell from 12.34 to 1.57 mm"):
        assert words in text
    assert " × ".join(map(str, shape)) in text
    assert text.count("0.517") == 3  # card, sentence and table: the mean is made of what has a number
    assert "dice mean" not in text


def test_a_title_and_few_numbers_do(tmp_path):
    page = report(tmp_path, SHAPES[0], metrics={"ncc": 0.5}, provenance={}, title="A & B", unit="pixels")
    text = text_of(page)
    assert "A & B" in text
    assert "40 × 56 pixels" in text
    assert "rose" not in text
    assert text_of(report(tmp_path, SHAPES[0], metrics={}, provenance={})).count("Registration") == 2


def test_verdicts_say_what_the_numbers_mean(tmp_path):
    text = text_of(report(tmp_path, SHAPES[0], metrics=metrics(ncc=0.2, tre_before=1.0, tre=2.0)))
    assert "fell from 0.432 to 0.200: by this measure the registration made it worse" in text
    assert "rose from 1.00 to 2.00 mm: by this measure the registration made it worse" in text
    assert "stayed" in text_of(report(tmp_path, SHAPES[0], metrics=metrics(ncc=0.4321)))
    grades = [folding_verdict({"folding_corners": share})[0] for share in (0.0, 5e-5, 1e-3, 0.1)]
    assert grades == ["good", "good", "fair", "bad"]
    assert "nowhere" in folding_verdict({"folding": 0.0, "folding_corners": 0.0})[1]
    assert "10 %" in folding_verdict({"folding": 0.0, "folding_corners": 0.1})[1]
    assert folding_verdict({}) is None


def test_notes_on_the_run_come_first(tmp_path):
    notes = ["Optimisation <interrupted> by the user; best result so far."]
    findings = [Finding("error", "No overlap.", "Align them.")]
    page = report(tmp_path, SHAPES[0], notes=notes, findings=findings)
    verdicts = re.findall(r'<li class="(\w+)">(.*?)</li>', page)
    assert [grade for grade, _ in verdicts] == ["fair", "bad", "good", "good"]
    assert html.unescape(verdicts[0][1]) == notes[0]
    assert verdicts[1][1] == "Before the run: No overlap. Align them."


def test_one_page_at_a_path_of_its_own(tmp_path):
    page = report(tmp_path / "new" / "pair 7.html", SHAPES[0])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["pair 7.html"]
    assert page == report(tmp_path / "folder", SHAPES[0])


def test_what_every_page_has_is_installed_with_the_package():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    settings = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = Path(panels.__file__).parents[1]
    installed = {path for pattern in settings["package-data"]["warpzoo"] for path in package.glob(pattern)}
    files = {path for path in (package / "report").iterdir() if path.suffix not in (".py", "")}
    assert len(files) == 11
    assert files <= installed


@pytest.mark.parametrize("shape", SHAPES)
def test_planes_of_a_world_lie_right_whatever_the_order_of_axes(shape):
    """Ramps along the world's axes: left must grow to the right, anterior and superior upwards."""
    dims = len(shape)
    affine = TURNED if dims == 3 else np.array([[0, 2.0, 0], [-1.0, 0, 0], [0, 0, 1]])
    world = Grid(shape, affine).to_world(Grid(shape, affine).coordinates()).T.reshape(dims, *shape)
    planes = planes_of(torch.ones(shape), affine)
    assert [plane.name for plane in planes] == (["axial", "coronal", "sagittal"] if dims == 3 else [""])
    expected = [((-1, 0), (1, 1)), ((-1, 0), (1, 2)), ((1, 1), (1, 2))]  # to the right, upwards: sign and world axis
    for plane, ((right, x), (up, y)) in zip(planes, expected, strict=False):
        shown = plane.of(world)
        assert shown.shape == (dims, *plane.shape)
        assert bool((right * shown[x].diff(dim=1) > 0).all())
        assert bool((up * shown[y].diff(dim=0) < 0).all())
        across = [axis for axis in range(dims) if axis not in (x, y)]
        for axis in across:
            assert shown[axis].unique().numel() == 1
        # voxels are as high and wide as they are in the world
        assert float(shown[y].diff(dim=0).abs().mean()) == pytest.approx(plane.spacing[0])
        assert float(shown[x].diff(dim=1).abs().mean()) == pytest.approx(plane.spacing[1])
    assert [plane.letters for plane in planes] == (["ALPR", "SLIR", "SAIP"] if dims == 3 else [""])


def test_arrays_are_matrices_and_pixel_files_come_out_as_such():
    array = torch.arange(12.0).reshape(3, 4)
    (plane,) = planes_of(array)
    assert torch.equal(plane.of(array), array)
    (plane,) = planes_of(array, orientation="world")  # first axis to the right, second upwards
    assert torch.equal(plane.of(array), array.T.flip(0))
    read = array.T  # as `read_image` gives a picture whose rows are `array`
    (plane,) = planes_of(read, np.diag([-1.0, -1.0, 1.0]))
    assert torch.equal(plane.of(read), array)
    volume = torch.rand(4, 5, 6)
    planes = planes_of(volume, orientation="matrix")
    assert all(torch.equal(p.of(volume), volume.select(p.cut, p.index)) for p in planes)
    assert planes_of(volume)[0].letters == ""
    assert planes_of(volume, np.eye(4), body=False)[0].name == "across axis 3"
    with pytest.raises(ValueError, match="orientation"):
        planes_of(volume, orientation="upside down")
    with pytest.raises(ValueError, match="image must have 2 or 3"):
        planes_of(torch.rand(2, 3, 4, 5))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("orientation", ["matrix", "world"])
def test_the_grid_moves_to_where_a_shift_takes_it(shape, orientation):
    shift = torch.arange(1.0, len(shape) + 1)
    displacement = shift.view(-1, *[1] * len(shape)).expand(-1, *shape)
    index = torch.stack(torch.meshgrid(*[torch.arange(size) for size in shape], indexing="ij")).float()
    for plane in planes_of(torch.ones(shape), orientation=orientation):
        rows, columns = plane.moved(displacement)
        # the voxel that lies at a picture's place, and the one that lies where the plane's grid has moved
        shown = plane.of(index)
        for axis, (moved, along) in zip(plane.axes, ((rows, 0), (columns, 1)), strict=True):
            inside = 5
            arrived = int(moved[inside, inside])
            there = shown[axis].select(along, arrived).flatten()[0]
            assert float(there - shown[axis][inside, inside]) == float(shift[axis])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_jacobian_of_a_plane_is_the_determinant_there_and_folds_are_found(shape):
    dims = len(shape)
    matrix = torch.eye(dims) + 0.2 * torch.randn(dims, dims, generator=torch.Generator().manual_seed(3))
    index = torch.stack(torch.meshgrid(*[torch.arange(size) for size in shape], indexing="ij")).float()
    linear = torch.einsum("ij,j...->i...", matrix - torch.eye(dims), index)
    for plane in planes_of(torch.ones(shape)):
        part = panels.volumes(linear, plane)
        assert part.determinant.shape == plane.shape
        assert part.determinant.numpy() == pytest.approx(float(torch.linalg.det(matrix)), abs=1e-4)
        assert not part.folds.any()
        # alternating from voxel to voxel: central differences see nothing of it
        saw = torch.zeros(dims, *shape)
        saw[0] = 0.8 * (-1) ** index[0]
        part = panels.volumes(saw, plane)
        assert part.determinant[1:-1, 1:-1].min() > 0
        assert part.folds.all()
        at = [size // 2 for size in shape]
        if plane.cut is not None:
            at[plane.cut] = plane.index
        turned = torch.zeros(dims, *shape)
        turned[(0, *at)] = 3.0
        folds = panels.volumes(turned, plane).folds
        mark = torch.zeros(shape, dtype=torch.bool)
        mark[tuple(at)] = True
        (row, column) = plane.of(mark).nonzero()[0].tolist()
        assert folds[row, column]
        assert folds.sum() <= 16
        black = (panels.jacobian_picture(panels.volumes(turned, plane), plane, 1.0, 8) == 0).all(-1)
        assert black.any()  # also in a picture smaller than the plane


def test_a_map_is_white_where_volume_stays_and_symmetric_in_halves_and_doubles():
    (plane,) = planes_of(torch.ones(3, 3))
    values = torch.tensor([[0.5, 1.0, 2.0]] * 3)
    picture = panels.jacobian_picture(panels.Volumes(values, torch.zeros(3, 3, dtype=torch.bool)), plane, 1.0, 3)
    assert picture[0, 1].min() > 240
    assert picture[0, 0, 2] > picture[0, 0, 0]  # blue
    assert picture[0, 2, 0] > picture[0, 2, 2]  # red
    far = [panels.Volumes(torch.full((3, 3), value), torch.zeros(3, 3, dtype=torch.bool)) for value in (1.1, 3.0, 9.0)]
    assert [panels.jacobian_limit([part]) for part in far] == [0.25, 2.0, 2.0]


@pytest.mark.parametrize(("ours", "name", "tolerance"), [(BLUE_TO_RED, "RdBu_r", 1), (VIRIDIS, "viridis", 7)])
def test_colours_are_those_of_matplotlib(ours, name, tolerance):
    values = np.linspace(0, 1, 256)
    theirs = matplotlib.colormaps[name](values, bytes=True)[:, :3].astype(int)
    assert np.abs(ours(values) - theirs).max() <= tolerance
    assert ours.names()[0] == matplotlib.colors.to_hex(theirs[0] / 255)


def test_a_picture_has_the_pixels_of_its_plane_and_few_are_enlarged(tmp_path):
    for shape, expected in (((300, 256), (300, 256)), ((40, 80), (360, 720)), ((1500, 2000), (540, 720))):
        page = report(tmp_path, shape, displacement=torch.zeros(2, *shape), orientation="matrix")
        sources = {a["id"]: a["src"] for tag, a in Elements(page).found if tag == "img" and "id" in a}
        assert picture_of(sources["overlay0"]).shape == (*expected, 3)


def test_overlays_agree_in_grey_and_checkerboards_take_turns():
    image = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    assert np.abs(panels.overlay(image, image).astype(int) - image[..., None]).max() <= 1
    lit, dark = np.full((36, 90), 200, np.uint8), np.zeros((36, 90), np.uint8)
    assert panels.overlay(lit, dark)[0, 0].tolist() == [200, 100, 0]
    board = panels.checkerboard(lit, dark)
    assert board[5, 5] == 0
    assert board[5, 15] == 200
    assert board[15, 5] == 200
    assert board[15, 15] == 0


def test_windows_and_centres_stand_odd_images():
    image = torch.rand(50, 60)
    image[0, 0] = 1e6
    assert window(image)[1] < 1.1
    image[0, 1] = torch.nan
    assert all(np.isfinite(window(image)))
    sparse = torch.zeros(100, 100)
    sparse[30, 70] = 9
    assert window(sparse) == (0, 9)
    assert centre_of(sparse) == [30, 70]
    assert centre_of(torch.full((9, 7), 3.0)) == [4, 3]
    low, high = window(torch.full((5, 5), torch.nan))
    assert low < high


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["constant", "nan", "large", "integers"])
def test_odd_images_have_a_page_too(tmp_path, shape, kind):
    image = {
        "constant": torch.full(shape, 2.0),
        "nan": torch.full(shape, torch.nan),
        "large": 1e30 * phantom(shape),
        "integers": (1000 * phantom(shape)).to(torch.int16),
    }[kind]
    displacement = 40 * bend(shape)  # folded all over, lines far outside
    path = write_report(tmp_path, image, image, image, displacement, Grid(shape), metrics(), {}, findings=())
    Elements(path.read_text())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_picture_of_a_training_has_a_panel_for_everything(tmp_path, shape):
    fixed, u = phantom(shape), bend(shape).requires_grad_()
    path = tmp_path / "epoch.png"
    save_registration_figure(path, moving=fixed, fixed=fixed, warped=fixed, displacement=u, title="a $b_ c")
    assert [each.name for each in tmp_path.iterdir()] == ["epoch.png"]
    first = path.read_bytes()
    save_registration_figure(
        path, fixed, fixed, fixed, u, "a $b_ c", orientation="matrix", affine=np.eye(len(shape) + 1)
    )
    with Picture.open(path) as picture:
        assert np.asarray(picture).std() > 20
    if len(shape) == 2:
        assert path.read_bytes() == first  # the default
        save_registration_figure(path, fixed, fixed, fixed, u, "a $b_ c", orientation="world")
    assert path.read_bytes() != first


def test_wrong_shapes_are_named_and_nothing_is_written(tmp_path):
    fixed = phantom(SHAPES[0])
    with pytest.raises(ValueError, match="warped must have shape"):
        write_report(tmp_path / "x", fixed, fixed, fixed[1:], bend(SHAPES[0]), Grid(SHAPES[0]), {}, {})
    with pytest.raises(ValueError, match="components"):
        write_report(tmp_path / "x", fixed, fixed, fixed, bend(SHAPES[0])[:1], Grid(SHAPES[0]), {}, {})
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        report(tmp_path / "file", SHAPES[0])
