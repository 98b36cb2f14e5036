"""What `train.json` is made of: lists of images, pairs of them, augmentation, objectives, optimiser, handlers."""

from warpzoo.training.augmentation import PairAugmentation
from warpzoo.training.lists import draw_subjects, list_images, not_of_subjects, of_subjects
from warpzoo.training.pairs import PairDataset, RandomPairs

__all__ = [
    "PairAugmentation",
    "PairDataset",
    "RandomPairs",
    "draw_subjects",
    "list_images",
    "not_of_subjects",
    "of_subjects",
]
