"""Lists the public images that `fcn_multires --variant any` is trained on, or with --flat those of `any,any_2d`:
training.csv and validation.csv.

    python scripts/collect_any.py ../shared/data bundles/fcn_multires/data [--flat] [--without hearts]

With --without, a kind of images is left out, to measure what the network does on a kind that it has not seen. Images of
one group show the same anatomy about the same place. Test cases of the tables are in neither list.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path
from typing import TypeAlias

import nibabel
import numpy as np
import tifffile
from monai.bundle import ConfigParser

BUNDLES = Path(__file__).parents[1] / "bundles"
Rows: TypeAlias = dict[str, list[dict[str, Path | str]]]


def volumes(data: Path, output: Path) -> Rows:
    settings = read("fcn_multires")
    validation, test = (set(settings.get_parsed_content(key)) for key in ("validation_subjects", "test_subjects"))
    rows: Rows = {"training": [], "validation": []}
    for path in sorted((data / "hippocampus" / "images").glob("*.nii.gz")):
        row = {"kind": "hippocampi", "image": path, "group": "hippocampus"}
        if path.name in validation:
            rows["validation"].append(row | {"label": data / "hippocampus" / "labels" / path.name})
        elif path.name not in test:
            rows["training"].append(row)
    brain = data / "brain"
    brains: dict[str, Path | str] = {"kind": "brains", "group": "brain"}
    rows["training"] += [brains | {"image": brain / f"{name}.nii.gz"} for name in ("mni", "ch2")]
    rows["validation"].append(brains | {"image": brain / "mni.nii.gz", "label": brain / "mnia.nii.gz"})
    nuclei = data / "microscopy" / "nuclei" / "img3d.tif"
    rows["training"].append({"kind": "cells", "image": nuclei, "group": "nuclei"})
    return rows


def slices(data: Path, output: Path) -> Rows:
    """Hearts and slices of volumes of brains, which are written as files of their own, slices of brains, microscopy."""
    settings = read("dirnet")
    validation, test = (set(settings.get_parsed_content(key)) for key in ("validation_subjects", "test_subjects"))
    rows: Rows = {"training": [], "validation": []}
    hearts = np.load(data / "cardiac" / "sunnybrook_ed_es_pairs.npz")
    for folder in ("hearts", "brains"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for number, (subject, place) in enumerate(zip(hearts["subject"], hearts["slice"], strict=True)):
        for phase in ("ed", "es") if subject not in test else ():
            files = {"image": output / "hearts" / f"{subject}_{place}_{phase}.tif"}
            tifffile.imwrite(files["image"], hearts[phase][number])
            if subject in validation:
                files["label"] = files["image"].with_name(f"{files['image'].stem}_lv.tif")
                tifffile.imwrite(files["label"], hearts[f"{phase}_lv"][number].astype(np.uint8))
            row = files | {"kind": "hearts", "group": f"{subject}_{place}"}
            rows["validation" if subject in validation else "training"].append(row)
    brain, microscopy = data / "brain", data / "microscopy"
    for number, path in enumerate(sorted((brain / "oasis_2d").glob("*.nrrd"))):
        part = {8: "validation", 9: "test"}.get(number % 10, "training")
        if part != "test":
            rows[part].append({"kind": "brains", "image": path, "group": "oasis"})
    for path in sorted((brain / "slices").glob("*.jpg")):
        rows["training"].append({"kind": "brains", "image": path, "group": "slices"})
    for name in ("mni", "ch2"):
        volume = np.asarray(nibabel.load(brain / f"{name}.nii.gz").dataobj, np.float32)
        for axis, fraction in itertools.product(range(3), np.linspace(0.2, 0.8, 13)):
            place = round(fraction * volume.shape[axis])
            path = output / "brains" / f"{name}_{axis}_{place}.tif"
            tifffile.imwrite(path, volume.take(place, axis))
            rows["training"].append({"kind": "brains", "image": path, "group": f"brain_{axis}_{fraction:.2f}"})
    fields = [microscopy / "nuclei" / "img2d.tif", *sorted((microscopy / "fmd" / "average50").glob("*.tif"))]
    fields += sorted((microscopy / "lowsnr_pairs").glob("*-highsnr-sample.png"))
    rows["training"] += [{"kind": "cells", "image": path, "group": path.stem} for path in fields]
    return rows


def read(bundle: str) -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_file(BUNDLES / bundle / "configs" / "train.json"))


def main(data: Path, output: Path, flat: bool, without: str | None = None) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in (slices if flat else volumes)(data.resolve(), output.resolve()).items():
        entries = [row for row in rows if row["kind"] != without]
        with open(output / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["image", "group", "label"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(entries)
        print(f"{output / name}.csv: {len(entries)} images")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--flat", action="store_true")
    parser.add_argument("--without", choices=("brains", "cells", "hearts", "hippocampi"), metavar="KIND")
    options = parser.parse_args()
    main(options.data, options.output, options.flat, options.without)
