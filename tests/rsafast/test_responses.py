"""`Responses`: what its methods return, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

import rsafast as rf
from rsafast.datasets.responses import Responses
from rsafast.errors import InvalidInputError

# Eight rows: two sessions of two runs, two rows a run; "a" and "b" come twice.
STIMULI = ("a", "b", "c", "a", "d", "b", "e", "f")
WHEN = ((1, 1), (1, 1), (1, 2), (1, 2), (2, 1), (2, 1), (2, 2), (2, 2))


def responses(values=None, **changed):
    """Five channels; V1 is the first two, IT the last two, one channel is of neither."""
    if values is None:
        values = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
    given = {
        "values": values,
        "stimuli": STIMULI,
        "subject": "sub-01",
        "seen": tuple(frozenset({when}) for when in WHEN),
        "channels": np.array(["v0", "v1", "v2", "v3", "v4"]),
        "rois": {"V1": np.array([1, 1, 0, 0, 0], bool), "IT": np.array([0, 0, 0, 1, 1], bool)},
        "noise_ceiling": np.array([10.0, 20.0, 30.0, np.nan, 50.0]),
        "units": "beta",
        "notes": ("read",),
        "source": {"file": "x.h5"},
    }
    return Responses(**(given | changed))


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"stimuli": STIMULI[:-1]}, "stimuli or seen"),
        ({"seen": (frozenset({(1, 1)}),) * 7}, "stimuli or seen"),
        ({"channels": np.arange(4)}, "channels"),
        ({"rois": {"V1": np.ones(4, bool)}}, "roi 'V1'"),
        ({"noise_ceiling": np.ones(6)}, "noise_ceiling"),
        ({"times": np.arange(3.0)}, "times"),
    ],
)
def test_parts_that_do_not_fit_are_named(changed, named):
    with pytest.raises(InvalidInputError, match=rf"sub-01: values are \(8, 5\), which .*{named}"):
        responses(**changed)


def test_responses_over_time_need_one_time_a_sample():
    values = np.zeros((8, 5, 3), np.float32)
    assert responses(values, times=np.arange(3.0)).values.shape == (8, 5, 3)
    for times in (None, np.arange(2.0)):
        with pytest.raises(InvalidInputError, match="times do not fit"):
            responses(values, times=times)


@pytest.mark.parametrize("shape", [(8,), (8, 5, 2, 2)])
def test_values_of_another_number_of_dimensions_are_refused(shape):
    with pytest.raises(InvalidInputError, match="do not fit"):
        responses(np.zeros(shape, np.float32))


def test_a_row_without_an_id_is_named():
    with pytest.raises(InvalidInputError, match="row 2 has no stimulus id"):
        responses(stimuli=("a", "b", "", "a", "d", "b", "e", "f"))


@pytest.mark.parametrize("kind", [np.int64, np.float32, np.uint8])
def test_regions_that_are_not_bool_are_refused(kind):
    # As an index, 0 and 1 would take the first two channels again and again.
    mask = np.array([1, 1, 0, 0, 0], kind)
    with pytest.raises(InvalidInputError, match=f"roi 'V1' is {mask.dtype}, expected bool"):
        responses(rois={"V1": mask})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_by_channel_stimulus_and_row(bad):
    values = np.zeros((8, 5), np.float32)
    values[4, 3] = bad
    with pytest.raises(InvalidInputError, match=r"channel v3 to 'd' \(row 4\) is not finite"):
        responses(values)
    with pytest.raises(InvalidInputError, match=r"channel v3 to 'd' \(row 4\)"):
        responses(np.repeat(values[:, :, None], 2, axis=2), times=np.arange(2.0))


# ---- regions and stimuli -----------------------------------------------------------------------


def test_a_region_keeps_its_channels_and_all_that_belongs_to_them():
    whole = responses()
    region = whole.roi("IT")
    np.testing.assert_array_equal(region.values, whole.values[:, 3:])
    assert region.channels.tolist() == ["v3", "v4"]
    np.testing.assert_array_equal(region.noise_ceiling, [np.nan, 50.0])
    assert {name: mask.tolist() for name, mask in region.rois.items()} == {
        "V1": [False, False], "IT": [True, True],
    }  # fmt: skip
    assert (region.stimuli, region.seen, region.notes) == (whole.stimuli, whole.seen, whole.notes)
    assert whole.values.shape == (8, 5)
    assert responses(noise_ceiling=None).roi("V1").noise_ceiling is None


def test_a_region_that_was_not_read_or_is_empty_is_refused():
    with pytest.raises(InvalidInputError, match="holds no region 'FFA'; it holds 'V1', 'IT'"):
        responses().roi("FFA")
    with pytest.raises(InvalidInputError, match="holds no region 'V1'; it holds nothing"):
        responses(rois={}).roi("V1")
    with pytest.raises(InvalidInputError, match="region 'V1' holds no channel with data"):
        responses(rois={"V1": np.zeros(5, bool)}).roi("V1")


def test_a_subset_has_the_order_asked_for_and_repeats_in_the_order_measured():
    whole = responses()
    part = whole.subset(["e", "b", "a"])
    assert part.stimuli == ("e", "b", "b", "a", "a")
    np.testing.assert_array_equal(part.values, whole.values[[6, 1, 5, 0, 3]])
    assert part.seen == tuple(frozenset({WHEN[row]}) for row in (6, 1, 5, 0, 3))


def test_a_subset_names_up_to_five_missing_stimuli():
    wanted = ["a", *(f"x{i}" for i in range(7))]
    with pytest.raises(InvalidInputError, match=r"'x4' and 2 more \(7 of 8 stimuli asked"):
        responses().subset(wanted)


def test_a_subset_that_names_a_stimulus_twice_or_none_is_refused():
    with pytest.raises(InvalidInputError, match="stimuli names 'a' twice; name each once"):
        responses().subset(["a", "b", "a"])
    for stimuli in ([], "a"):
        with pytest.raises(InvalidInputError, match="list of at least one id"):
            responses().subset(stimuli)


def test_of_n_rows_and_repr():
    assert responses().n_rows == 8
    assert repr(responses()) == "Responses(sub-01: 8 × 5 (beta), regions V1, IT)"
    assert repr(responses(rois={})) == "Responses(sub-01: 8 × 5 (beta), regions none)"


# ---- z-scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("within", "blocks"),
    [
        ("session", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("run", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("all", [list(range(8))]),
    ],
)
def test_z_scores_have_mean_0_and_deviation_1_in_every_block(within, blocks):
    whole = responses()
    done = whole.z_scored(within)
    for rows in blocks:
        x = whole.values[rows].astype(float)
        expected = (x - x.mean(axis=0)) / np.sqrt(((x - x.mean(axis=0)) ** 2).mean(axis=0))
        np.testing.assert_allclose(done.values[rows], expected, rtol=2e-5, atol=1e-6)
    assert done.values.dtype == np.float32
    assert done.units == "z"
    assert done.notes == ("read", f"z-scored per channel within {within}")
    assert whole.units == "beta"


def test_the_same_run_number_in_two_sessions_is_two_runs():
    values = np.zeros((8, 5), np.float32)
    values[::2] = 1
    values[4:] += 100
    done = responses(values).z_scored("run").values
    np.testing.assert_array_equal(done[::2], 1)
    np.testing.assert_array_equal(done[1::2], -1)


def test_a_channel_that_does_not_vary_becomes_0():
    values = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    values[:4, 2] = 0.1  # rounds in float32, so its deviation need not be 0 exactly
    values[:4, 3] = 0
    done = responses(values).z_scored().values
    np.testing.assert_array_equal(done[:4, 2:4], 0)
    assert np.abs(done[4:, 2]).min() > 0


def test_z_scores_over_time_are_taken_at_each_time():
    values = np.random.default_rng(0).normal(size=(8, 5, 3)).astype(np.float32)
    done = responses(values, times=np.arange(3.0)).z_scored("all").values
    np.testing.assert_allclose(done.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(done.std(axis=0), 1, atol=1e-5)


def test_z_scores_after_averaging_across_sessions_are_refused():
    done = responses().averaged()
    with pytest.raises(InvalidInputError, match=r"'b' \(row 1\) was measured in 2 sessions"):
        done.z_scored()
    with pytest.raises(InvalidInputError, match=r"'a' \(row 0\) was measured in 2 runs"):
        done.z_scored("run")
    assert done.z_scored("all").units == "z"


def test_z_scores_of_a_block_of_one_row_are_refused():
    part = responses().subset(["c", "d", "e"])
    with pytest.raises(InvalidInputError, match="session 1 holds one row, which has no spread"):
        part.z_scored()
    with pytest.raises(InvalidInputError, match=r"run \(1, 2\) holds one row"):
        part.z_scored("run")


def test_z_scores_within_sessions_or_runs_that_are_not_told_are_refused():
    only_runs = responses(seen=tuple(frozenset({(0, 1 + row // 4)}) for row in range(8)))
    with pytest.raises(InvalidInputError, match=r"session in which 'a' \(row 0\) .* not told"):
        only_runs.z_scored()
    assert only_runs.z_scored("run").units == "z"
    nothing = responses(seen=(frozenset({(0, 0)}),) * 8)
    with pytest.raises(InvalidInputError, match=r"the run in which .* not told; use within='all'"):
        nothing.z_scored("run")


def test_z_scores_within_something_else_are_refused():
    with pytest.raises(InvalidInputError, match="one of session, run, all, got 'block'"):
        responses().z_scored("block")


# ---- averages ----------------------------------------------------------------------------------


def test_averages_are_means_of_repeats_in_the_order_of_first_rows():
    values = np.arange(40, dtype=np.float32).reshape(8, 5)
    done = responses(values).averaged()
    assert done.stimuli == ("a", "b", "c", "d", "e", "f")
    np.testing.assert_array_equal(done.values[0], (values[0] + values[3]) / 2)
    np.testing.assert_array_equal(done.values[1], (values[1] + values[5]) / 2)
    np.testing.assert_array_equal(done.values[2:], values[[2, 4, 6, 7]])
    assert done.values.dtype == np.float32
    assert done.seen == (
        frozenset({(1, 1), (1, 2)}), frozenset({(1, 1), (2, 1)}), frozenset({(1, 2)}),
        frozenset({(2, 1)}), frozenset({(2, 2)}), frozenset({(2, 2)}),
    )  # fmt: skip
    assert "the mean of 1 to 2 presentations" in done.notes[-1]


def test_stimuli_with_too_few_repeats_are_left_out_and_named():
    done = responses().averaged(min_repeats=2)
    assert done.stimuli == ("a", "b")
    assert done.seen[0] == frozenset({(1, 1), (1, 2)})
    assert "Left out, with fewer than 2 presentations: 'c', 'd', 'e', 'f'" in done.notes[-1]
    with pytest.raises(InvalidInputError, match="no stimulus has min_repeats=3"):
        responses().averaged(min_repeats=3)


def test_run_mask_takes_what_was_seen():
    done = responses().averaged()
    mask = rf.run_mask(done.seen, labels=done.stimuli)
    apart = [[not (x & y) for y in done.seen] for x in done.seen]
    expected = np.array(apart)[np.triu_indices(6, 1)]
    np.testing.assert_array_equal(mask.mask, expected)
    unknown = responses(seen=(frozenset({(0, 0)}),) * 8)
    with pytest.raises(InvalidInputError, match="all stimuli are in one run"):
        rf.run_mask(unknown.seen)


# ---- RDMs --------------------------------------------------------------------------------------


def test_rdms_have_the_subject_and_region_and_are_those_of_its_channels():
    done = responses(noise_ceiling=None).averaged()
    rdms = done.rdms(metric="euclidean")
    assert rdms.labels == ("a", "b", "c", "d", "e", "f")
    assert rdms.names == ("sub-01 V1", "sub-01 IT")
    assert rdms.measure == "euclidean"
    assert rdms.descriptors["subject"].tolist() == ["sub-01", "sub-01"]
    assert rdms.descriptors["roi"].tolist() == ["V1", "IT"]
    difference = done.values[1, 3:].astype(float) - done.values[4, 3:]
    assert rdms[{"roi": "IT"}].matrices()[0, 1, 4] == pytest.approx(
        np.sqrt((difference**2).sum()), rel=1e-5
    )


def test_rdms_of_some_regions_and_of_all_channels():
    done = responses().averaged()
    assert done.rdms(["IT"], "euclidean").descriptors["roi"].tolist() == ["IT"]
    whole = responses(rois={}).averaged().rdms(metric="euclidean")
    assert whole.descriptors["roi"].tolist() == ["all"]
    difference = done.values[0].astype(float) - done.values[5]
    assert whole.matrices()[0, 0, 5] == pytest.approx(np.sqrt((difference**2).sum()), rel=1e-5)


def test_rdms_across_folds_take_repeats():
    sessions = [session for session, _ in WHEN]
    with pytest.raises(InvalidInputError, match="fold"):  # most stimuli are of one session alone
        responses().rdms(metric="crossnobis", folds=sessions)
    balanced = responses(
        stimuli=("a", "b", "c", "d", "a", "b", "c", "d"),
        seen=tuple(frozenset({(1 + row // 4, 1)}) for row in range(8)),
    )
    rdms = balanced.rdms(["V1"], "crossnobis", folds=sessions)
    x = balanced.values[:, :2].astype(float)
    assert rdms.labels == ("a", "b", "c", "d")
    assert rdms.vectors[0, 0] == pytest.approx((x[0] - x[1]) @ (x[4] - x[5]), rel=1e-5)


def test_rdms_with_missing_pairs_keep_them():
    # "a" and "b" share folds 1 and 2, "c" and "d" folds 3 and 4; across, nothing is shared.
    stimuli = ("a", "b", "a", "b", "c", "d", "c", "d")
    rdms = responses(stimuli=stimuli).rdms(
        metric="crossnobis", folds=[1, 1, 2, 2, 3, 3, 4, 4], missing="allow"
    )
    assert np.isnan(rdms.vectors).sum(axis=1).tolist() == [4, 4]
    assert rdms.descriptors["missing_pairs"].tolist() == [4, 4]
    assert rdms.descriptors["roi"].tolist() == ["V1", "IT"]


def test_rdms_of_repeats_over_time_or_of_an_empty_region_are_refused():
    with pytest.raises(InvalidInputError, match="'a'"):
        responses().rdms()
    with pytest.raises(InvalidInputError, match=r"3 time points; use rf\.rdm_movie"):
        responses(np.zeros((8, 5, 3), np.float32), times=np.arange(3.0)).rdms()
    with pytest.raises(InvalidInputError, match="'V1' holds no channel"):
        responses(rois={"V1": np.zeros(5, bool)}).averaged().rdms()


def test_table_lists_sessions_and_runs_of_every_row():
    table = responses().averaged().to_dataframe()
    assert table.columns.tolist() == ["stimulus", "sessions", "runs"]
    assert table.stimulus.tolist() == ["a", "b", "c", "d", "e", "f"]
    assert table.sessions[1] == [1, 2]
    assert table.runs[0] == [(1, 1), (1, 2)]
