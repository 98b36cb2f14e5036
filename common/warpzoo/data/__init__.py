"""What is trained and tested on: images, pairs of them, and their augmentation."""

from warpzoo.data.augmentation import PairAugmentation
from warpzoo.data.images import draw_subjects, list_images, not_of_subjects, of_subjects
from warpzoo.data.pairs import PairDataset, RandomPairs

__all__ = [
    "PairAugmentation",
    "PairDataset",
    "RandomPairs",
    "draw_subjects",
    "list_images",
    "not_of_subjects",
    "of_subjects",
]
