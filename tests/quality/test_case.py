"""What is said of one segmentation: its score, and what was checked."""

import math

import pytest

from nobrainer.errors import InputError
from nobrainer.quality import assess, features, predicted_dice
from quality_cases import (
    COHORT,
    MODEL,
    NONE,
    ONE,
    SEEN,
    SINGLE,
    TWO,
    WHOLE,
    look,
    structure,
)


def test_a_single_draw_has_no_features_of_draws():
    single = [structure(n, 100.0, **SINGLE) for n in (1, 2)]
    assert tuple(features(single, COHORT)) == (
        *("expected_dice", "entropy", "volume_z", "absent"),
        *("input_distance", "cut", "islands"),
    )
    case = assess("a", single, None, None)
    # 0.1 nats out of ln 3.
    assert case.score == pytest.approx(1 - 0.1 / math.log(3))
    assert math.isnan(case.predicted_dice)
    with pytest.raises(InputError, match="draws must be at least 2"):
        predicted_dice(MODEL, case.features)


def test_score_is_the_predicted_dice_or_the_agreement():
    case = assess("a", [ONE, TWO, NONE], COHORT, MODEL)
    assert case.score == case.predicted_dice == predicted_dice(MODEL, case.features)
    without = assess("a", [ONE, TWO, NONE], COHORT, None)
    assert without.score == pytest.approx(0.75)
    assert math.isnan(without.predicted_dice)


def test_a_case_says_what_was_checked_and_what_its_score_is():
    case = assess("a", WHOLE, SEEN, None, scan=look())
    assert case.meaning == "agreement of the draws (not a predicted Dice)"
    assert len(case.checked) == 5
    assert case.unchecked == ("draws and entropy against held-out scans",)
    old = assess("a", WHOLE, None, MODEL, scan=look())
    assert old.meaning == "predicted Dice"
    assert [what.split(" ")[0] for what in old.unchecked] == [
        "volumes", "intensities,", "cut", "places",
    ]  # fmt: skip
    single = assess("a", [structure(1, 100.0, **SINGLE)], None, None)
    assert single.meaning == "certainty of one pass (not a predicted Dice)"
