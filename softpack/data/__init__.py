"""Train from a label file: the replay of augmentations, and a torch Dataset.

The function `replay` is left to its module, `softpack.data.replay`, whose name it would hide here.
"""

from softpack.data.batch import collate
from softpack.data.dataset import SoftLabelDataset
from softpack.data.replay import Augmentation, Replay

__all__ = ["SoftLabelDataset", "Replay", "Augmentation", "collate"]
