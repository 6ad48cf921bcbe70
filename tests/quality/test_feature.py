"""The features of a segmentation against figures worked out by hand."""

import math

import pytest

from nobrainer.quality import FEATURES, deviations, features
from nobrainer.recipe import Cohort
from quality_cases import COHORT, NAN, NONE, ONE, SEEN, TWO, WHOLE, look, structure


def test_features_by_hand():
    found = features([ONE, TWO, NONE], COHORT)
    assert tuple(found) == tuple(FEATURES)
    assert found == pytest.approx(
        {
            "pairwise_dice": 0.75,
            "pairwise_dice_min": 0.6,
            "expected_dice": 0.75,
            # Weighted 2 : 1 by volume.
            "entropy": (2 * 0.1 + 0.4) / 3,
            "mutual_information": 0.02,
            # 3 counts as 1.
            "cv": (0.1 + 1) / 2,
            # ln 5 in standard deviations of 0.05, the least there is, is 32.
            "volume_z": 20.0,
            "absent": 0.0,
            "input_distance": 0.0,
            "cut": 0.0,
            "islands": 0.0,
        }
    )


def test_volumes_against_the_cohort():
    one, two = structure(1, 1000 * math.exp(-0.25)), structure(2, 100 * math.exp(0.2))
    assert deviations([one, two, NONE], COHORT) == pytest.approx(
        {"part-1": -2.5, "part-2": 4.0}
    )
    found = features([one, two, NONE], COHORT)
    assert found["volume_z"] == pytest.approx(4.0)
    found = features([one, structure(2, 0.0), structure(3, 7.0)], COHORT)
    # Structure 3 has no cohort, structure 2 is missing.
    assert (found["volume_z"], found["absent"]) == (pytest.approx(2.5), 1.0)
    unknown = features([one, two, NONE], None)
    assert (unknown["volume_z"], unknown["absent"]) == (0.0, 0.0)
    alone = Cohort(1, (None,) * 4, (None,) * 4)
    assert features([one, two, NONE], alone)["volume_z"] == 0.0


def test_nothing_segmented_has_the_worst_values():
    found = features([structure(n, 0.0) for n in (1, 2, 3)], COHORT)
    assert found == {
        "pairwise_dice": 0.0,
        "pairwise_dice_min": 0.0,
        "expected_dice": 0.0,
        "entropy": math.log(4),
        "mutual_information": math.log(4),
        "cv": 1.0,
        "volume_z": 20.0,
        "absent": 2.0,
        "input_distance": 0.0,
        "cut": 0.0,
        "islands": 0.0,
    }
    # Rounding can put an entropy just below 0.
    certain = dict(found, entropy=-1e-7, mutual_information=-1e-9)
    assert all(math.isfinite(FEATURES[n].transform(x)) for n, x in certain.items())
    # A structure of some draws that wins no voxel has no entropy.
    faint = [structure(1, 5.0, entropy=NAN, mutual_information=NAN)]
    assert features(faint, None)["entropy"] == math.log(2)
    # The mean of 0.8 and of a structure that is not in the label map.
    faint = [structure(1, 5.0, expected_dice=NAN), structure(2, 9.0, expected_dice=0.8)]
    assert features([*faint, NONE], None)["expected_dice"] == pytest.approx(0.4)


def test_features_of_the_scan_by_hand():
    scan = look(level=2.0, cut=(0, 0, 0.05, 0, 0.7, 0.2), islands=0.125, around=-0.8)
    found = features(WHOLE, SEEN, scan)
    # In the intensities √((2² + 0²) / 2), in the contrast 0.2 / 0.1: that is more.
    assert found["input_distance"] == pytest.approx(2.0)
    assert found["cut"] == pytest.approx(0.7 - 0.3)
    assert found["islands"] == 0.125
    # Less than in training is no cut, and without a record nothing can be compared.
    assert features(WHOLE, SEEN, look(cut=(0, 0, 0, 0, 0.2, 0)))["cut"] == 0
    bare = features(WHOLE, COHORT, scan)
    assert [bare[n] for n in ("input_distance", "cut", "islands")] == [0, 0, 0.125]
