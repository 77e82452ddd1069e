"""Corrections by name agree with statsmodels, SciPy and published values."""

import numpy as np
import pytest
from scipy import stats

import rsafast as rf
from rsafast.errors import InvalidInputError

PEERS = {"bh": "fdr_bh", "by": "fdr_by", "holm": "holm", "bonferroni": "bonferroni"}


@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize("m", [1, 2, 7, 200])
@pytest.mark.parametrize("kind", ["plain", "tied", "small"])
def test_agrees_with_statsmodels(rng, method, m, kind):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = rng.random(m) ** (4 if kind == "small" else 1)
    p = np.round(p, 1) if kind == "tied" else p
    expected = multitest.multipletests(p, method=PEERS[method])[1]
    np.testing.assert_allclose(rf.adjust_p(p, method), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["bh", "by"])
def test_agrees_with_scipy_in_any_shape(rng, method):
    p = rng.random((3, 4, 5))
    expected = stats.false_discovery_control(p, axis=None, method=method)
    assert np.array_equal(rf.adjust_p(p, method), expected.reshape(p.shape))
    np.testing.assert_allclose(
        rf.adjust_p(p, method, axis=1), stats.false_discovery_control(p, axis=1, method=method)
    )


def test_reproduces_the_example_of_benjamini_and_hochberg():
    """The 15 p-values of their section 4.1: Bonferroni rejects 3, the FDR procedure 4."""
    p = [.0001, .0004, .0019, .0095, .0201, .0278, .0298, .0344, .0459, .3240, .4262, .5719,
         .6528, .7590, 1.0]  # fmt: skip
    assert (rf.adjust_p(p, "bonferroni") <= 0.05).sum() == 3
    assert (rf.adjust_p(p, "bh") <= 0.05).sum() == 4


def test_methods_are_ordered_from_strict_to_lenient(rng):
    p = rng.random(40) ** 3
    adjusted = {name: rf.adjust_p(p, name) for name in PEERS}
    assert (adjusted["bonferroni"] >= adjusted["holm"]).all()
    assert (adjusted["holm"] >= adjusted["bh"] - 1e-15).all()
    assert (adjusted["by"] >= adjusted["bh"]).all()
    assert all((value >= p).all() for value in adjusted.values())


def test_nan_raises_or_is_not_counted():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    with pytest.raises(InvalidInputError, match="1 NaN of 4"):
        rf.adjust_p(p, "holm")
    got = rf.adjust_p(p, "holm", nan="omit")
    np.testing.assert_allclose(got, [[0.03, np.nan], [0.06, 0.06]])
    assert np.isnan(rf.adjust_p([np.nan], "bh", nan="omit")).all()


def test_input_is_left_as_it_was(rng):
    p = rng.random(9)
    before = p.copy()
    rf.adjust_p(p, "holm")
    assert np.array_equal(p, before)
    assert rf.adjust_p(0.02, "bh").shape == ()
    assert rf.adjust_p([], "bh").shape == (0,)


@pytest.mark.parametrize(
    ("p", "keywords", "said"),
    [
        ([0.1, 1.2], {"method": "bh"}, "between 0 and 1, got 1.2"),
        ([-0.1], {"method": "bh"}, "between 0 and 1"),
        ([0.1], {"method": "fdr"}, "method must be one of bh, by, holm, bonferroni"),
        ([0.1], {"method": "bh", "nan": "drop"}, "nan must be one of"),
        ([0.1], {"method": "bh", "axis": 1}, "axis 1"),
        (["x"], {"method": "bh"}, "real numbers"),
    ],
)
def test_bad_input_is_named(p, keywords, said):
    with pytest.raises(InvalidInputError, match=said):
        rf.adjust_p(p, **keywords)
