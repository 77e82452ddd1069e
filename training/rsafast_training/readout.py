"""How much of the classes a linear readout finds in features: the same readout for every rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.errors import InvalidInputError
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_PENALTIES = np.logspace(0, 6, 13)  # on standardised features


@dataclass(frozen=True, slots=True)
class Readout:
    """What a linear readout reached.

    Attributes
    ----------
    accuracy : share of test stimuli classified correctly.
    penalty : ridge penalty that leave-one-out on the training stimuli chose.
    """

    accuracy: float
    penalty: float


def linear_readout(
    train: NDArray[np.floating],
    train_labels: NDArray[np.integer],
    test: NDArray[np.floating],
    test_labels: NDArray[np.integer],
) -> Readout:
    """Fit a ridge classifier on frozen features, and score it on other stimuli.

    Parameters
    ----------
    train, test : (n, p) arrays
        Features, standardised by the mean and deviation of `train`.
    train_labels, test_labels : (n,) integers

    Returns
    -------
    Readout
        The penalty, the same for all classes, is the one of thirteen from 1 to 10⁶ with the least
        squared leave-one-out error on `train`.

    Raises
    ------
    InvalidInputError
        For sizes that do not agree.
    """
    if len(train) != len(train_labels) or len(test) != len(test_labels):
        raise InvalidInputError(
            f"features and labels must agree, got {len(train)} and {len(train_labels)} to train, "
            f"{len(test)} and {len(test_labels)} to test"
        )
    if train.shape[1:] != test.shape[1:]:
        raise InvalidInputError(
            f"train and test must have the same features, got {train.shape[1:]}, {test.shape[1:]}"
        )
    model = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=_PENALTIES))
    model.fit(train.astype(np.float64), train_labels)
    accuracy = float((model.predict(test.astype(np.float64)) == test_labels).mean())
    return Readout(accuracy, float(model[-1].alpha_))
