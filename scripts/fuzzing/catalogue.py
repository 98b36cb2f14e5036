"""Which files are damaged by chance, and the hostile ones made by hand, by format."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import h5py
import nibabel
import numpy as np
import torch

from fuzzing.seeds import (
    COLUMNS,
    LANDMARKS,
    LAUGHS,
    ROWS,
    Maker,
    Runs,
    archive,
    big_endian,
    bomb,
    declaring,
    dicom,
    dicom_and,
    dicom_with,
    endless_zarr,
    hdf5,
    huge_png,
    itk_image,
    listed,
    matlab,
    meta_header,
    nifti,
    nrrd_header,
    ome_text,
    ome_xml,
    ome_zarr,
    packed_archive,
    packed_weights,
    pairs,
    picture,
    put,
    slicer,
    state,
    tiff,
    transform,
    weights,
    weights_declaring,
    written,
)

REAL: dict[str, tuple[Maker, ...]] = {
    "nifti": (
        nifti,
        partial(nifti, name="a.nii.gz", dtype="float32"),
        partial(nifti, name="a.nii.gz", slope=2.5),
        partial(nifti, kind=nibabel.Nifti2Image),
        big_endian,
    ),
    "metaimage": (
        partial(itk_image, name="a.mha"),
        partial(itk_image, name="a.mha", compressed=True),
        partial(itk_image, name="a.mhd"),
        partial(itk_image, name="a.mhd", compressed=True),
    ),
    "nrrd": (
        partial(itk_image, name="a.nrrd"),
        partial(itk_image, name="a.nrrd", compressed=True),
        partial(itk_image, name="a.nhdr"),
    ),
    "picture": (
        partial(picture, name="a.png"),
        partial(picture, name="a.png", mode="I;16"),
        partial(picture, name="a.png", mode="P"),
        partial(picture, name="a.png", mode="1"),
        partial(picture, name="a.jpg"),
        partial(picture, name="a.bmp"),
    ),
    "tiff": (
        tiff,
        partial(tiff, compression="zlib", predictor=True),
        partial(tiff, tile=(16, 16), bigtiff=True),
        partial(tiff, imagej=True, metadata={"axes": "ZYX"}),
        partial(tiff, byteorder=">", rowsperstrip=2, metadata=None),
    ),
    "ome_xml": (partial(tiff, name="a.ome.tif", metadata={"axes": "ZYX"}), partial(ome_xml, xml=ome_text())),
    "zarr": (
        ome_zarr,
        partial(ome_zarr, version=3),
        partial(ome_zarr, version=3, chunks=(3, 4, 4), shards=(6, 8, 12)),
        partial(ome_zarr, compressors=None),
    ),
    "dicom": (dicom,),
    "displacement": (
        partial(itk_image, name="a.nii.gz", vector=True),
        partial(itk_image, name="a.nii", vector=True, dims=2),
        partial(itk_image, name="a.mha", vector=True),
        partial(itk_image, name="a.nrrd", vector=True, compressed=True),
    ),
    "tfm": tuple(partial(transform, name="a.tfm", kind=kind) for kind in ("affine", "2d", "spline", "composite")),
    "h5": tuple(partial(transform, name="a.h5", kind=kind) for kind in ("affine", "field", "composite")),
    "mat": (matlab, partial(transform, name="a.mat"), partial(transform, name="a.mat", kind="2d")),
    "csv": (
        partial(written, name="a.csv", content=LANDMARKS),
        partial(written, name="a.csv", content="\ufeffx;y\n1;2\n3;4\n"),
    ),
    "fcsv": (
        partial(
            written,
            name="a.fcsv",
            content="# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
            "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
            "1,1,2,3,0,0,0,1,1,1,0,F-1,,\n2,4,5,6,0,0,0,1,1,1,0,F-2,,\n",
        ),
    ),
    "mrk_json": (slicer,),
    "weights": (
        weights,
        partial(weights, zipped=False),
        lambda folder: weights(folder, {"network": state(), "epoch": 3}),
    ),
    "lists": (
        pairs,
        partial(listed, name="a.csv", content="image,subject,id\na.nii,1,x\na.nii,2,y\n"),
        partial(listed, name="a.json", content='[{"image": "a.nii", "group": "g"}, {"image": "a.nii", "id": "b"}]'),
        archive,
    ),
    "psf": (partial(picture, name="a.png"), partial(nifti, name="a.nii")),
}

HOSTILE: dict[str, dict[str, Maker]] = {
    "nifti": {
        "32,000³ declared": partial(declaring, name="a.nii"),
        "32,000³ declared, packed": partial(declaring, name="a.nii.gz"),
        "640 MB packed to 640 kB": bomb,
    },
    "metaimage": {
        "32,000³ declared": partial(written, name="a.mha", content=meta_header("32000 32000 32000", "LOCAL")),
        "32,000³ declared, packed": partial(
            written, name="a.mha", content=meta_header("32000 32000 32000", "LOCAL", "CompressedData = True\n")
        ),
        "32,000³ beside": partial(written, name="a.mhd", content=meta_header("32000 32000 32000", "a.mhd")),
        "32,000³ in a list": partial(written, name="a.mhd", content=meta_header("32000 32000 32000", "LIST\na.mhd")),
        "text": partial(
            written, name="a.mha", content=meta_header("9000 9000 90", "LOCAL").replace("BinaryData = True", "")
        ),
        "values from an endless device": partial(
            written, name="a.mhd", content=meta_header("2000 2000 500", "/dev/zero")
        ),
        "no spacing": partial(
            written, name="a.mha", content=meta_header("8 7 6", "LOCAL", spacing="0 nan inf").encode() + bytes(672)
        ),
        "the sides' product overflows": partial(
            written, name="a.mha", content=meta_header("4294967296 4294967296 2", "LOCAL").encode() + bytes(672)
        ),
    },
    "nrrd": {
        "32,000³ declared": partial(
            written, name="a.nrrd", content=nrrd_header("32000 32000 32000", "raw").encode() + b"\n" + bytes(999)
        ),
        "32,000³ declared, packed": partial(
            written,
            name="a.nrrd",
            content=nrrd_header("32000 32000 32000", "gzip").encode() + b"\n" + gzip.compress(bytes(999)),
        ),
        "32,000³ beside": partial(
            written, name="a.nhdr", content=nrrd_header("32000 32000 32000", "raw", "data file: a.nhdr\n") + "\n"
        ),
        "text": partial(written, name="a.nrrd", content=nrrd_header("9000 9000 90", "ascii") + "\n1 2 3 4\n"),
        "values from an endless device": partial(
            written, name="a.nhdr", content=nrrd_header("2000 2000 500", "raw", "data file: /dev/zero\n") + "\n"
        ),
    },
    "picture": {"12,000² declared": huge_png},
    "tiff": {},
    "ome_xml": {
        "entities within entities": partial(ome_xml, xml=LAUGHS),
        "10,000 elements deep": partial(ome_xml, xml="<?xml version='1.0'?><OME>" + "<a>" * 10_000),
        "sizes beyond the file": partial(
            ome_xml, xml=ome_text().replace('SizeX="9"', 'SizeX="99999"').replace('SizeZ="5"', 'SizeZ="99999"')
        ),
        "a million planes": partial(ome_xml, xml=ome_text().replace('SizeT="1"', 'SizeT="1000000"')),
    },
    "zarr": {"32,000³ declared": endless_zarr},
    "dicom": {
        "65,535² declared": partial(
            dicom_with, old=ROWS + COLUMNS, new=(ROWS[:-2] + b"\xff\xff") + (COLUMNS[:-2] + b"\xff\xff")
        ),
        "a pipe among the slices": partial(dicom_and, add=lambda path: os.mkfifo(path / "9.dcm")),
        "an endless device among the slices": partial(
            dicom_and, add=lambda path: (path / "9.dcm").symlink_to("/dev/zero")
        ),
        "a link to itself among the slices": partial(dicom_and, add=lambda path: (path / "9").symlink_to(path / "9")),
        "the folder in itself": partial(dicom_and, add=lambda path: (path / "9").symlink_to(path)),
    },
    "h5": {
        "10¹⁵ numbers declared": partial(
            hdf5, change=lambda one: put(one, "TransformParameters", shape=(10**15,), dtype="f4", chunks=(2**20,))
        ),
        "10¹⁵ letters declared": partial(
            hdf5, change=lambda one: put(one, "TransformType", shape=(10**6,), dtype="S1000000", chunks=(1,))
        ),
        "2 GB packed": partial(
            hdf5,
            change=lambda one: put(one, "TransformParameters", shape=(2**29,), dtype="f4", compression="gzip"),
        ),
        "a link to itself": partial(
            hdf5, change=lambda one: put(one, "TransformParameters", h5py.SoftLink("/TransformGroup/0"))
        ),
        "a link to another file": partial(
            hdf5, change=lambda one: put(one, "TransformParameters", h5py.ExternalLink("/etc/passwd", "/x"))
        ),
        "values from an endless device": partial(
            hdf5,
            change=lambda one: put(
                one, "TransformParameters", shape=(2**28,), dtype="f4", external=[("/dev/zero", 0, 2**30)]
            ),
        ),
        "text for numbers": partial(hdf5, change=lambda one: put(one, "TransformParameters", ["a", "b"])),
        "no array": partial(hdf5, change=lambda one: put(one, "TransformParameters", h5py.Empty("f4"))),
    },
    "mat": {
        "version 5": partial(matlab, version="5"),
        "version 5, packed": partial(matlab, version="5", packed=True),
        "cells": partial(matlab, version="5", AffineTransform_double_3_3=np.array([[1], "a"], object), fixed="x"),
        "a structure": partial(matlab, version="5", AffineTransform_double_3_3={"a": {"b": 1}}, fixed=np.zeros(3)),
    },
    "mrk_json": {
        "100,000 lists deep": partial(written, name="a.mrk.json", content='{"markups":' + "[" * 100_000),
        "a number of a million digits": partial(
            written,
            name="a.mrk.json",
            content='{"markups":[{"controlPoints":[{"position":[1,2,' + "9" * 10**6 + "]}]}]}",
        ),
    },
    "weights": {
        "a pickle that runs a command": lambda folder: written(folder, "a.pt", pickle.dumps({"weight": Runs()})),
        "torch's file that runs a command": lambda folder: weights(folder, {"weight": Runs()}),
        "more numbers than there are": partial(weights_declaring, numel=2**30),
        "640 MB packed to 640 kB": packed_weights,
        "not a number": lambda folder: weights(folder, {**state(), "bias": torch.full((3,), torch.nan)}),
        "names that are numbers": lambda folder: weights(folder, {**state(), 3: torch.zeros(1)}),
        "sparse": lambda folder: weights(folder, {**state(), "bias": torch.zeros(3).to_sparse()}),
        "without values": lambda folder: weights(folder, {**state(), "bias": torch.zeros(3, device="meta")}),
        "complex": lambda folder: weights(folder, {**state(), "bias": torch.zeros(3, dtype=torch.complex64)}),
        "a text": lambda folder: weights(folder, {**state(), "bias": "abc"}),
        "a list": lambda folder: weights(folder, [1, 2]),
    },
    "lists": {
        "100,000 lists deep": partial(written, name="a.json", content="[" * 100_000),
        "a field of 1 MB": partial(pairs, text="fixed,moving\n" + "a" * 2**20 + ",b\n"),
        "640 MB packed to 640 kB": packed_archive,
        "objects": lambda folder: archive(folder, x=np.array([Runs(), Runs()], object)),
    },
}


def make_all(folder: Path, formats: list[str]) -> dict[str, list[Path]]:
    """The real files of these formats, each in a folder of its own."""
    made: dict[str, list[Path]] = {}
    for name in formats:
        made[name] = []
        for number, maker in enumerate(REAL[name]):
            own = folder / f"{name}-{number}"
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            made[name].append(maker(own))
    return made
