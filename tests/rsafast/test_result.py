from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from synthetic_results import make_result

from rsafast.errors import InvalidInputError
from rsafast.permutation.result import PermutationResult
from rsafast.plotting import null_quantiles, rank_percentiles, shorten


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        )
    return a == b


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (1, 5)])
def test_table_has_one_row_a_pair_with_the_numbers_of_the_result(shape):
    result = make_result(*shape)
    frame = result.to_dataframe()
    assert len(frame) == result.n_pairs == shape[0] * shape[1]
    for row in frame.itertuples():
        i, j = result.model_names.index(row.model), result.brain_names.index(row.brain)
        assert row.statistic == result.statistic[i, j]
        assert row.p_value == result.p_value[i, j]
        assert row.p_value_fwer == result.p_value_fwer[i, j]
        assert row.p_value_stepdown == result.p_value_stepdown[i, j]
        assert row.q_value == result.q_value[i, j]
        assert row.p_standard_error == result.p_standard_error[i, j]
        assert row.z == (result.statistic[i, j] - result.null_mean[i, j]) / result.null_std[i, j]
        assert row.n_permutations == result.n_permutations
    assert "p_tail" not in frame


def test_table_has_the_tail_where_there_is_one():
    p_tail = np.full((3, 2), 1e-9)
    assert (make_result(tail="gpd", p_tail=p_tail).to_dataframe()["p_tail"] == 1e-9).all()


def test_z_of_a_constant_null_is_nan_without_a_warning():
    with np.errstate(all="raise"):
        assert np.isnan(make_result(null_std=np.zeros((3, 2))).z).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tail": "pearson3", "p_tail": np.full((3, 2), 1e-8)},
        {"null": np.random.default_rng(0).normal(size=(3, 2, 50))},
        {"model_names": ("ρ", "ein Modell", "a/b,c"), "parameters": {"a": {"b": [1, 2.5]}}},
    ],
    ids=["plain", "tail", "null", "names"],
)
def test_hdf5_round_trip_keeps_every_field(tmp_path, changes):
    result = make_result(**changes)
    result.save(tmp_path / "result.h5")
    loaded = PermutationResult.load(tmp_path / "result.h5")
    for f in fields(result):
        assert same(getattr(result, f.name), getattr(loaded, f.name)), f.name
    assert [p.name for p in tmp_path.iterdir()] == ["result.h5"]


def test_csv_holds_the_table_exactly(tmp_path):
    result = make_result()
    result.save(tmp_path / "pairs.csv")
    read = pd.read_csv(tmp_path / "pairs.csv")
    pd.testing.assert_frame_equal(read, result.to_dataframe(), check_dtype=False, check_exact=True)


def test_rejects_an_unknown_ending(tmp_path):
    with pytest.raises(InvalidInputError, match=r"\.h5, \.hdf5 or \.csv"):
        make_result().save(tmp_path / "result.pkl")


def test_load_rejects_what_is_no_result(tmp_path):
    with pytest.raises(InvalidInputError, match=r"absent\.h5"):
        PermutationResult.load(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InvalidInputError, match=r"text\.h5"):
        PermutationResult.load(tmp_path / "text.h5")


@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
def test_plot_draws_on_the_axes_it_is_given(shape):
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert make_result(*shape).plot(ax) is ax
    assert ax.has_data()


def test_summary_says_what_was_tested_and_to_whom_it_generalises():
    text = make_result().summary()
    for phrase in (
        "this model RDM and this brain RDM are unrelated",
        "stimuli are exchangeable",
        "these stimuli, subjects and seeds",
        "never says whether two models are equal",
        "Smallest attainable p: 0.0005",
        "Engine orbit",
        "all 6 pairs",
    ):
        assert phrase in text
    assert "approximation" in make_result(tail="gpd", p_tail=np.ones((3, 2))).summary()
    assert "no sampling error" in make_result(engine="exact").summary()


def test_null_quantiles_match_the_sample():
    null = np.random.default_rng(1).normal(size=200_000)
    low, high = null.min(), null.max()
    counts = np.histogram(null, 400, (low, high))[0]
    result = make_result(
        1, 1, histogram=counts[None, None], histogram_range=np.array([[[low, high]]])
    )
    np.testing.assert_allclose(
        null_quantiles(result, 0, 0), np.quantile(null, [0.025, 0.975]), atol=(high - low) / 400
    )


@pytest.mark.parametrize("n", [4, 33, 300])
def test_rank_percentiles_take_the_right_pairs(n):
    from scipy.spatial.distance import squareform

    vector = np.random.default_rng(n).random(n * (n - 1) // 2)
    percentiles, shown = rank_percentiles(vector, n)
    square = squareform(vector)[np.ix_(shown, shown)]
    rows, columns = np.triu_indices(len(shown), 1)
    order = np.argsort(square[rows, columns])
    assert (np.diff(percentiles[rows, columns][order]) > 0).all()
    assert np.nanmin(percentiles) == 0
    assert np.nanmax(percentiles) == pytest.approx(100)
    np.testing.assert_array_equal(percentiles, percentiles.T)


def test_shorten_keeps_both_ends():
    assert shorten("short", 10) == "short"
    cut = shorten("a very long name of a layer.12", 12)
    assert len(cut) == 12
    assert cut.startswith("a very")
    assert cut.endswith("r.12")
