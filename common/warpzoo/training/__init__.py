"""What `train.json` is made of: lists of images, pairs of them, augmentation, objectives, optimiser, engines.

A name is imported when it is first used: images are looked through without the engines.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warpzoo.training.augmentation import PairAugmentation
    from warpzoo.training.averaging import AverageWeights
    from warpzoo.training.engines import registration_evaluator, registration_trainer
    from warpzoo.training.evaluation import PairMetricsd
    from warpzoo.training.fitting import pad_or_crop
    from warpzoo.training.lists import draw_subjects, list_frames, list_images, not_of_subjects, of_subjects
    from warpzoo.training.made_pairs import MadePairs
    from warpzoo.training.memory import keep_freed_memory
    from warpzoo.training.objectives import MultiResolutionObjective, RegistrationObjective
    from warpzoo.training.optimiser import Muon
    from warpzoo.training.pairs import PairDataset, RandomPairs
    from warpzoo.training.placed_pairs import PlacedPairs
    from warpzoo.training.placements import PlacementObjective, with_truth
    from warpzoo.training.processes import begin, join_processes, local_device
    from warpzoo.training.reading import common_spacing
    from warpzoo.training.simulated_pairs import SimulatedPairs, with_points

_HOMES = {
    "AverageWeights": "averaging",
    "MadePairs": "made_pairs",
    "MultiResolutionObjective": "objectives",
    "Muon": "optimiser",
    "PairAugmentation": "augmentation",
    "PairDataset": "pairs",
    "PairMetricsd": "evaluation",
    "PlacedPairs": "placed_pairs",
    "PlacementObjective": "placements",
    "RandomPairs": "pairs",
    "RegistrationObjective": "objectives",
    "SimulatedPairs": "simulated_pairs",
    "begin": "processes",
    "common_spacing": "reading",
    "draw_subjects": "lists",
    "join_processes": "processes",
    "keep_freed_memory": "memory",
    "list_frames": "lists",
    "list_images": "lists",
    "local_device": "processes",
    "not_of_subjects": "lists",
    "of_subjects": "lists",
    "pad_or_crop": "fitting",
    "registration_evaluator": "engines",
    "registration_trainer": "engines",
    "with_points": "simulated_pairs",
    "with_truth": "placements",
}

__all__ = [
    "AverageWeights",
    "MadePairs",
    "MultiResolutionObjective",
    "Muon",
    "PairAugmentation",
    "PairDataset",
    "PairMetricsd",
    "PlacedPairs",
    "PlacementObjective",
    "RandomPairs",
    "RegistrationObjective",
    "SimulatedPairs",
    "begin",
    "common_spacing",
    "draw_subjects",
    "join_processes",
    "keep_freed_memory",
    "list_frames",
    "list_images",
    "local_device",
    "not_of_subjects",
    "of_subjects",
    "pad_or_crop",
    "registration_evaluator",
    "registration_trainer",
    "with_points",
    "with_truth",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
