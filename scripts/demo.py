"""A beating heart registered with the shipped weights, by the command line: `python scripts/demo.py [FOLDER]`.

Writes a phantom at end-diastole and end-systole as NIfTI files with labels into FOLDER (demo/), calls
`warpzoo register` on them and prints where the pictures are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np

from warpzoo.data.phantom import beating_heart

SPACING = 1.28  # millimetres, as in the weights' training data


def write_phantom(folder: Path, name: str, phase: float) -> None:
    """Image and labels of one phase, as volumes of one slice."""
    heart = beating_heart(phase=phase, seed=0)
    affine = np.diag([-SPACING, -SPACING, 8.0, 1.0])
    for suffix, values in (("", heart.image.round().short()), ("_labels", heart.labels)):
        volume = values.numpy().T[:, :, None]  # columns of the slice are the file's first axis
        nibabel.save(nibabel.Nifti1Image(volume, affine), folder / f"{name}{suffix}.nii.gz")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"[demo] making a beating heart in {folder}/")
    for name, phase in (("end_diastole", 0.0), ("end_systole", 1.0)):
        write_phantom(folder, name, phase)
    fixed, moving = folder / "end_diastole", folder / "end_systole"
    command = ["register", f"{fixed}.nii.gz", f"{moving}.nii.gz", "--method", "dirnet"]
    command += ["--output", f"{folder}/registered"]
    command += ["--fixed_labels", f"{fixed}_labels.nii.gz", "--moving_labels", f"{moving}_labels.nii.gz"]
    print("[demo] warpzoo " + " ".join(command))
    if subprocess.run([sys.executable, "-m", "warpzoo", *command]).returncode:
        sys.exit("[demo] the registration failed: see the message above")
    numbers = json.loads((folder / "registered" / "metrics.json").read_text(encoding="utf-8"))
    print("[demo] the blood pool of the left ventricle is label 1: ", end="")
    print(f"Dice {numbers['dice_before']['1']:.3f} before, {numbers['dice']['1']:.3f} after")
    print(f"[demo] see {folder}/registered/report.png, or open {folder}/registered/report.html in a browser")


if __name__ == "__main__":
    main()
