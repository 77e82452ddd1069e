"""Image data sets for training: `load_dataset` reads them, `Batches` serves them to networks."""

from rsafast_training.data.augment import Augment, normalise
from rsafast_training.data.batches import Batches
from rsafast_training.data.dataset import ImageData, load_dataset

__all__ = ["Augment", "Batches", "ImageData", "load_dataset", "normalise"]
