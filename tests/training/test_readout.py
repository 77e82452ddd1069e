"""The linear readout finds what is linear, and nothing in noise."""

from __future__ import annotations

import numpy as np
import pytest
from rsafast_kernels.errors import InvalidInputError
from rsafast_training.readout import linear_readout
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def groups(rng: np.random.Generator, n: int, signal: float) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % 4
    means = np.random.default_rng(1).normal(size=(4, 20))
    return signal * means[labels] + rng.normal(size=(n, 20)), labels


def test_separable_classes_are_read_out_and_noise_is_not(rng: np.random.Generator) -> None:
    assert linear_readout(*groups(rng, 400, 3.0), *groups(rng, 400, 3.0)).accuracy > 0.99
    chance = linear_readout(*groups(rng, 400, 0.0), *groups(rng, 2000, 0.0))
    assert abs(chance.accuracy - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)
    assert chance.penalty > linear_readout(*groups(rng, 400, 3.0), *groups(rng, 9, 3.0)).penalty


@pytest.mark.parametrize(("n", "p"), [(200, 20), (60, 90)], ids=str)
def test_it_is_the_ridge_classifier_of_scikit_learn(
    rng: np.random.Generator, n: int, p: int
) -> None:
    labels = rng.integers(0, 3, n)
    x = rng.normal(size=(n, p)) + np.eye(3, p)[labels]
    t, z = rng.normal(size=(500, p)) + np.eye(3, p)[np.arange(500) % 3], np.arange(500) % 3
    model = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 6, 13)))
    model.fit(x, labels)
    ours = linear_readout(x, labels, t, z)
    assert ours.penalty == pytest.approx(model[-1].alpha_)
    assert ours.accuracy == pytest.approx((model.predict(t) == z).mean(), abs=1 / 500)


def test_scale_and_offset_of_features_change_nothing(rng: np.random.Generator) -> None:
    (x, y), (t, z) = groups(rng, 200, 0.5), groups(rng, 300, 0.5)
    plain = linear_readout(x, y, t, z)
    scale, offset = 10.0 ** rng.uniform(-3, 3, 20), rng.normal(size=20)
    assert linear_readout(x * scale + offset, y, t * scale + offset, z) == plain


def test_sizes_that_do_not_agree_are_refused(rng: np.random.Generator) -> None:
    x, y = groups(rng, 40, 1.0)
    with pytest.raises(InvalidInputError, match="got 40 and 39 to train"):
        linear_readout(x, y[1:], x, y)
    with pytest.raises(InvalidInputError, match=r"same features, got \(20,\), \(19,\)"):
        linear_readout(x, y, x[:, 1:], y)
