"""The operators of MONAI Deploy between which an image goes: loaders, what runs the bundle, writers.

What goes from one to the next are the bundle's own objects, with their place in the world: nothing is cast or turned.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from warpzoo.deployment.application.bundle import Released
from warpzoo.deployment.application.dicom_objects import Maker
from warpzoo.deployment.application.inputs import find_image, find_pair, is_dicom
from warpzoo.images.stacks import open_stack

LOG = logging.getLogger("warpzoo")


class PairLoader(Operator):
    """NIfTI, MetaImage, NRRD, TIFF, PNG or DICOM series called fixed and moving → `pair`."""

    def __init__(self, fragment: Fragment, *, released: Released, folder: Path, series: Mapping[str, str]) -> None:
        self.released, self.folder, self.series = released, folder, series
        self.work = tempfile.TemporaryDirectory()  # as long as this, as the writers read headers again
        super().__init__(fragment, name="pair_loader")

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("pair")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        files = find_pair(self.folder, self.series, Path(self.work.name))
        op_output.emit(self.released.read_pair(files), "pair")


class PairRegistration(Operator):
    """`pair` → `done`: the pair and its registration by the bundle's network, float32 on any grids."""

    def __init__(self, fragment: Fragment, *, released: Released) -> None:
        self.released = released
        super().__init__(fragment, name="pair_registration")

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("pair")
        spec.output("done")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        pair = op_input.receive("pair")
        op_output.emit({"pair": pair, "registration": self.released.register(pair)}, "done")


class PairWriter(Operator):
    """`done` → NIfTI, ITK transform, report and metrics, and DICOM objects where the images are DICOM series."""

    def __init__(self, fragment: Fragment, *, released: Released, folder: Path) -> None:
        self.released, self.folder = released, folder
        super().__init__(fragment, name="pair_writer")

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("done")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        from warpzoo.deployment.application.results import write_dicom  # what a denoising bundle cannot import

        done = op_input.receive("done")
        pair, registration = done["pair"], done["registration"]
        self.released.write_pair(pair, registration, self.folder)
        maker = Maker(self.released.bundle.name, self.released.version)
        write_dicom(registration, pair["files"], maker, self.folder, self.folder / "report.png")


class ImageLoader(Operator):
    """The only image of the input folder → `path`, and `stack`, which is read part by part."""

    def __init__(self, fragment: Fragment, *, folder: Path, spatial_dims: int | None = None) -> None:
        self.folder, self.spatial_dims = folder, spatial_dims
        super().__init__(fragment, name="image_loader")

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        path = find_image(self.folder)
        stack = None if self.spatial_dims is None else open_stack(path, self.spatial_dims)
        op_output.emit({"path": path, "stack": stack}, "image")


class DenoisingWriter(Operator):
    """`image` → a file of its kind and data type, denoised tile by tile: it may be larger than the memory.

    A DICOM series becomes a NIfTI in its place.
    """

    def __init__(self, fragment: Fragment, *, released: Released, folder: Path) -> None:
        self.released, self.folder = released, folder
        super().__init__(fragment, name="denoising_writer")

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image = op_input.receive("image")
        path: Path = image["path"]
        name = "denoised.nii.gz" if is_dicom(path) else f"denoised{''.join(path.suffixes[-2:])}"
        done = self.released.denoise(image["stack"], self.folder / name)
        for finding in done.findings:
            LOG.warning(finding)


class SequenceRegistration(Operator):
    """`image`, a time-lapse → `done`: its frames registered to one of them, and denoised."""

    def __init__(self, fragment: Fragment, *, released: Released) -> None:
        self.released = released
        super().__init__(fragment, name="sequence_registration")

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.output("done")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        op_output.emit({"result": self.released.register_sequence(op_input.receive("image")["path"])}, "done")


class SequenceWriter(Operator):
    """`done` → frames in the format of the input, tables of matrices, report and film."""

    def __init__(self, fragment: Fragment, *, folder: Path) -> None:
        self.folder = folder
        super().__init__(fragment, name="sequence_writer")

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("done")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        op_input.receive("done")["result"].save(self.folder)
