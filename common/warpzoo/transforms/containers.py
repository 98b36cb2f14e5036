"""Files of ITK transforms: text (.tfm, .txt), HDF5 (.h5) and Matlab (.mat) ↔ lists of `ItkTransform`.

Convention: a composite comes first, without parameters, and its parts follow; points go through the last part first.
Text is read here and not by itk, whose transforms take half a minute to import on a slow disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from warpzoo.files import FileError, shortened, whole_file
from warpzoo.images.source import DEFLATE_RATIO, check_size
from warpzoo.transforms.itk import ItkTransform

TEXT = (".tfm", ".txt", ".xfm")
HDF5 = (".h5", ".hdf5", ".hdf")
MATLAB = (".mat",)
MATLAB_TYPES = {
    number.to_bytes(4, "little" if order == "<" else "big"): f"{order}{kind}"
    for order, thousands in (("<", 0), (">", 1000))
    for kind, number in (("f8", thousands), ("f4", thousands + 10))
}
"""How a matrix of real numbers begins in a Matlab file of version 4, with their type."""


def read_itk_transforms(path: Path) -> list[ItkTransform]:
    name = path.name.lower()
    if name.endswith(HDF5):
        return _read_hdf5(path)
    return _read_matlab(path) if name.endswith(MATLAB) else _read_text(path)


def write_itk_transforms(path: Path, transforms: Sequence[ItkTransform]) -> Path:
    """One transform, or a composite's parts in the order in which points go through them."""
    stored = list(transforms)
    if len(stored) > 1:
        nothing = np.zeros(0)
        stored = [ItkTransform("CompositeTransform", stored[0].dims, nothing, nothing), *reversed(stored)]
    with whole_file(path) as temporary:
        (_write_hdf5 if path.name.lower().endswith(HDF5) else _write_text)(temporary, stored)
    return path


def _read_text(path: Path) -> list[ItkTransform]:
    transforms: list[ItkTransform] = []
    for line in path.read_text().splitlines():
        key, _, rest = line.partition(":")
        if key == "Transform":
            transforms.append(ItkTransform.named(rest))
        elif key in ("Parameters", "FixedParameters") and transforms:
            values, last = np.array(rest.split(), dtype=np.float64), transforms[-1]
            transforms[-1] = last._replace(parameters=values) if key == "Parameters" else last._replace(fixed=values)
    return transforms


def _write_text(path: Path, transforms: Sequence[ItkTransform]) -> None:
    lines = ["#Insight Transform File V1.0"]
    for number, one in enumerate(transforms):
        lines += [f"#Transform {number}", f"Transform: {one.name}"]
        if one.kind != "CompositeTransform":
            lines.append(f"Parameters: {' '.join(map(repr, one.parameters.tolist()))}")
            lines.append(f"FixedParameters: {' '.join(map(repr, one.fixed.tolist()))}")
    path.write_text("\n".join(lines) + "\n")


def _read_hdf5(path: Path) -> list[ItkTransform]:
    import h5py

    def values(one: h5py.Group, name: str) -> np.ndarray:
        for key in (f"Transform{name}", f"Tranform{name}"):  # ITK before 5 spelled two of these names without their s
            if key in one:
                check_size(path, one[key].shape, one[key].dtype, ratio=DEFLATE_RATIO)
                return one[key][()]
        return np.zeros(0)

    def name(one: h5py.Group) -> str:
        check_size(path, one["TransformType"].shape, one["TransformType"].dtype, ratio=DEFLATE_RATIO)
        return str(one["TransformType"][0].decode())

    with h5py.File(path, "r") as file:
        group = file["TransformGroup"]
        return [
            ItkTransform.named(
                name(group[number]),
                values(group[number], "Parameters"),
                values(group[number], "FixedParameters"),
            )
            for number in sorted(group, key=int)
        ]


def _write_hdf5(path: Path, transforms: Sequence[ItkTransform]) -> None:
    """ITK's layout; nothing in it depends on the time or the machine, so the same transform gives the same bytes."""
    import h5py

    text = h5py.string_dtype("ascii")
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.create_dataset("ITKVersion", data=["5.4.0"], dtype=text)
        file.create_dataset("HDFVersion", data=[h5py.version.hdf5_version], dtype=text)
        group = file.create_group("TransformGroup")
        for number, one in enumerate(transforms):
            entry = group.create_group(str(number))
            entry.create_dataset("TransformType", data=[one.name], dtype=text)
            if one.kind != "CompositeTransform":
                entry.create_dataset("TransformFixedParameters", data=one.fixed.astype(np.float64))
                entry.create_dataset("TransformParameters", data=one.parameters)


def _read_matlab(path: Path) -> list[ItkTransform]:
    """Two columns: the parameters by the transform's name, and the fixed parameters by the name `fixed`.

    Of version 4, which ITK reads and writes. Read here: at damaged files scipy may crash (version 5) or never end (4).
    """
    content, place, columns = path.read_bytes(), 0, {}
    while place < len(content):
        kind = content[place : place + 4]
        if kind not in MATLAB_TYPES:
            raise FileError(
                f"{path} must be a Matlab file of version 4 with real numbers, as ITK writes it: save it with -v4, or "
                f"as .tfm or .h5."
            )
        dtype = np.dtype(MATLAB_TYPES[kind])
        rows, count, imaginary, length = np.frombuffer(content, dtype.byteorder + "i4", 4, place + 4).tolist()
        if min(rows, count) < 0 or imaginary or length < 1:
            raise FileError(f"{path} has a damaged header: copy or export it again.")
        start = place + 20 + length
        name = content[place + 20 : start].rstrip(b"\0").decode()
        columns[name] = np.frombuffer(content, dtype, rows * count, start).astype(dtype.newbyteorder("="))
        place = start + rows * count * dtype.itemsize
    names = list(columns)
    if names[1:] != ["fixed"]:
        raise FileError(
            f"{path} holds the variables {shortened(', '.join(names))}; a Matlab file must hold one transform and its "
            f"fixed parameters: save it as .tfm or .h5."
        )
    return [ItkTransform.named(names[0], columns[names[0]], columns["fixed"])]
