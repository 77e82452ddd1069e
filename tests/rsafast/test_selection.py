"""What every reader is asked for: subjects, regions and stretches of a file; and the exports."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import rsafast as rf
from rsafast.datasets.selection import ranges, region_members, stretches, subject_name
from rsafast.errors import InvalidInputError


@pytest.mark.parametrize("subject", ["sub-03", "sub-3", "03", "3", 3, np.int64(3)])
def test_a_subject_has_one_name(subject):
    assert subject_name(subject, "sub-", 10) == "sub-03"


@pytest.mark.parametrize("subject", ["subj03", "sub-11", "", 0, 11, -1, True, False, 3.0, None])
def test_what_names_no_subject_is_refused(subject):
    with pytest.raises(InvalidInputError, match="'sub-01' to 'sub-10' or 1 to 10, got"):
        subject_name(subject, "sub-", 10)


@pytest.mark.parametrize(
    ("rois", "expected"),
    [
        ("V1", {"V1": ["V1v", "V1d"]}),
        (["hV4", "V1"], {"hV4": ["hV4"], "V1": ["V1v", "V1d"]}),
        ({"early": ["V1", "hV4"]}, {"early": ["V1v", "V1d", "hV4"]}),
        ({"first": "V1"}, {"first": ["V1v", "V1d"]}),
    ],
)
def test_regions_are_one_several_or_unions(rois, expected):
    assert region_members(rois, lambda name: {"V1": ["V1v", "V1d"]}.get(name, [name])) == expected


@pytest.mark.parametrize("rois", [[], {}, None, 3, "", [""], [3], {"V1": []}, {"V1": 3}, {3: "V1"}])
def test_what_names_no_region_is_refused(rois):
    with pytest.raises(InvalidInputError, match="at least one region"):
        region_members(rois, lambda name: [name])


@pytest.mark.parametrize(
    ("places", "pieces", "said"),
    [
        ([], [], ""),
        ([0], [[0]], "0"),
        ([4, 5, 6], [[4, 5, 6]], "4-6"),
        ([0, 2, 3, 7], [[0], [2, 3], [7]], "0, 2-3, 7"),
    ],
)
def test_stretches_are_the_places_that_follow_each_other(places, pieces, said):
    array = np.array(places, dtype=np.int64)
    assert [array[own].tolist() for own in stretches(array)] == pieces
    assert ranges(places) == said


def test_the_readers_are_there_under_one_name():
    for name in rf.datasets.__all__:
        assert callable(getattr(rf.datasets, name))
    with pytest.raises(AttributeError, match="no attribute 'read_nothing'"):
        _ = rf.datasets.read_nothing


def test_the_catalogue_waits_for_no_numerical_package():
    code = (
        "import sys, rsafast as rf; rf.datasets; import rsafast.datasets.catalogue;"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'scipy', 'pandas', 'h5py')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
