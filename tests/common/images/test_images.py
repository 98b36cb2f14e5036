"""Image files: SimpleITK and nibabel say what is in them; what cannot be registered is refused in one sentence."""

from __future__ import annotations

import errno
import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from PIL import Image as Picture

from warpzoo.files import FileError, whole_file
from warpzoo.images.image import flip_lps, read_image, to_dtype, write_image

TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
VALUES = np.random.default_rng(0).integers(0, 120, (5, 6, 7)).astype(np.int16)
OBLIQUE = np.array([[1.1, -0.4, 0.3, 4], [0.4, 1.9, -0.3, -5], [-0.2, 0.3, 2.9, 60], [0, 0, 0, 1]])
TURN, _ = np.linalg.qr(OBLIQUE[:3, :3])
OBLIQUE[:3, :3] = TURN * [1.1, 2.0, 2.9]


def save_nifti(path: Path, values: np.ndarray, affine: np.ndarray = OBLIQUE, codes: tuple[int, int] = (1, 1)) -> Path:
    image = nibabel.Nifti1Image(values, affine, dtype=values.dtype)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    nibabel.save(image, path)
    return path


def sitk_affine(image: sitk.Image) -> np.ndarray:
    """Voxel → RAS."""
    dims = image.GetDimension()
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = np.reshape(image.GetDirection(), (dims, dims)) * image.GetSpacing()
    affine[:dims, dims] = image.GetOrigin()
    return flip_lps(dims) @ affine


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_what_is_written_is_what_sitk_reads(suffix: str, dtype: str, tmp_path: Path) -> None:
    source = read_image(save_nifti(tmp_path / "source.nii.gz", VALUES))
    path = write_image(tmp_path / f"written{suffix}", source.array, source.header, dtype)
    theirs = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(theirs).T, VALUES)
    assert sitk.GetArrayFromImage(theirs).dtype == dtype
    assert np.allclose(sitk_affine(theirs), OBLIQUE, atol=1e-4)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd", ".tif"])
def test_types_and_values_come_back(suffix: str, dtype: str, tmp_path: Path) -> None:
    source = read_image(save_nifti(tmp_path / "source.nii.gz", VALUES))
    read = read_image(write_image(tmp_path / f"written{suffix}", source.array, source.header, dtype))
    assert read.header.dtype == dtype
    assert read.header.shape == VALUES.shape
    assert torch.equal(read.array, source.array)
    assert read.header.pixels == (suffix == ".tif")
    assert suffix == ".tif" or read.grid == source.grid


@pytest.mark.parametrize("unit", ["mm", "micron", "meter", "unknown"])
@pytest.mark.parametrize("codes", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (4, 2)])
def test_the_header_means_what_it_means_to_sitk(codes: tuple[int, int], unit: str, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, OBLIQUE)
    image.header.set_xyzt_units(unit)
    image.set_sform(OBLIQUE, codes[0])
    other = OBLIQUE.copy()
    other[:3, 3] += 9
    image.set_qform(other, codes[1])
    nibabel.save(image, tmp_path / "image.nii.gz")
    read = read_image(tmp_path / "image.nii.gz")
    assert np.allclose(read.grid.affine, sitk_affine(sitk.ReadImage(str(tmp_path / "image.nii.gz"))), atol=1e-4)
    doubtful = codes == (0, 0) or 0 not in codes
    assert len(read.header.warnings) == doubtful
    # and so does that of a file written after it
    write_image(tmp_path / "after.nii.gz", read.array, read.header)
    assert read_image(tmp_path / "after.nii.gz").grid == read.grid
    assert np.allclose(sitk_affine(sitk.ReadImage(str(tmp_path / "after.nii.gz"))), read.grid.affine, atol=1e-4)


def test_headers_are_kept(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, OBLIQUE)
    image.header["descrip"] = b"a scanner said this"
    image.header["cal_max"] = 77
    image.header.set_xyzt_units("mm", "sec")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"patient moved"))
    nibabel.save(image, tmp_path / "image.nii.gz")
    read = read_image(tmp_path / "image.nii.gz")
    written = nibabel.load(write_image(tmp_path / "written.nii.gz", read.array, read.header, "float32"))
    assert written.header["descrip"].tobytes().startswith(b"a scanner said this")
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert written.header["cal_max"] == 0
    assert written.header.extensions[0].get_content().startswith(b"patient moved")
    assert np.array_equal(written.get_fdata(), VALUES)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_of_one_slice_is_2d_and_is_written_as_it_was(axis: int, tmp_path: Path) -> None:
    values = VALUES.take([3], axis)
    read = read_image(save_nifti(tmp_path / "slice.nii.gz", values))
    assert read.array.shape == (1, *np.delete(VALUES.shape, axis))
    assert np.allclose(read.grid.spacing, np.delete([1.1, 2.0, 2.9], axis), atol=1e-5)
    assert read_image(tmp_path / "slice.nii.gz", flat=False).array.shape == (1, *values.shape)
    # its plane, lifted, is where the voxels lie
    assert read.header.lift is not None
    voxels = read.grid.coordinates(torch.float64)
    flat = np.pad(read.grid.to_world(voxels).numpy(), ((0, 0), (0, 1)))
    lifted = flat @ read.header.lift[:3, :3].T + read.header.lift[:3, 3]
    in_volume = np.insert(voxels.numpy(), axis, 0, axis=1)
    assert np.allclose(lifted, in_volume @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3], atol=1e-4)
    write_image(tmp_path / "written.nii.gz", read.array, read.header)
    written = nibabel.load(tmp_path / "written.nii.gz")
    assert np.array_equal(written.get_fdata(), values)
    assert np.allclose(written.affine, OBLIQUE, atol=1e-4)


def test_an_axial_slice_keeps_its_x_and_y(tmp_path: Path) -> None:
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    read = read_image(save_nifti(tmp_path / "slice.nii.gz", VALUES[:, :, :1], affine))
    assert np.allclose(read.grid.affine, [[-2, 0, 10], [0, 3, 20], [0, 0, 1]])


def test_scaled_integers_are_real_numbers(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, OBLIQUE)
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "scaled.nii.gz")
    read = read_image(tmp_path / "scaled.nii.gz")
    assert read.header.dtype == np.float32
    assert np.allclose(read.array[0], sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "scaled.nii.gz"))).T)
    assert read_image(write_image(tmp_path / "w.nii.gz", read.array, read.header)).array.equal(read.array)


def test_labels_keep_their_integers(tmp_path: Path) -> None:
    labels = np.array([[0, 614454277], [16777217, 3]], dtype=np.int32)[:, :, None] * np.ones((1, 1, 3), np.int32)
    read = read_image(save_nifti(tmp_path / "labels.nii.gz", labels), labels=True)
    assert np.array_equal(read.array[0], labels)
    write_image(tmp_path / "written.nii.gz", read.array, read.header)
    assert np.array_equal(np.asanyarray(nibabel.load(tmp_path / "written.nii.gz").dataobj), labels)
    with pytest.raises(FileError, match="fractions"):
        read_image(save_nifti(tmp_path / "image.nii.gz", VALUES + np.float32(0.5)), labels=True)


@pytest.mark.parametrize("dtype", TYPES)
def test_values_are_rounded_and_clipped_to_the_type(dtype: str) -> None:
    values = torch.tensor([-1e30, -2.0, -0.6, 0.4, 0.6, 2.0, 1e30])
    converted = to_dtype(values, np.dtype(dtype))
    assert converted.dtype == dtype
    if np.dtype(dtype).kind == "f":
        assert np.array_equal(converted, values.numpy().astype(dtype))
    else:
        limits = np.iinfo(dtype)
        low = [limits.min, max(limits.min, -2), max(limits.min, -1)]
        assert converted[:-1].tolist() == [*low, 0, 1, 2]
        assert limits.max * 0.999 < converted[-1] <= limits.max


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pictures_lie_in_pixels_as_sitk_sees_them(suffix: str, dtype: str, tmp_path: Path) -> None:
    pixels = (VALUES[0] * (1 if dtype == "uint8" else 300)).astype(dtype)  # rows, columns
    if suffix == ".png":
        Picture.fromarray(pixels).save(tmp_path / f"a{suffix}")
    else:
        tifffile.imwrite(tmp_path / f"a{suffix}", pixels)
    read = read_image(tmp_path / f"a{suffix}")
    assert np.array_equal(read.array[0], pixels.T)
    assert read.header.pixels
    assert np.allclose(read.grid.affine, sitk_affine(sitk.ReadImage(str(tmp_path / f"a{suffix}"))))
    again = read_image(write_image(tmp_path / f"b{suffix}", read.array, read.header))
    assert again.header.dtype == dtype
    assert torch.equal(again.array, read.array)
    nifti = sitk.ReadImage(str(write_image(tmp_path / "c.nii.gz", read.array, read.header)))
    assert np.allclose(sitk_affine(nifti), read.grid.affine)
    assert np.array_equal(sitk.GetArrayFromImage(nifti), pixels)


def test_print_resolution_is_no_spacing(tmp_path: Path) -> None:
    Picture.fromarray(VALUES[0].astype(np.uint8)).save(tmp_path / "a.jpg", dpi=(300, 300))
    tifffile.imwrite(tmp_path / "a.tif", VALUES[0], resolution=(300, 300), resolutionunit="INCH")
    assert read_image(tmp_path / "a.jpg").grid.spacing == read_image(tmp_path / "a.tif").grid.spacing == (1.0, 1.0)


def test_grey_pictures_saved_as_colour_are_grey(tmp_path: Path) -> None:
    grey = VALUES[0].astype(np.uint8)
    Picture.fromarray(np.repeat(grey[..., None], 3, -1)).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png").array[0].T, grey)
    palette = Picture.fromarray(grey).convert("P")
    palette.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    palette.save(tmp_path / "labels.png")
    assert np.array_equal(read_image(tmp_path / "labels.png", labels=True).array[0].T, np.asarray(palette))
    with pytest.raises(FileError, match="colour"):
        read_image(tmp_path / "labels.png")


def test_tiff_stacks_are_volumes_unless_they_say_time(tmp_path: Path) -> None:
    stack = np.ascontiguousarray(VALUES.T)
    tifffile.imwrite(tmp_path / "z.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    assert np.array_equal(read_image(tmp_path / "z.tif").array[0], VALUES)
    tifffile.imwrite(tmp_path / "t.tif", stack, imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(FileError, match="series"):
        read_image(tmp_path / "t.tif")


def save_dicom(folder: Path, values: np.ndarray, positions: list[float] | None = None) -> Path:
    """A CT series as a scanner writes it: one file per slice."""
    folder.mkdir()
    series = sitk.GetImageFromArray(values.T)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    tags = {"0008|0060": "CT", "0020|000e": "1.2.826.0.1.3680043.2.1125.1", "0020|000d": "1.2.826.0.1.3680043.2.1125.2"}
    direction = "0.8\\0.6\\0\\-0.6\\0.8\\0"
    for number in range(series.GetSize()[2]):
        position = 2.5 * number if positions is None else positions[number]
        image = series[:, :, number]
        image.SetSpacing([0.7, 0.9])
        for tag, value in {**tags, "0020|0032": f"11\\-12\\{position}", "0020|0037": direction}.items():
            image.SetMetaData(tag, value)
        image.SetMetaData("0020|0013", str(number + 1))
        image.SetMetaData("0008|0018", f"1.2.826.0.1.3680043.2.1125.3.{number + 1}")
        writer.SetFileName(str(folder / f"{(number * 5) % 7}.dcm"))
        writer.Execute(image)
    return folder


def test_dicom_folders_are_volumes(tmp_path: Path) -> None:
    read = read_image(save_dicom(tmp_path / "series", VALUES))
    assert np.array_equal(read.array[0], VALUES)
    assert read.header.dtype == np.int16
    lps = np.array([[0.56, -0.54, 0, 11], [0.42, 0.72, 0, -12], [0, 0, 2.5, 0], [0, 0, 0, 1]])
    assert np.allclose(read.grid.affine, flip_lps(3) @ lps, atol=1e-5)
    written = sitk.ReadImage(str(write_image(tmp_path / "w.nii.gz", read.array, read.header)))
    assert np.allclose(sitk_affine(written), read.grid.affine, atol=1e-4)
    with pytest.raises(FileError, match="one position"):
        read_image(save_dicom(tmp_path / "cine", VALUES, [0, 0, 2, 2, 4, 4, 6]))
    with pytest.raises(FileError, match="missing"):
        read_image(save_dicom(tmp_path / "gap", VALUES, [0, 2, 4, 8, 10, 12, 14]))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileError, match="no DICOM series"):
        read_image(tmp_path / "nothing")


def test_what_is_no_single_grey_image_is_refused(tmp_path: Path) -> None:
    save_nifti(tmp_path / "4d.nii.gz", np.zeros((4, 5, 6, 3), np.float32))
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), [(c, "u1") for c in "RGB"]), OBLIQUE), tmp_path / "rgb.nii.gz")
    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (6, 7, 3)).astype(np.uint8)).save(tmp_path / "rgb.png")
    tifffile.imwrite(tmp_path / "rgb.tif", np.random.default_rng(0).integers(0, 9, (6, 7, 3)).astype(np.uint8))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3)), isVector=True), str(tmp_path / "vectors.mha"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 6)), isVector=False), str(tmp_path / "4d.nrrd"))
    save_nifti(tmp_path / "complex.nii.gz", np.zeros((4, 5, 6), np.complex64))
    save_nifti(tmp_path / "line.nii.gz", np.zeros((4, 1, 1), np.float32))
    for name, word in {
        "4d.nii.gz": "4 × 5 × 6 × 3",
        "rgb.nii.gz": "colour",
        "rgb.png": "colour",
        "rgb.tif": "colour",
        "vectors.mha": "channels",
        "4d.nrrd": "6 × 5 × 4 × 3",
        "complex.nii.gz": "complex64",
        "line.nii.gz": "4 × 1 × 1",
        "nowhere.nii.gz": "does not exist",
    }.items():
        with pytest.raises(FileError, match=word) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
    # a fourth axis of one is none
    assert read_image(save_nifti(tmp_path / "one.nii.gz", VALUES[..., None])).array.shape == (1, *VALUES.shape)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes(
        {"truncated": content[: len(content) // 2], "scrambled": b"\7" * 60 + content[60:], "empty": b""}[how]
    )


@pytest.mark.parametrize("how", ["truncated", "scrambled", "empty"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".tif", ".png"])
def test_damaged_files_are_named(suffix: str, how: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 65)).astype(np.uint8)
    source = read_image(save_nifti(tmp_path / "source.nii.gz", noise, np.diag([1, 2, 3, 1])))
    path = write_image(tmp_path / f"image{suffix}", source.array, source.header)
    read_image(path)
    damage(path, how)
    with pytest.raises(FileError, match=f"image{suffix} .*") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_a_singular_header_is_named(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "flat.nii", VALUES)
    image = nibabel.load(path)
    header = image.header.copy()
    header["srow_x"] = header["srow_y"]
    with open(path, "r+b") as file:
        file.write(header.binaryblock)
    with pytest.raises(FileError, match="flat.nii"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".tif", ".png"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_nothing_half_written_stays(suffix: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 310)).astype(np.uint8)
    source = read_image(save_nifti(tmp_path / "source.nii.gz", noise, np.diag([1, 2, 3, 1])))
    target = tmp_path / "out" / f"written{suffix}"
    target.parent.mkdir()
    target.write_text("an older result")
    opened = open

    class FullDisk:
        """Takes a few bytes, as a disk that fills up, or none, as a folder that may not be written to."""

        def __init__(self, path: Path, mode: str) -> None:
            if code != errno.ENOSPC:
                raise OSError(code, "no")
            self.file = opened(path, mode)

        def write(self, data: bytes) -> int:
            self.file.write(bytes(data)[:10])
            self.file.flush()
            raise OSError(code, "No space left on device")

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def __enter__(self) -> FullDisk:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    monkeypatch.setattr("warpzoo.images.image.open", FullDisk, raising=False)
    with pytest.raises(FileError, match=f"written{suffix} cannot be written: .*(full|may not|read-only).*choose"):
        write_image(target, source.array, source.header)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert target.read_text() == "an older result"


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:

    def interrupted() -> None:
        with whole_file(tmp_path / "metrics.json") as temporary:
            temporary.write_text("{")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
    with whole_file(tmp_path / "new" / "metrics.json") as temporary:
        temporary.write_text("{}")
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == {}
    with (
        pytest.raises(FileError, match="folder"),
        whole_file(tmp_path / "new" / "metrics.json" / "x.json") as temporary,
    ):
        temporary.write_text("{}")


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    source = read_image(save_nifti(tmp_path / "source.nii.gz", VALUES))
    first = write_image(tmp_path / "a.nii.gz", source.array, source.header).read_bytes()
    assert first == write_image(tmp_path / "b.nii.gz", source.array, source.header).read_bytes()
    assert first[4:8] == bytes(4)  # gzip's time stamp
    assert len(gzip.decompress(first)) == 352 + VALUES.nbytes


def test_names_that_cannot_hold_the_image_are_refused(tmp_path: Path) -> None:
    source = read_image(save_nifti(tmp_path / "source.nii.gz", VALUES))
    for name in ("a.png", "a.jpg", "a"):
        with pytest.raises(FileError, match="choose"):
            write_image(tmp_path / name, source.array, source.header)
    (tmp_path / "image.xyz").write_text("what?")
    with pytest.raises(FileError, match="of no kind that is read"):
        read_image(tmp_path / "image.xyz")
