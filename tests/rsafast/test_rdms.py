"""RDMs: shape rules, validation, selection, alignment, conversions."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import squareform

from rsafast._condensed import condensed_index, n_pairs, pair_at
from rsafast.errors import InvalidInputError
from rsafast.rdms import RDMs, align, as_rdms

ODD_SIZES = [4, 5, 6, 31, 33, 127]


@pytest.fixture
def stack(random_rdm):
    return RDMs(
        [random_rdm(7) for _ in range(4)],
        labels=list("abcdefg"),
        names=["V1", "V1", "IT", "IT"],
        measure="euclidean",
        descriptors={"subject": [1, 2, 1, 2], "roi": ["V1", "V1", "IT", "IT"]},
    )


@pytest.mark.parametrize("n", ODD_SIZES)
@pytest.mark.parametrize("kind", ["gaussian", "clustered", "line", "categories"])
def test_every_shape_gives_the_same_vectors(random_rdm, n, kind):
    matrix = random_rdm(n, kind)
    vector = squareform(matrix, checks=False)
    for given_as in (matrix, matrix[None], vector, vector[None], matrix.tolist()):
        rdms = RDMs(given_as)
        np.testing.assert_array_equal(rdms.vectors, vector[None])
        np.testing.assert_array_equal(rdms.matrices()[0], matrix)
    assert (rdms.n_rdms, rdms.n_stimuli) == (1, n)


@given(st.integers(4, 40), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_order_is_that_of_scipy_squareform(n, k, seed):
    vectors = np.random.default_rng(seed).standard_normal((k, n_pairs(n)))
    rdms = RDMs.from_vectors(vectors)
    for matrix, vector in zip(rdms.matrices(), vectors, strict=True):
        np.testing.assert_array_equal(matrix, squareform(vector))
    np.testing.assert_array_equal(RDMs(rdms.matrices()).vectors, vectors)


@given(st.integers(4, 60), st.data())
def test_pair_and_position_are_inverse(n, data):
    position = data.draw(st.integers(0, n_pairs(n) - 1))
    i, j = pair_at(position, n)
    assert 0 <= i < j < n
    assert condensed_index(np.array([j]), np.array([i]), n)[0] == position


def test_blocked_condensation_of_a_large_matrix_matches_scipy(random_rdm, monkeypatch):
    monkeypatch.setattr("rsafast._condensed._BLOCK", 500)
    matrix = random_rdm(127)
    np.testing.assert_array_equal(RDMs(matrix).vectors[0], squareform(matrix, checks=False))
    matrix[100, 3] += 1
    with pytest.raises(InvalidInputError, match=r"\(3, 100\).*\(100, 3\)"):
        RDMs(matrix)


class TestSquareOfTriangularSide:
    """A (6, 6) array may be one matrix over 6 stimuli or 6 vectors over 4."""

    def test_symmetric_and_hollow_is_one_matrix(self, random_rdm):
        assert RDMs(random_rdm(6)).n_stimuli == 6
        assert RDMs(np.zeros((10, 10))).n_stimuli == 10

    def test_neither_is_a_stack(self, rng):
        rdms = RDMs(rng.random((6, 6)))
        assert (rdms.n_rdms, rdms.n_stimuli) == (6, 4)

    def test_hollow_but_asymmetric_raises(self, random_rdm):
        matrix = random_rdm(6)
        matrix[0, 1] += 1
        with pytest.raises(InvalidInputError, match=r"from_vectors"):
            RDMs(matrix)

    def test_symmetric_but_not_hollow_raises(self, random_rdm):
        with pytest.raises(InvalidInputError, match="symmetric but not zero"):
            RDMs(1 - random_rdm(6))

    def test_from_vectors_and_3d_are_unambiguous(self, random_rdm):
        matrix = random_rdm(6)
        assert RDMs.from_vectors(matrix).n_rdms == 6
        assert RDMs(matrix[None]).n_rdms == 1


def test_storage_is_a_read_only_copy(random_rdm):
    given_as = squareform(random_rdm(5))[None].copy()
    rdms = RDMs(given_as)
    given_as[:] = -1
    assert (rdms.vectors >= 0).all()
    assert rdms.vectors.dtype == np.float64
    assert rdms.vectors.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        rdms.vectors[0, 0] = 1
    with pytest.raises(AttributeError):
        rdms.labels = ("a",)


def test_input_is_not_mutated(random_rdm):
    matrix = random_rdm(5)
    matrix[0, 1] += 1e-12
    before = matrix.copy()
    rdms = RDMs(matrix)
    np.testing.assert_array_equal(matrix, before)
    assert rdms.vectors[0, 0] == pytest.approx((matrix[0, 1] + matrix[1, 0]) / 2, abs=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int64, bool])
def test_real_dtypes_are_accepted(random_rdm, dtype):
    matrix = random_rdm(9, "categories").astype(dtype)
    assert RDMs(matrix).vectors.dtype == np.float64


def test_float32_rounding_is_no_asymmetry(random_rdm):
    matrix = random_rdm(20).astype(np.float32)
    matrix[3, 5] = np.nextafter(matrix[3, 5], np.float32(np.inf))
    RDMs(matrix)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 7)), r"nearest are 6 \(n = 4\) and 10 \(n = 5\)"),
        (np.zeros(11), r"10 \(n = 5\) and 15 \(n = 6\)"),
        (np.zeros((2, 2)), "at least 4 stimuli, got 2"),
        (np.zeros((1, 3, 3)), "at least 4 stimuli, got 3"),
        (np.zeros(3), "at least 4 stimuli, got 3"),
        (np.zeros((2, 4, 5)), r"\(2, 4, 5\)"),
        (np.zeros((1, 1, 4, 4)), "must have shape"),
        (np.float64(3.0), "must have shape"),
        ([], "empty"),
        (np.zeros((0, 6)), "empty"),
        (np.zeros(6, dtype=complex), "complex"),
        (np.array(["a"] * 6), "real numbers"),
        (np.array([None] * 6), "object"),
        ([[1, 2], [1]], "regular numeric array"),
    ],
)
def test_rejects_shape_and_dtype(bad, message):
    with pytest.raises(InvalidInputError, match=message):
        RDMs(bad)


def test_rejects_asymmetry_naming_rdm_place_and_values(random_rdm):
    matrices = np.stack([random_rdm(5), random_rdm(5)])
    matrices[1, 1, 3], matrices[1, 3, 1] = 0.25, 0.5
    with pytest.raises(InvalidInputError, match=r"RDM 1 .*\(1, 3\) is 0.25 and \(3, 1\) is 0.5"):
        RDMs(matrices)


def test_rejects_diagonal_and_suggests_similarities(random_rdm):
    with pytest.raises(InvalidInputError, match=r"diagonal.*1 - x"):
        RDMs(np.ones((2, 5, 5)))
    matrix = random_rdm(5)
    matrix[2, 2] = 0.5
    with pytest.raises(InvalidInputError, match=r"0.5 at \(2, 2\)"):
        RDMs(matrix)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rejects_non_finite_naming_rdm_and_pair(random_rdm, value):
    matrices = np.stack([random_rdm(5), random_rdm(5)])
    matrices[1, 1, 4] = matrices[1, 4, 1] = value
    with pytest.raises(InvalidInputError, match=r"RDM 1 \('y'\).*\(1, 4\), 'b' and 'e'"):
        RDMs(matrices, labels=list("abcde"), names=["x", "y"])


def test_missing_pairs_need_an_explicit_word(random_rdm):
    matrix = random_rdm(5)
    matrix[0, 2] = matrix[2, 0] = np.nan
    with pytest.raises(InvalidInputError, match="missing='allow'"):
        RDMs(matrix)
    rdms = RDMs([matrix, random_rdm(5)], missing="allow")
    assert rdms.has_missing
    assert "1 missing" in repr(rdms)
    assert not rdms.subset(rdms=1).has_missing
    assert np.isfinite(rdms.mean().vectors).all()
    assert np.isnan(rdms[0].mean().vectors).sum() == 1
    assert rdms.subset(stimuli=[1, 2, 3, 4]).missing == "allow"
    matrix[0, 2] = matrix[2, 0] = np.inf
    with pytest.raises(InvalidInputError, match="inf"):
        RDMs(matrix, missing="allow")


def test_half_missing_pair_is_asymmetric(random_rdm):
    matrix = random_rdm(5)
    matrix[0, 2] = np.nan
    with pytest.raises(InvalidInputError, match="not symmetric"):
        RDMs(matrix, missing="allow")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": list("aabc")}, "unique: 'a' is at 0 and at 1"),
        ({"labels": list("abc")}, "4 stimuli, got 3"),
        ({"labels": "abcd"}, "must be a sequence"),
        ({"labels": ["a", "b", "c", 1]}, "all str or all int"),
        ({"labels": [True, False, True, False]}, "bool"),
        ({"labels": [1.0, 2.0, 3.0, 4.0]}, "float"),
        ({"labels": [1, 2, 3, 2**70]}, "64 bits"),
        ({"names": ["a", "b"]}, "1 RDMs, got 2"),
        ({"names": [1]}, "must be str"),
        ({"measure": 3}, "measure"),
        ({"missing": "drop"}, "'error' or 'allow'"),
        ({"descriptors": {"roi": ["a", "b"]}}, "one value for each of 1"),
        ({"descriptors": {"roi": "V1"}}, "must be a sequence"),
        ({"descriptors": {"roi": [None]}}, "dtype object"),
        ({"descriptors": {"a/b": [1]}}, "without '/'"),
        ({"descriptors": {"rdm": [1]}}, "taken"),
    ],
)
def test_rejects_wrong_companions(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        RDMs(np.arange(6.0), **arguments)


def test_integer_labels_stay_integers():
    labels = np.array([30, 10, 20, 5], dtype=np.int32)
    rdms = RDMs(np.arange(6.0), labels=labels)
    assert rdms.labels == (30, 10, 20, 5)
    assert all(type(label) is int for label in rdms.labels)
    assert rdms.subset(stimuli=[5, 10, 20, 30]).labels == (5, 10, 20, 30)


def test_reorder_moves_rows_and_columns(stack):
    order = list("gcabfed")
    place = [stack.labels.index(label) for label in order]
    moved = stack.reorder(order)
    np.testing.assert_array_equal(moved.matrices(), stack.matrices()[:, place][:, :, place])
    assert moved.labels == tuple(order)
    assert moved.reorder(stack.labels) == stack
    with pytest.raises(InvalidInputError, match="'z'"):
        stack.reorder(list("abcdefz"))
    with pytest.raises(InvalidInputError, match="labels"):
        RDMs(np.arange(6.0)).reorder(list("abcd"))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (0, [0]),
        (-1, [3]),
        (np.int64(2), [2]),
        ([2, 0], [2, 0]),
        (slice(1, 3), [1, 2]),
        ("IT", [2, 3]),
        (["IT", "V1"], [2, 3, 0, 1]),
        ([False, True, False, True], [1, 3]),
        ({"roi": "V1"}, [0, 1]),
        ({"subject": [1]}, [0, 2]),
        ({"roi": "IT", "subject": [2, 1]}, [2, 3]),
        ({"roi": "IT", "subject": 2}, [3]),
    ],
)
def test_subset_of_rdms(stack, selection, expected):
    kept = stack.subset(rdms=selection)
    np.testing.assert_array_equal(kept.vectors, stack.vectors[expected])
    assert kept.names == tuple(stack.names[i] for i in expected)
    assert kept.descriptors["subject"].tolist() == [
        stack.descriptors["subject"][i] for i in expected
    ]
    assert stack[selection] == kept


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (["g", "a", "c", "b"], [6, 0, 2, 1]),
        ([6, 0, 2, 1], [6, 0, 2, 1]),
        (slice(0, 5), [0, 1, 2, 3, 4]),
        (np.arange(7) % 2 == 0, [0, 2, 4, 6]),
    ],
)
def test_subset_of_stimuli(stack, selection, expected):
    kept = stack.subset(stimuli=selection)
    np.testing.assert_array_equal(kept.matrices(), stack.matrices()[:, expected][:, :, expected])
    assert kept.labels == tuple("abcdefg"[i] for i in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rdms": 4}, "outside 0 ... 3"),
        ({"rdms": "LO"}, "'LO'; there are: 'V1'"),
        ({"rdms": {"area": 1}}, "no descriptor 'area'"),
        ({"rdms": {"subject": 9}}, "never 9"),
        ({"rdms": []}, "selects no RDM"),
        ({"rdms": [True]}, "4 booleans"),
        ({"stimuli": ["a", "b", "c"]}, "at least 4"),
        ({"stimuli": ["a", "b", "c", "c", "d"]}, "twice"),
        ({"stimuli": ["a", "b", "c", "z"]}, "no label 'z'"),
        ({"stimuli": [0, 1, 2, 9]}, "outside"),
    ],
)
def test_subset_rejects(stack, arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        stack.subset(**arguments)


def test_container_manners(stack):
    assert len(stack) == 4
    assert [rdm.names[0] for rdm in stack] == ["V1", "V1", "IT", "IT"]
    assert stack[1:3].n_rdms == 2
    with pytest.raises(IndexError):
        stack[4]
    assert pickle.loads(pickle.dumps(stack)) == stack
    assert not pickle.loads(pickle.dumps(stack)).vectors.flags.writeable
    assert "4 RDMs" in repr(stack)
    assert "7 stimuli" in repr(stack)
    assert stack != stack[0]


def test_html_is_small_and_escaped():
    rdms = RDMs(np.ones((50, 10)) * np.arange(10), names=["<script>"] * 50)
    assert "<script>" not in rdms._repr_html_()
    assert "45 more" in rdms._repr_html_()
    assert len(rdms._repr_html_()) < 2000


def test_concat_matches_labels_and_fills_descriptors(stack):
    other = RDMs(stack.vectors[:1], labels=stack.labels, measure="euclidean").reorder(
        list("gfedcba")
    )
    joined = RDMs.concat([stack, other])
    assert joined.n_rdms == 5
    np.testing.assert_array_equal(joined.vectors[4], stack.vectors[0])
    assert joined.measure == "euclidean"
    assert joined.descriptors["roi"][4] == ""
    assert np.isnan(joined.descriptors["subject"][4])
    with pytest.raises(InvalidInputError):
        RDMs.concat([])
    with pytest.raises(InvalidInputError, match="7 stimuli"):
        RDMs.concat([RDMs(stack.vectors), RDMs(np.arange(6.0))])


def test_mean(stack):
    mean = stack.mean()
    np.testing.assert_allclose(mean.vectors[0], stack.vectors.mean(0), rtol=1e-15)
    assert mean.names == ("mean",)
    assert mean.labels == stack.labels


def test_dataframe_is_long(stack):
    frame = stack.to_dataframe()
    assert list(frame)[:4] == ["dissimilarity", "rdm", "stimulus_1", "stimulus_2"]
    assert len(frame) == 4 * 21
    row = frame[(frame.stimulus_1 == "b") & (frame.stimulus_2 == "e") & (frame.roi == "IT")].iloc[1]
    assert row.dissimilarity == stack.matrices()[3, 1, 4]
    assert (row.rdm, row.subject) == ("IT", 2)


def test_align_reorders_the_second(stack):
    shuffled = stack.reorder(list("gfedcba"))
    a, b = align(stack, shuffled)
    assert a is stack
    assert b == stack


def test_align_names_up_to_five_missing_labels(random_rdm):
    a = RDMs(random_rdm(9), labels=[f"a{i}" for i in range(9)])
    b = RDMs(random_rdm(9), labels=[f"b{i}" for i in range(8)] + ["a0"])
    with pytest.raises(InvalidInputError, match=r"'a1'.*'a5' and 3 more.*'b0'.*subset\(stimuli="):
        align(a, b)
    with pytest.raises(InvalidInputError, match="str labels, the other int"):
        align(a, RDMs(random_rdm(9), labels=range(9)))


def test_align_without_labels_needs_equal_sizes(stack, random_rdm):
    plain = RDMs(random_rdm(7))
    assert align(stack, plain) == (stack, plain)
    with pytest.raises(InvalidInputError, match="7 stimuli, the second 8"):
        align(stack, RDMs(random_rdm(8)))


def test_as_rdms_names_the_argument(stack, random_rdm):
    assert as_rdms(stack, "brain") is stack
    assert as_rdms(random_rdm(5), "brain").n_stimuli == 5
    for bad in (None, "file.h5", np.zeros(7), object()):
        with pytest.raises(InvalidInputError, match="brain: "):
            as_rdms(bad, "brain")


class TestRsatoolbox:
    @pytest.fixture(autouse=True)
    def _rsatoolbox(self):
        self.rsatoolbox = pytest.importorskip("rsatoolbox")

    def test_round_trip(self, stack):
        theirs = stack.to_rsatoolbox()
        np.testing.assert_array_equal(theirs.get_matrices(), stack.matrices())
        assert theirs.pattern_descriptors["label"] == list("abcdefg")
        assert theirs.subset("roi", "IT").n_rdm == 2
        assert RDMs.from_rsatoolbox(theirs) == stack
        assert as_rdms(theirs, "brain") == stack

    def test_plain_round_trip(self, random_rdm):
        rdms = RDMs(random_rdm(6))
        back = RDMs.from_rsatoolbox(rdms.to_rsatoolbox())
        assert back == rdms
        assert back.labels is None

    def test_their_own_objects(self, rng):
        data = self.rsatoolbox.data.Dataset(
            rng.standard_normal((8, 20)),
            descriptors={"session": 3},
            obs_descriptors={"conds": list("hgfedcba")},
        )
        theirs = self.rsatoolbox.rdm.calc_rdm(data, method="euclidean", descriptor="conds")
        ours = RDMs.from_rsatoolbox(theirs)
        assert ours.labels == tuple("abcdefgh")
        assert ours.measure == "squared euclidean"
        assert ours.descriptors["session"].tolist() == [3]
        np.testing.assert_array_equal(ours.matrices(), theirs.get_matrices())

    def test_reordered_index_identifies_stimuli(self, random_rdm):
        theirs = RDMs(random_rdm(6)).to_rsatoolbox()
        assert RDMs.from_rsatoolbox(theirs.subset_pattern("index", [1, 2, 4, 5])).labels == (
            1,
            2,
            4,
            5,
        )

    def test_chosen_descriptor_and_none_values(self):
        theirs = SimpleNamespace(
            dissimilarities=np.arange(6.0)[None],
            dissimilarity_measure=None,
            descriptors={},
            rdm_descriptors={"index": [0], "roi": [None]},
            pattern_descriptors={"a": list("abcd"), "b": list("efgh"), "index": [0, 1, 2, 3]},
        )
        assert RDMs.from_rsatoolbox(theirs, labels="b").labels == tuple("efgh")
        assert RDMs.from_rsatoolbox(theirs).descriptors["roi"].tolist() == [""]
        with pytest.raises(InvalidInputError, match="'c' is no pattern"):
            RDMs.from_rsatoolbox(theirs, labels="c")
