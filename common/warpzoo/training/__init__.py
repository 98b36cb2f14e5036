"""What `train.json` is made of: lists of images, pairs of them, augmentation, objectives, optimiser, engines."""

from warpzoo.training.augmentation import PairAugmentation
from warpzoo.training.averaging import AverageWeights
from warpzoo.training.engines import registration_evaluator, registration_trainer
from warpzoo.training.evaluation import PairMetricsd
from warpzoo.training.lists import draw_subjects, list_images, not_of_subjects, of_subjects
from warpzoo.training.made_pairs import MadePairs
from warpzoo.training.memory import keep_freed_memory
from warpzoo.training.objectives import MultiResolutionObjective, RegistrationObjective
from warpzoo.training.optimiser import Muon
from warpzoo.training.pairs import PairDataset, RandomPairs, common_spacing, pad_or_crop
from warpzoo.training.placed_pairs import PlacedPairs
from warpzoo.training.placements import PlacementObjective, with_truth
from warpzoo.training.processes import begin, join_processes, local_device

__all__ = [
    "AverageWeights",
    "MultiResolutionObjective",
    "MadePairs",
    "Muon",
    "PairAugmentation",
    "PairDataset",
    "PairMetricsd",
    "PlacedPairs",
    "PlacementObjective",
    "RandomPairs",
    "RegistrationObjective",
    "begin",
    "common_spacing",
    "draw_subjects",
    "join_processes",
    "keep_freed_memory",
    "list_images",
    "local_device",
    "not_of_subjects",
    "of_subjects",
    "pad_or_crop",
    "registration_evaluator",
    "registration_trainer",
    "with_truth",
]
