"""Plain folders of RDMs and of responses: what their names say, and every way it can be unclear."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import rsafast as rf
from rsafast.datasets.folders import read_rdm_folder, read_response_folder
from rsafast.errors import InvalidInputError

LABELS = ["ant", "bee", "cat", "dog", "eel"]
SUBJECTS = ("sub-01", "sub-02", "sub-03")


def coded(first, labels=LABELS):
    """An RDM whose values tell the RDM and the two stimuli, in whatever order these are."""
    place = np.array([LABELS.index(label) for label in labels])
    x, y = np.minimum.outer(place, place), np.maximum.outer(place, place)
    return np.where(x == y, 0.0, first + 0.1 * x + 0.01 * y)


def write_order(path, labels=LABELS):
    path.write_text("\n".join(labels) + "\n", encoding="utf-8")


@pytest.fixture
def study(tmp_path):
    """Three subjects, two regions, as the study writes them; sub-02 in another order."""
    for number, subject in enumerate(SUBJECTS, start=1):
        labels = LABELS[::-1] if subject == "sub-02" else LABELS
        write_order(tmp_path / f"stim_order_{subject}.txt", labels)
        for roi, code in (("V1", 10), ("IT", 20)):
            rdm = coded(code + number, labels).astype(np.float32)
            np.save(tmp_path / f"fmri_rdm_{roi}_{subject}.npy", rdm)
    (tmp_path / "README.txt").write_text("x")
    return tmp_path


# ---- RDMs --------------------------------------------------------------------------------------


def test_fields_of_the_names_become_descriptors(study):
    rdms = read_rdm_folder(study, order="stim_order_{subject}.txt")
    assert rdms.n_rdms == 6
    assert rdms.descriptors["roi"].tolist() == ["IT"] * 3 + ["V1"] * 3
    assert rdms.descriptors["subject"].tolist() == [*SUBJECTS] * 2
    assert rdms.names[:2] == ("IT sub-01", "IT sub-02")


def test_stimuli_in_another_order_are_matched_by_their_ids(study):
    rdms = read_rdm_folder(study, order="stim_order_{subject}.txt")
    assert rdms.labels == tuple(LABELS)
    for number, subject in enumerate(SUBJECTS, start=1):
        one = rdms[{"subject": subject, "roi": "V1"}]
        np.testing.assert_array_equal(
            one.matrices()[0], coded(10 + number).astype(np.float32).astype(float)
        )


def test_without_an_order_stimuli_have_no_ids_and_stay_as_they_lie(study):
    rdms = read_rdm_folder(study)
    assert rdms.labels is None
    np.testing.assert_allclose(
        rdms[{"subject": "sub-02", "roi": "V1"}].matrices()[0], coded(12, LABELS[::-1])
    )


def test_one_order_file_serves_all(study):
    write_order(study / "order.txt", ["Ä", "b", "c d", "7", "e"])
    rdms = read_rdm_folder(study, order="order.txt")
    assert rdms.labels == ("Ä", "b", "c d", "7", "e")
    rdms = read_rdm_folder(str(study), "fmri_rdm_V1_{subject}.npy", order="order.txt")
    assert list(rdms.descriptors) == ["subject"]


def test_order_files_of_windows_are_read(study):
    text = "﻿" + "\r\n".join(LABELS) + "\r\n\r\n"
    (study / "order.txt").write_bytes(text.encode("utf-8"))
    assert read_rdm_folder(study, order="order.txt").labels == tuple(LABELS)


def test_fields_may_be_folders_and_come_twice(tmp_path):
    for subject in SUBJECTS:
        folder = tmp_path / subject / "rdms"
        folder.mkdir(parents=True)
        np.save(folder / f"{subject}_V1.npy", coded(1))
    np.save(tmp_path / "sub-01/rdms/sub-09_V1.npy", coded(1))  # in another subject's folder
    rdms = read_rdm_folder(tmp_path, "{subject}/rdms/{subject}_{roi}.npy")
    assert rdms.descriptors["subject"].tolist() == list(SUBJECTS)


def test_every_format_of_read_rdms_is_read(tmp_path):
    rf.RDMs(coded(1), labels=LABELS, measure="correlation").save(tmp_path / "sub-01.h5")
    order = ["eel", "ant", "bee", "cat", "dog"]
    rf.RDMs(
        [coded(2, order), coded(3, order)], labels=order, names=["V1", "IT"], measure="correlation",
        descriptors={"roi": ["V1", "IT"], "subject": ["sub-02"] * 2},
    ).save(tmp_path / "sub-02.h5")  # fmt: skip
    rdms = read_rdm_folder(tmp_path, "{subject}.h5")
    assert rdms.labels == tuple(LABELS)
    assert rdms.names == ("sub-01", "sub-02 V1", "sub-02 IT")
    assert rdms.descriptors["roi"].tolist() == ["", "V1", "IT"]
    assert rdms.measure == "correlation"
    np.testing.assert_allclose(rdms.matrices()[2], coded(3))


def test_one_array_of_many_is_chosen_by_its_key(tmp_path):
    np.savez(tmp_path / "a.npz", v1=coded(1), it=coded(2))
    rdms = read_rdm_folder(tmp_path, "{subject}.npz", key="it")
    np.testing.assert_allclose(rdms.matrices(), [coded(2)])


def test_a_name_that_can_be_read_in_two_ways_is_refused(study):
    np.save(study / "fmri_rdm_V1_v_sub-01.npy", coded(1))
    with pytest.raises(InvalidInputError) as caught:
        read_rdm_folder(study)
    for part in ("fmri_rdm_V1_v_sub-01.npy", "'roi': 'V1_v'", "'subject': 'v_sub-01'",
                 r"{subject:sub-\d+}"):  # fmt: skip
        assert part in str(caught.value)
    rdms = read_rdm_folder(study, r"fmri_rdm_{roi}_{subject:sub-\d+}.npy")
    assert rdms[{"roi": "V1_v"}].descriptors["subject"].tolist() == ["sub-01"]
    assert rdms.n_rdms == 7


def test_a_pattern_that_fits_no_file_shows_what_is_there(study):
    with pytest.raises(InvalidInputError) as caught:
        read_rdm_folder(study, "rdm_{roi}.npy")
    assert "no file fits the pattern 'rdm_{roi}.npy'" in str(caught.value)
    assert "'README.txt', 'fmri_rdm_IT_sub-01.npy'" in str(caught.value)
    assert "and 5 more" in str(caught.value)
    (study / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="it holds nothing"):
        read_rdm_folder(study / "empty")
    with pytest.raises(InvalidInputError, match="is no folder"):
        read_rdm_folder(study / "README.txt")


def test_hidden_files_and_folders_that_fit_are_passed_over(study):
    (study / "fmri_rdm_V1_sub-04.npy").mkdir()
    (study / "._fmri_rdm_V1_sub-01.npy").write_bytes(b"x")
    assert read_rdm_folder(study, "{start}_rdm_V1_{subject}.npy").n_rdms == 3


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{}.npy", "a field is a name in braces"),
        ("{a b}.npy", "a field is a name in braces"),
        ("{subject!r}.npy", "a field is a name in braces"),
        ("{subject.npy", "cannot be read"),
        ("{subject:(}.npy", "no regular expression"),
        ("/{subject}.npy", "must be relative"),
        ("", "must be relative"),
    ],
)
def test_patterns_that_are_none_are_refused(study, pattern, said):
    with pytest.raises(InvalidInputError, match=said):
        read_rdm_folder(study, pattern)


def test_signs_of_shells_and_expressions_in_a_pattern_mean_themselves(tmp_path):
    np.save(tmp_path / "a[1]+.npy", coded(1))
    np.save(tmp_path / "a1.npy", coded(2))
    rdms = read_rdm_folder(tmp_path, "{subject}[1]+.npy")
    assert rdms.descriptors["subject"].tolist() == ["a"]


def test_files_of_different_stimuli_are_refused_by_name(study):
    write_order(study / "stim_order_sub-02.txt", [*LABELS[:-1], "fox"])
    with pytest.raises(InvalidInputError) as caught:
        read_rdm_folder(study, order="stim_order_{subject}.txt")
    assert "fmri_rdm_IT_sub-02.npy: its stimuli are not those of" in str(caught.value)
    assert "'fox' only in the first, 'eel' only in the second" in str(caught.value)


def test_files_of_different_size_without_ids_are_refused_by_name(study):
    np.save(study / "fmri_rdm_V1_sub-03.npy", coded(1)[:4, :4])
    with pytest.raises(InvalidInputError, match=r"V1_sub-03\.npy: holds 4 stimuli, .* 5"):
        read_rdm_folder(study)


def test_ids_in_some_files_only_are_refused(tmp_path):
    rf.RDMs(coded(1), labels=LABELS).save(tmp_path / "a.h5")
    rf.RDMs(coded(1)).save(tmp_path / "b.h5")
    with pytest.raises(InvalidInputError, match=r"b\.h5: holds no stimulus ids, .*a\.h5 does"):
        read_rdm_folder(tmp_path, "{subject}.h5")


def test_order_files_that_do_not_fit_are_refused(study):
    order = study / "stim_order_sub-01.txt"
    pattern = "stim_order_{subject}.txt"
    write_order(order, LABELS[:-1])
    with pytest.raises(InvalidInputError, match=r"order_sub-01\.txt: lists 4 stimuli, .* holds 5"):
        read_rdm_folder(study, order=pattern)
    order.write_text("ant\n\ncat\ndog\neel\n")
    with pytest.raises(InvalidInputError, match=r"order_sub-01\.txt: line 2 is empty"):
        read_rdm_folder(study, order=pattern)
    write_order(order, ["ant", "ant", "cat", "dog", "eel"])
    with pytest.raises(InvalidInputError, match=r"IT_sub-01\.npy: .*'ant'"):
        read_rdm_folder(study, order=pattern)
    order.write_bytes(b"\xff\xfe\n")
    with pytest.raises(InvalidInputError, match=r"order_sub-01\.txt: is no text in UTF-8"):
        read_rdm_folder(study, order=pattern)
    order.unlink()
    with pytest.raises(InvalidInputError, match=r"order_sub-01\.txt: no such file"):
        read_rdm_folder(study, order=pattern)
    with pytest.raises(InvalidInputError, match="has the field 'session', which the pattern"):
        read_rdm_folder(study, order="order_{session}.txt")


def test_an_order_that_contradicts_the_labels_of_a_file_is_refused(tmp_path):
    rf.RDMs(coded(1), labels=LABELS).save(tmp_path / "a.h5")
    write_order(tmp_path / "order.txt", ["ant", "cat", "bee", "dog", "eel"])
    with pytest.raises(InvalidInputError, match=r"row 1 is 'cat', but .*a\.h5 says 'bee'"):
        read_rdm_folder(tmp_path, "{subject}.h5", order="order.txt")
    write_order(tmp_path / "order.txt")
    assert read_rdm_folder(tmp_path, "{subject}.h5", order="order.txt").labels == tuple(LABELS)


def test_a_name_that_contradicts_its_file_is_refused(tmp_path):
    rf.RDMs(coded(1), descriptors={"subject": ["sub-02"]}).save(tmp_path / "sub-01.h5")
    with pytest.raises(InvalidInputError, match="says subject 'sub-02', its name says 'sub-01'"):
        read_rdm_folder(tmp_path, "{subject}.h5")


def test_a_damaged_file_is_named(study):
    path = study / "fmri_rdm_V1_sub-02.npy"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InvalidInputError, match=r"V1_sub-02\.npy: is truncated"):
        read_rdm_folder(study)
    np.save(path, np.array([{"a": 1}]))
    with pytest.raises(InvalidInputError, match=r"V1_sub-02\.npy: .*\(a pickle\)"):
        read_rdm_folder(study)


def test_missing_pairs_are_kept_where_allowed(tmp_path):
    rdm = coded(1)
    rdm[0, 1] = rdm[1, 0] = np.nan
    np.save(tmp_path / "a.npy", rdm)
    with pytest.raises(InvalidInputError, match=r"a\.npy"):
        read_rdm_folder(tmp_path, "{subject}.npy")
    assert read_rdm_folder(tmp_path, "{subject}.npy", missing="allow").has_missing


# ---- responses ---------------------------------------------------------------------------------

CHANNELS = {"IT": 2, "V1": 3}


def measured(base, labels, n_channels):
    """A response tells its file, its stimulus and its channel."""
    place = np.array([LABELS.index(label) for label in labels])
    return np.float32(base + 10 * place[:, None] + np.arange(n_channels))


@pytest.fixture
def measurements(tmp_path):
    """Two subjects with their own order, a folder each, a file a region."""
    for number, (subject, labels) in enumerate(
        {"sub-01": LABELS, "sub-02": ["dog", "ant", "cat"]}.items(), start=1
    ):
        (tmp_path / subject).mkdir()
        write_order(tmp_path / f"stim_order_{subject}.txt", labels)
        for roi, n_channels in CHANNELS.items():
            values = measured(1000 * number + 100 * n_channels, labels, n_channels)
            np.save(tmp_path / subject / f"{roi}.npy", values)
    return tmp_path


def test_a_subject_has_all_its_regions(measurements):
    one, two = read_response_folder(measurements, order="stim_order_{subject}.txt", units="beta")
    assert (one.subject, two.subject) == ("sub-01", "sub-02")
    assert one.stimuli == tuple(LABELS)
    assert two.stimuli == ("dog", "ant", "cat")
    np.testing.assert_array_equal(one.roi("V1").values, measured(1300, LABELS, 3))
    np.testing.assert_array_equal(two.roi("IT").values, measured(2200, ["dog", "ant", "cat"], 2))
    assert one.channels.tolist() == ["IT 0", "IT 1", "V1 0", "V1 1", "V1 2"]
    assert one.seen == (frozenset({(0, 0)}),) * 5
    assert (one.units, one.values.dtype) == ("beta", np.float32)
    assert len(one.source["files"]) == 2


def test_regions_in_another_order_are_matched_by_their_ids(measurements):
    for subject in ("sub-01", "sub-02"):
        for roi in CHANNELS:
            labels = (measurements / f"stim_order_{subject}.txt").read_text().split()
            write_order(measurements / subject / f"{roi}.txt", labels)
    labels = ["eel", "dog", "cat", "bee", "ant"]
    write_order(measurements / "sub-01/V1.txt", labels)
    np.save(measurements / "sub-01/V1.npy", measured(1300, labels, 3))
    one, _ = read_response_folder(measurements, order="{subject}/{roi}.txt")
    assert one.stimuli == tuple(LABELS)
    np.testing.assert_array_equal(one.roi("V1").values, measured(1300, LABELS, 3))
    some, _ = read_response_folder(
        measurements, order="{subject}/{roi}.txt", stimuli=["cat", "ant"]
    )
    np.testing.assert_array_equal(some.roi("V1").values, measured(1300, ["cat", "ant"], 3))
    write_order(measurements / "sub-01/V1.txt", ["eel", "dog", "cat", "bee", "fox"])
    with pytest.raises(InvalidInputError, match=r"V1\.npy: its stimuli .*'fox' only in the first"):
        read_response_folder(measurements, order="{subject}/{roi}.txt")


def test_stimuli_are_selected_for_every_subject(measurements):
    one, two = read_response_folder(
        measurements, order="stim_order_{subject}.txt", stimuli=["cat", "dog"]
    )
    assert one.stimuli == two.stimuli == ("cat", "dog")
    np.testing.assert_array_equal(two.roi("V1").values, measured(2300, ["cat", "dog"], 3))
    with pytest.raises(InvalidInputError, match="no file of 'sub-02' holds 'eel'"):
        read_response_folder(measurements, order="stim_order_{subject}.txt", stimuli=["eel", "ant"])
    for stimuli in ([], "cat", ["cat", "cat"]):
        with pytest.raises(InvalidInputError, match="stimuli"):
            read_response_folder(measurements, order="stim_order_{subject}.txt", stimuli=stimuli)


@pytest.fixture
def sessions(tmp_path):
    """One subject, two sessions of two runs; "cat" is in both sessions, twice in one run."""
    shown = {(1, 1): ["ant", "cat", "cat"], (1, 2): ["bee", "dog"], (2, 1): ["cat"],
             (10, 2): ["eel", "ant"]}  # fmt: skip
    for (session, run), labels in shown.items():
        stem = f"s1_ses-{session}_run-{run}"  # ses-10 sorts before ses-2 as text
        write_order(tmp_path / f"{stem}.txt", labels)
        for roi, n_channels in CHANNELS.items():
            base = 10_000 * session + 1000 * run + 100 * n_channels
            np.save(tmp_path / f"{stem}_{roi}.npy", measured(base, labels, n_channels))
    return tmp_path


PATTERN = "{subject}_ses-{session}_run-{run}_{roi}.npy"
ORDER = "{subject}_ses-{session}_run-{run}.txt"


def test_sessions_and_runs_of_names_are_what_was_seen(sessions):
    (read,) = read_response_folder(sessions, PATTERN, order=ORDER)
    assert read.stimuli == ("ant", "cat", "cat", "bee", "dog", "cat", "eel", "ant")
    when = [(1, 1)] * 3 + [(1, 2)] * 2 + [(2, 1)] + [(10, 2)] * 2
    assert read.seen == tuple(frozenset({pair}) for pair in when)
    np.testing.assert_array_equal(read.roi("V1").values[5:], [
        [21320, 21321, 21322], [102340, 102341, 102342], [102300, 102301, 102302],
    ])  # fmt: skip
    averaged = read.averaged()
    assert averaged.seen[0] == frozenset({(1, 1), (10, 2)})
    mask = rf.run_mask(averaged.seen, labels=averaged.stimuli)
    assert not mask.matrix()[0, 1]  # ant and cat share run (1, 1)
    assert mask.matrix()[0, 2]


def test_stimuli_may_be_of_some_sessions_only(sessions):
    (read,) = read_response_folder(sessions, PATTERN, order=ORDER, stimuli=["cat", "eel"])
    assert read.stimuli == ("cat", "cat", "cat", "eel")
    assert read.values.shape == (4, 5)
    with pytest.raises(InvalidInputError, match="no file of 's1' holds 'fox'"):
        read_response_folder(sessions, PATTERN, order=ORDER, stimuli=["cat", "fox"])


def test_repeats_in_another_order_cannot_be_matched(sessions):
    for path in list(sessions.glob("*.npy")):
        stem, roi = path.stem.rsplit("_", 1)
        text = (sessions / f"{stem}.txt").read_text()
        (sessions / f"{stem}_{roi}.txt").write_text(text)
    write_order(sessions / "s1_ses-1_run-1_V1.txt", ["cat", "ant", "cat"])
    with pytest.raises(InvalidInputError, match=r"run-1_V1\.npy: its rows are not in the order of"):
        read_response_folder(sessions, PATTERN, order=PATTERN.replace(".npy", ".txt"))


def test_a_region_that_lacks_a_run_or_has_other_channels_is_refused(sessions):
    path = sessions / "s1_ses-2_run-1_V1.npy"
    np.save(path, np.zeros((1, 4), np.float32))
    with pytest.raises(InvalidInputError, match=r"ses-2_run-1_V1\.npy: has 4 channels, .* 3"):
        read_response_folder(sessions, PATTERN, order=ORDER)
    path.unlink()
    with pytest.raises(InvalidInputError, match=r"do not both have .* '\(2, 1\)'; every region"):
        read_response_folder(sessions, PATTERN, order=ORDER)


def test_a_session_without_a_number_or_there_twice_is_refused(tmp_path):
    np.save(tmp_path / "s1_first.npy", np.zeros((5, 3)))
    write_order(tmp_path / "order.txt")
    with pytest.raises(InvalidInputError, match="session 'first' does not end in a number"):
        read_response_folder(tmp_path, "{subject}_{session}.npy", order="order.txt")
    (tmp_path / "s1_first.npy").rename(tmp_path / "s1_0.npy")
    with pytest.raises(InvalidInputError, match="session '0' does not end in a number from 1 on"):
        read_response_folder(tmp_path, "{subject}_{session}.npy", order="order.txt")
    (tmp_path / "s1_0.npy").unlink()
    for name in ("s1_1.npy", "s1_01.npy"):
        np.save(tmp_path / name, np.zeros((5, 3)))
    with pytest.raises(InvalidInputError, match=r"is the same region, session and run as .*s1_01"):
        read_response_folder(tmp_path, "{subject}_{session}.npy", order="order.txt")


def test_files_without_regions_are_all_channels_or_regions_by_key(tmp_path):
    np.save(tmp_path / "sub-01.npy", measured(0, LABELS, 3))
    np.savez(tmp_path / "sub-01.npz", V1=measured(0, LABELS, 3), IT=measured(50, LABELS, 2))
    write_order(tmp_path / "order.txt")
    (read,) = read_response_folder(tmp_path, "{subject}.npy", order="order.txt")
    assert dict(read.rois) == {}
    assert read.channels.tolist() == ["0", "1", "2"]
    assert read.rdms(metric="euclidean").descriptors["roi"].tolist() == ["all"]
    (read,) = read_response_folder(tmp_path, "{subject}.npz", order="order.txt")
    np.testing.assert_array_equal(read.roi("IT").values, measured(50, LABELS, 2))
    (read,) = read_response_folder(tmp_path, "{subject}.npz", order="order.txt", key="IT")
    assert read.values.shape == (5, 2)
    with pytest.raises(InvalidInputError, match=r"several arrays \('V1', 'IT'\); choose one"):
        read_response_folder(tmp_path, "{subject}-{roi}.npz", order="order.txt")


def test_ids_in_the_files_need_no_order(tmp_path):
    np.savez(tmp_path / "s1.npz", V1=measured(0, LABELS, 3), labels=np.array(LABELS))
    (read,) = read_response_folder(tmp_path, "{subject}.npz")
    assert read.stimuli == tuple(LABELS)
    np.save(tmp_path / "s1.npy", measured(0, LABELS, 3))
    with pytest.raises(InvalidInputError, match=r"s1\.npy: holds no stimulus ids; name the file"):
        read_response_folder(tmp_path, "{subject}.npy")


def test_patterns_that_lack_the_subject_or_have_other_fields_are_refused(measurements):
    for pattern in ("{roi}.npy", "{subject}/{region}.npy"):
        with pytest.raises(InvalidInputError, match="it needs 'subject' and takes"):
            read_response_folder(measurements, pattern)


def test_responses_over_time_and_other_numbers_of_rows_are_refused(measurements):
    path = measurements / "sub-01/V1.npy"
    np.save(path, np.zeros((5, 3, 2)))
    with pytest.raises(InvalidInputError, match=r"V1\.npy: 'V1' is \(5, 3, 2\); expected rows by"):
        read_response_folder(measurements, order="stim_order_{subject}.txt")
    np.save(path, np.zeros((4, 3)))
    with pytest.raises(InvalidInputError, match=r"sub-01\.txt: lists 5 stimuli, .*V1\.npy holds 4"):
        read_response_folder(measurements, order="stim_order_{subject}.txt")
    np.save(path, np.full((5, 3), np.nan))
    with pytest.raises(InvalidInputError, match="channel V1 0 to 'ant'"):
        read_response_folder(measurements, order="stim_order_{subject}.txt")


def test_memory_is_that_of_the_rows_asked_for(tmp_path):
    labels = [f"x{i}" for i in range(1000)]
    np.save(tmp_path / "s1.npy", np.zeros((1000, 2000), np.float32))  # 8 MB
    write_order(tmp_path / "order.txt", labels)
    tracemalloc.start()
    (read,) = read_response_folder(
        tmp_path, "{subject}.npy", order="order.txt", stimuli=["x999", "x3"]
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read.values.shape == (2, 2000)
    assert peak < 1_500_000
