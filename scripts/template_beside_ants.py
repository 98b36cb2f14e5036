"""A template of hippocampi beside antspyx's `build_template` on the same volumes: how sharp it is, and its time.

python scripts/template_beside_ants.py --data DATA [--subjects 20] [--skip 0] [--iterations 4] [--markdown FILE]
python scripts/template_beside_ants.py --data DATA --test --methods affine,svf stn_affine:hippocampus,fcn_multires
python scripts/template_beside_ants.py --data DATA --steps   # ours alone: where its seconds go

DATA holds hippocampus/images (MSD Task04). Both get the same volumes, scaled to the same intensities, and one thread.
The judge is ANTs: its SyN registers each subject to each template, and the mean correlation of template and warped
subjects says how much of them the template shows; edges are the mean slope of the template over its standard deviation.
Settings were chosen on volumes from the 100th on (--skip 100); --test takes the test subjects of fcn_multires, which no
network has seen. Times are without imports and loading a network's weights. Needs the packages of the extra `peers`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")

import ants
import numpy as np
import torch

from warpzoo.bundles import open_bundle
from warpzoo.cohorts import template as rounds
from warpzoo.cohorts.many import recipe_of
from warpzoo.cohorts.template import normalised
from warpzoo.cohorts.template_files import build_template, subjects_of
from warpzoo.images.image import read_image, write_image
from warpzoo.record import machine


def seen_in(template: Any, subjects: list[Any]) -> list[float]:
    """The correlation of the template with each subject that SyN has registered to it."""
    found = []
    for subject in subjects:
        warped = ants.registration(template, subject, "SyN", random_seed=1)["warpedmovout"].numpy()
        inside = warped != 0
        found.append(float(np.corrcoef(warped[inside], template.numpy()[inside])[0, 1]))
    return found


def timed(steps: dict[str, float]) -> None:
    """Has the processor's seconds of each step of a template's rounds put there."""

    def counted(name: str) -> Any:
        step = getattr(rounds, name)

        def same(iteration: Any, *arguments: Any) -> Any:
            begun = time.process_time()
            try:
                return step(iteration, *arguments)
            finally:
                key = f"{name}, round {iteration.number}"
                steps[key] = steps.get(key, 0.0) + time.process_time() - begun

        return same

    words = dict(rounds.WORDS)
    for name in ("find", "average", "move", "save"):
        words[counted_one := counted(name)] = words.get(getattr(rounds, name), "")
        setattr(rounds, name, counted_one)
    rounds.WORDS = words


def edges(template: Any) -> float:
    values = template.numpy()
    return float(np.linalg.norm(np.gradient(values), axis=0).mean() / values.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--methods", nargs="+", default=["affine,svf"])
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--steps", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted((options.data / "hippocampus/images").glob("*.nii.gz"))
    if options.test:
        config = open_bundle(Path(__file__).parents[1] / "bundles" / "fcn_multires").config("train")
        files = [file for file in files if file.name in config.get_parsed_content("test_subjects")]
    files = files[options.skip :][: options.subjects]
    with tempfile.TemporaryDirectory() as folder:
        inputs = []
        for file in files:
            image = read_image(file)
            inputs.append(write_image(Path(folder, file.name), 100 * normalised(image).array, image.header, np.float32))
        rows, steps = {}, dict[str, float]()
        if options.steps:
            timed(steps)
        for number, method in enumerate(options.methods):
            recipe, out = recipe_of(method, threads=1), Path(folder, f"template{number}")
            steps.clear()
            begun = time.process_time()
            build_template(subjects_of(inputs), out, recipe, options.iterations)
            seconds = time.process_time() - begun
            if options.steps:
                print(f"{method}: {len(files)} subjects, {machine()['processor']}: {seconds:.1f} s of the processor")
                print(*(f"{name}: {seconds:.1f} s" for name, seconds in steps.items()), sep="\n")
            rows[f"warpzoo template, {method}"] = (ants.image_read(str(out / "template.nii.gz")), seconds)
        if options.steps:
            return
        subjects = [ants.image_read(str(file)) for file in inputs]
        begun = time.process_time()
        theirs = ants.build_template(image_list=subjects, random_seed=1)
        rows["antspyx build_template"] = (theirs, time.process_time() - begun)
        lines = [
            f"{len(files)} hippocampi ({files[0].name} to {files[-1].name}), {machine()['processor']}, one thread:",
            "",
            "| template | correlation with its subjects: mean | median | worst | edges | processor time |",
            "|---|---|---|---|---|---|",
        ]
        for name, (template, seconds) in rows.items():
            found = seen_in(template, subjects)
            lines.append(
                f"| {name} | {np.mean(found):.4f} | {np.median(found):.4f} | {np.min(found):.4f} | "
                f"{edges(template):.3f} | {seconds:.0f} s |"
            )
    text = "\n".join(lines) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
