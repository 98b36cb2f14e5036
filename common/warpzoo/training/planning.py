"""What a training on one's own images is started with: the settings that the images ask for.

A bundle of networks that register says in its train.json what can be set: `records` by the variant `folder`, `size`,
`pairing`, `key_metric`, `accumulate`; a variant such as `2d` or `3d` is for other dimensions than its own.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from warpzoo.bundles import Bundle
from warpzoo.bundles.overrides import check_overrides
from warpzoo.images.image import by
from warpzoo.training.cache import free_memory
from warpzoo.training.inspection import Seen, check_grid, inspect_images, refuse_broken
from warpzoo.training.lists import Record, can_be_paired, list_images, not_of_subjects, of_subjects, runs_below
from warpzoo.training.reading import common_spacing

OWN_IMAGES = "folder"
"""The variant that trains on any images."""
SHORTEST = 32
"""Voxels that a side must have for a network and a similarity at several resolutions; shorter ones are padded."""
TRIED_VOXELS = 40_000
"""Of the pair that tells how much memory a step takes; larger ones take in proportion."""
TEMPORARY = 1.5
"""Memory of a step over that of what is kept for its gradients."""
SHARE = 0.7
"""Of the memory that is free, what a step may take."""
FEWEST = 4


@dataclass(frozen=True)
class Plan:
    """Variants, and settings on top of them, that a bundle's train.json is started with; sentences about them."""

    bundle: Bundle
    variants: Sequence[str]
    settings: Mapping[str, Any]
    notes: Sequence[str] = ()

    def command(self) -> str:
        """The same as a command of MONAI."""
        folder = self.bundle.root / "configs"
        files = [folder / "train.json", *map(self.bundle.variant_file, self.variants)]
        words = ["python", "-m", "monai.bundle", "run", "--config_file", str([str(file) for file in files])]
        for name, value in {"bundle_root": self.bundle.root, **self.settings}.items():
            words += [f"--{name}", str(list(value) if isinstance(value, tuple) else value)]
        return " ".join(
            f'"{word}"' if set(word) & {"'"} and not set(word) & set('"$`!\\') else shlex.quote(word) for word in words
        )


@dataclass(frozen=True)
class OwnImages:
    """One's own images: where they are and how they are listed, their records, what is seen of them, and the variants
    of a bundle that they ask for."""

    source: Path
    options: Mapping[str, Any]
    records: Sequence[Record]
    seen: Sequence[Seen]
    variants: Sequence[str]

    def good(self) -> tuple[list[Record], list[Seen]]:
        """Those that can be trained on."""
        good = [one for one in self.seen if not one.problem]
        names = {one.name for one in good}
        return [record for record in self.records if record["id"] in names], good

    def notes(self) -> list[str]:
        """What lies among them and is none of them."""
        runs = runs_below(self.source) if self.source.is_dir() else []
        return (
            [f"left out: {', '.join(str(one.relative_to(self.source)) for one in runs)}, of a training"] if runs else []
        )


def own_images(data: str | Path, bundle: Bundle | None = None, **options: Any) -> OwnImages:
    """The images of a folder, a list or an .npz, for a bundle if there is one; `options` are those of `list_images`."""
    records = list_images(data, missing=True, **options)  # what is not there is seen as a problem of that image
    seen = inspect_images(records)
    dims = Counter(len(one.size) for one in seen if not one.problem)
    variants = []
    if bundle is not None and dims:
        variants = [OWN_IMAGES] if OWN_IMAGES in bundle.variants else []
        ((usual, _),) = dims.most_common(1)
        needed = bundle.variants_for(usual)
        if not {*needed} <= {*bundle.variants}:
            raise ValueError(f"{bundle.name} takes {bundle.spatial_dims}-D images; those of {data} are {usual}-D.")
        variants += needed
    return OwnImages(Path(data).absolute(), options, records, seen, variants)


def plan_registration(
    bundle: Bundle,
    images: OwnImages,
    output: str | Path,
    variants: Sequence[str] = (),
    skip: bool = False,
    given: Mapping[str, Any] | None = None,
) -> Plan:
    """What a network that registers is trained with on one's own images.

    Args:
        variants: further ones.
        skip: leave out what cannot be trained on, which is refused otherwise.
        given: settings that are the user's choice.
    """
    given = dict(given or {})
    given |= {name: names_of(given[name], images) for name in given if name.endswith("_subjects")}
    variants = list(dict.fromkeys([*images.variants, *variants]))
    known = bundle.settings("train", variants)
    check_overrides(known, given)
    listed = known.get("records")
    if OWN_IMAGES in variants and isinstance(listed, Mapping) and listed.get("source") != "@dataset_dir":
        raise ValueError(f"variant must be one for any images, got {variants[-1]!r}, which lists its own (records).")
    settings: dict[str, Any] = {"dataset_dir": str(images.source), "output_dir": str(Path(output).absolute())}
    settings |= {f"records#{name}": value for name, value in images.options.items()}
    notes = images.notes()
    broken = [one.name for one in images.seen if one.problem]
    if broken and skip:
        settings["records#without"] = [*images.options.get("without", ()), *broken]
        notes.append(f"left out: {len(broken)} of {len(images.seen)} images: {', '.join(broken)}")
    elif broken:
        refuse_broken(images.seen, "Repair what cannot be used, or leave it out (--skip).")
    records, good = images.good()
    if not records:
        raise ValueError(f"{images.source} must have images that can be trained on, got none.")
    sizes_of_groups = Counter(record["group"] for record in records if images.source.is_file())
    if "pairing" in known and len(sizes_of_groups) > 1 and max(sizes_of_groups.values()) > 1:
        settings["pairing"] = "same_group"
        notes.append(f"pairs: within {len(sizes_of_groups)} groups (--pairing all: of all images)")
    chosen, _ = planned_grid(known, records, good, given)
    if chosen is not None and "size" not in given:
        settings["size"] = chosen
    size = good[0].size if chosen is None else chosen
    crop = given.get("crop", known.get("crop"))
    seen_at_once = list(size)
    if isinstance(crop, list) and len(crop) == len(size):
        seen_at_once = [min(pair) for pair in zip(crop, size, strict=True)]
        if seen_at_once != crop and "crop" not in given:
            settings["crop"] = seen_at_once
    config = bundle.config("train", variants, **{**settings, **given})
    if "validation_subjects" in known:
        notes.append(held_out(images.source, records, config, "pairing" in known))
        if any(one.labels is not None for one in good):
            held = of_subjects(records, config.get_parsed_content("validation_subjects"))
            names = {record["id"] for record in held}
            without = [one.name for one in good if one.name in names and not one.labels]
            if not without:
                settings["key_metric"] = "dice"
            else:
                notes.append(
                    f"labels: {len(without)} of the {len(names)} images that are held out have none, such as "
                    f"{without[0]}, so that {given.get('key_metric', known.get('key_metric'))} says which weights are "
                    f"best; Dice does if you name others (--validation_subjects)"
                )
    if not {"batch_size", "accumulate"} & given.keys() and "accumulate" in known:
        on_cpu = {**settings, **given, "device": torch.device("cpu")}
        objective = bundle.part("objective", "train", variants, **on_cpu)
        free = SHARE * free_bytes(config.get_parsed_content("device"))
        batch = int(known["batch_size"])
        try:
            each = bytes_of_pair(objective, seen_at_once)
        except ValueError as error:
            way_out = "Choose a smaller one (--similarity#window), or pad the images (--size)."
            raise ValueError(
                f"images of {by(seen_at_once)} voxels cannot be trained on by {bundle.name} as it is set: {error}"
                + (f" {way_out}" if "window" in str(error) else "")
            ) from error
        parts, taken = parts_of_batch(batch, each, free)
        if parts > 1:
            settings["accumulate"] = parts
        words = f" in {parts} parts" if parts > 1 else ""
        notes.append(f"batch: {batch} pairs a step{words}, about {max(taken / 1e9, 0.1):.1f} GB")
    return Plan(bundle, variants, settings | given, notes)


def names_of(subjects: Any, images: OwnImages) -> list[str]:
    """Subjects as a command line names them: one, several joined by commas, or a list."""
    if isinstance(subjects, str) and subjects not in {record["subject"] for record in images.records}:
        subjects = subjects.split(",")
    return [str(one) for one in ([subjects] if isinstance(subjects, str | int) else subjects)]


def held_out(source: Path, records: Sequence[Record], config: Any, in_pairs: bool) -> str:
    """Who is held out to validate on, in words; that there are images enough on both sides, in pairs if it is pairs
    that are trained on."""
    held = config.get_parsed_content("validation_subjects")
    tested = config.get_parsed_content("test_subjects") if "test_subjects" in config.get() else []
    sides = of_subjects(records, held), not_of_subjects(records, [*held, *tested])
    there = {record["subject"] for record in records}
    pairing = config.get_parsed_content("pairing") if in_pairs else None
    if not all(side and (pairing is None or can_be_paired(side, pairing)) for side in sides):
        within = " of one group (any two are paired by --pairing all)" if pairing == "same_group" else ""
        raise ValueError(
            f"{source} must have images of {FEWEST} subjects or more, two of them to validate on, or several images of "
            f"each of two{within}, got {len(records)} images of {len(there)} subjects."
        )
    return f"validation: {len(held)} of {len(there)} subjects are held out, such as {held[0]}"


def planned_grid(
    known: Mapping[str, Any], records: Sequence[Record], seen: Sequence[Seen], given: Mapping[str, Any]
) -> tuple[list[int] | None, float | Sequence[float] | None]:
    """Size and spacing that images are brought to, None where they keep theirs: as given, or so that nothing is cut.

    Args:
        known: the settings of the bundle's train.json, with its variants.
        records, seen: of the images that can be trained on.
        given: settings that are the user's choice.
    """
    spacing = given.get("spacing") or common_spacing(records)
    check_grid(seen, given.get("size"), spacing)
    if given.get("size") or not isinstance(known.get("size", ""), list | None) or not seen:
        return given.get("size"), spacing
    sizes = [one.at_spacing(spacing) for one in seen]
    if known["size"] is None and len(set(sizes)) == 1:
        return None, spacing
    return [max(SHORTEST, *sides) for sides in zip(*sizes, strict=True)], spacing


def parts_of_batch(batch: int, each: float, free: float) -> tuple[int, float]:
    """In how many parts a batch of pairs fits into the memory that can be had, and what a part takes, in bytes."""
    if each > free:
        raise ValueError(
            f"size must be smaller, or spacing coarser: a pair takes about {each / 1e9:.1f} GB to train on, and "
            f"{free / 1e9:.1f} GB can be had."
        )
    parts = ceil(batch / min(batch, floor(free / each)))
    return parts, ceil(batch / parts) * each


def bytes_of_pair(objective: Any, size: Sequence[int]) -> float:
    """About how much memory a step takes for a pair of that size: what a forward pass keeps for the gradients, measured
    on a smaller pair."""
    longest = next(side for side in range(max(size), 0, -1) if prod(min(side, one) for one in size) <= TRIED_VOXELS)
    tried = [min(side, max(SHORTEST, longest)) for side in size]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    objective = objective.train()
    if getattr(objective, "augmentation", None) is not None and getattr(objective.augmentation, "crop", None):
        objective.augmentation.crop = tried
    with torch.random.fork_rng([]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(torch.rand(1, 2, *tried))["loss"]
    del loss
    return TEMPORARY * sum(kept.values()) * prod(size) / prod(tried)


def free_bytes(device: torch.device | str) -> float:
    """Memory that a training on that device can have."""
    device = torch.device(device)
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()
