"""Networks that differ in their learning rule, and their features, ready for RDMs.

`train` makes checkpoints, `find_checkpoints` finds them, `features_of_checkpoints` writes what they
see; the command line has the same as ``rsafast train`` and ``rsafast features``.
"""

from rsafast_training.checkpoints import Checkpoint, find_checkpoints, metrics_table
from rsafast_training.config import TrainConfig
from rsafast_training.data import Augment, Batches, ImageData, load_dataset
from rsafast_training.features import Checkpointed, extract_features, features_of_checkpoints
from rsafast_training.figures import learning_curves
from rsafast_training.imported import import_run
from rsafast_training.models import build_model
from rsafast_training.published import load_network
from rsafast_training.readout import linear_readout
from rsafast_training.stimuli import Preprocess, read_stimuli
from rsafast_training.trainer import train

__all__ = [
    "Augment",
    "Batches",
    "Checkpoint",
    "Checkpointed",
    "ImageData",
    "Preprocess",
    "TrainConfig",
    "build_model",
    "extract_features",
    "features_of_checkpoints",
    "find_checkpoints",
    "import_run",
    "learning_curves",
    "linear_readout",
    "load_dataset",
    "load_network",
    "metrics_table",
    "read_stimuli",
    "train",
]
