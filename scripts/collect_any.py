"""Lists the public images that `fcn_multires --variant any` is trained on: training.csv and validation.csv.

    python scripts/collect_any.py ../shared/data bundles/fcn_multires/data

Images of one group show the same anatomy about the same place. Test cases of the tables are in neither list.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from monai.bundle import ConfigParser

BUNDLE = Path(__file__).parents[1] / "bundles" / "fcn_multires"


def main(data: Path, output: Path) -> None:
    data = data.resolve()
    settings = ConfigParser.load_config_file(BUNDLE / "configs" / "train.json")
    parser = ConfigParser(settings)
    validation, test = (set(parser.get_parsed_content(key)) for key in ("validation_subjects", "test_subjects"))
    rows: dict[str, list[dict[str, str]]] = {"training": [], "validation": []}
    for path in sorted((data / "hippocampus" / "images").glob("*.nii.gz")):
        row = {"image": str(path), "group": "hippocampus", "label": ""}
        if path.name in validation:
            rows["validation"].append(row | {"label": str(data / "hippocampus" / "labels" / path.name)})
        elif path.name not in test:
            rows["training"].append(row)
    brain = data / "brain"
    rows["training"] += [{"image": str(brain / f"{name}.nii.gz"), "group": "brain"} for name in ("mni", "ch2")]
    rows["validation"].append(
        {"image": str(brain / "mni.nii.gz"), "group": "brain", "label": str(brain / "mnia.nii.gz")}
    )
    rows["training"].append({"image": str(data / "microscopy" / "nuclei" / "img3d.tif"), "group": "nuclei"})
    output.mkdir(parents=True, exist_ok=True)
    for name, entries in rows.items():
        with open(output / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["image", "group", "label"])
            writer.writeheader()
            writer.writerows(entries)
        print(f"{output / name}.csv: {len(entries)} images")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
