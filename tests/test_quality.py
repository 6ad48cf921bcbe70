"""Scores without a reference against figures worked out by hand."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest

from nobrainer.appearance import Appearance
from nobrainer.errors import InputError
from nobrainer.posthoc import QualityModel
from nobrainer.quality import (
    FEATURES,
    Case,
    Example,
    assess,
    cohort_outliers,
    deviations,
    features,
    fit_quality,
    flags,
    predicted_dice,
    sidecar,
    to_tsv,
    unlike_training,
)
from nobrainer.recipe import Cohort, TrainingAppearance
from nobrainer.structures import Structure

NAN = math.nan
COHORT = Cohort(
    10, (None, math.log(1000), math.log(100), None), (None, 0.1, 0.01, None)
)


def structure(index, volume_mm3, **figures):
    given = {
        "volume_sd_mm3": 0.05 * volume_mm3,
        "cv": 0.05 if volume_mm3 else NAN,
        "pairwise_dice": 0.9 if volume_mm3 else NAN,
        "entropy": 0.1 if volume_mm3 else NAN,
        "mutual_information": 0.02 if volume_mm3 else NAN,
        **figures,
    }
    return Structure(
        index=index,
        value=index,
        name=f"part-{index}",
        volume_mm3=volume_mm3,
        volume_low_mm3=NAN,
        volume_high_mm3=NAN,
        conformal_low_mm3=NAN,
        conformal_high_mm3=NAN,
        iou=NAN,
        **given,
    )


ONE = structure(1, 1000.0, pairwise_dice=0.9, cv=0.1, entropy=0.1)
TWO = structure(2, 500.0, pairwise_dice=0.6, cv=3.0, entropy=0.4)
NONE = structure(3, 0.0)
SINGLE = {
    "volume_sd_mm3": NAN,
    "cv": NAN,
    "pairwise_dice": NAN,
    "mutual_information": 0.0,
}


def test_features_by_hand():
    found = features([ONE, TWO, NONE], COHORT)
    assert tuple(found) == tuple(FEATURES)
    assert found == pytest.approx(
        {
            "pairwise_dice": 0.75,
            "pairwise_dice_min": 0.6,
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


def test_a_single_draw_has_no_features_of_draws():
    single = [structure(n, 100.0, **SINGLE) for n in (1, 2)]
    assert tuple(features(single, COHORT)) == (
        *("entropy", "volume_z", "absent", "input_distance", "cut", "islands"),
    )
    case = assess("a", single, None, None)
    # 0.1 nats out of ln 3.
    assert case.score == pytest.approx(1 - 0.1 / math.log(3))
    assert math.isnan(case.predicted_dice)
    with pytest.raises(InputError, match="draws must be at least 2"):
        predicted_dice(MODEL, case.features)


MODEL = QualityModel(
    features=("pairwise_dice", "pairwise_dice_min", "entropy", "volume_z", "absent"),
    centre=(math.pi / 4, 0.0, 0.0, 0.0, 0.0),
    scale=(0.5, 1.0, 1.0, 1.0, 1.0),
    coefficients=(0.25, 0.0, 0.0, -0.1, 0.0),
    intercept=1.0,
    low=(0.8, 0.7, 0.0, 0.0, 0.0),
    high=(1.0, 1.0, 0.2, 3.0, 0.0),
    n_subjects=5,
    n_cases=20,
    n_draws=10,
    error=0.02,
)


def test_predicted_dice_by_hand():
    given = dict.fromkeys(MODEL.features, 0.0) | {
        "pairwise_dice": 0.75,
        "volume_z": math.e - 1,
    }
    # arcsin √0.75 = π/3; (π/3 - π/4) / 0.5 · 0.25 = π/24; ln(1 + (e - 1)) = 1.
    expected = math.sin(1.0 + math.pi / 24 - 0.1) ** 2
    assert predicted_dice(MODEL, given) == pytest.approx(expected)
    # An arcsine beyond π/2 is a Dice of 1, and one below 0 a Dice of 0.
    assert predicted_dice(replace(MODEL, intercept=3.0), given) == 1.0
    assert predicted_dice(replace(MODEL, intercept=-3.0), given) == 0.0


def examples(rng, n_subjects=12, names=("pairwise_dice", "entropy", "absent")):
    """Dice falls with severity; so does agreement, while entropy grows."""
    found = []
    for subject in range(n_subjects):
        for severity in (0.0, 0.3, 0.6, 0.9):
            dice = 0.95 - 0.7 * severity + rng.normal(0, 0.01)
            given = {
                "pairwise_dice": min(dice + 0.03, 1.0),
                "entropy": 0.1 + 0.3 * severity + abs(rng.normal(0, 0.02)),
                "absent": 0.0,
            }
            kept = {name: given[name] for name in names}
            found.append(Example(f"sub-{subject}", kept, dice, severity > 0))
    return found


def test_fit_predicts_subjects_that_were_left_out():
    rng = np.random.default_rng(0)
    model = fit_quality(examples(rng), 10)
    assert (model.n_subjects, model.n_cases, model.n_draws) == (12, 48, 10)
    fresh = examples(rng)
    errors = [abs(predicted_dice(model, e.features) - e.dice) for e in fresh]
    # Knowing nothing, the error would be the mean distance from the mean: 0.21.
    assert np.mean(errors) < 0.02
    assert model.error == pytest.approx(np.mean(errors), abs=0.006)
    usual = [e.features["entropy"] for e in examples(np.random.default_rng(0))[::4]]
    entropy = model.features.index("entropy")
    margin = 0.05
    assert np.std(usual) < margin
    assert model.high[entropy] == pytest.approx(np.percentile(usual, 99) + margin)
    assert model.low[entropy] == pytest.approx(np.percentile(usual, 1) - margin)
    # Scans that vary more than the slack widen the limits by their own spread.
    spread = [
        replace(e, features=e.features | {"entropy": 10 * e.features["entropy"]})
        for e in examples(np.random.default_rng(0))
    ]
    usual = 10 * np.array(usual)
    assert fit_quality(spread, 10).high[entropy] == pytest.approx(
        np.percentile(usual, 99) + usual.std()
    )
    # No ordinary case lacks a structure, so that one missing is beyond the limit.
    assert model.high[model.features.index("absent")] == 0.0
    assert QualityModel.from_json(model.to_json()) == model


def test_error_is_that_of_subjects_left_out():
    # One subject is unlike the others: its own fit would hide it, left out it shows.
    rng = np.random.default_rng(0)
    given = [
        replace(e, dice=0.1) if e.subject == "sub-0" else e for e in examples(rng, 3)
    ]
    fit = fit_quality(given, 10)
    odd = [e for e in given if e.subject == "sub-0"]
    others = fit_quality(
        [e for e in examples(np.random.default_rng(0), 12) if e.subject != "sub-0"],
        10,
    )
    distance = np.mean([predicted_dice(others, e.features) - 0.1 for e in odd])
    # A third of the cases are off by about as much as the others' model is.
    assert fit.error > 0.8 * distance / 3


def test_a_worse_feature_never_raises_the_prediction():
    # In these examples entropy goes with Dice the wrong way round.
    rng = np.random.default_rng(1)
    given = [
        replace(e, features=e.features | {"entropy": e.dice + rng.normal(0, 0.1) ** 2})
        for e in examples(rng)
    ]
    model = fit_quality(given, 10)
    signs = np.array([FEATURES[name].worse for name in model.features])
    assert (np.array(model.coefficients) * signs <= 0).all()
    base = {"pairwise_dice": 0.8, "entropy": 0.3, "absent": 0.0}
    high = predicted_dice(model, base)
    assert predicted_dice(model, base | {"pairwise_dice": 0.5}) < high
    assert predicted_dice(model, base | {"entropy": 0.6}) <= high


def test_order_and_repeats_of_columns_do_not_matter():
    given = examples(np.random.default_rng(0))
    assert fit_quality(given[::-1], 10).coefficients == pytest.approx(
        fit_quality(given, 10).coefficients
    )


def test_what_fitting_refuses():
    given = examples(np.random.default_rng(0))
    with pytest.raises(InputError, match=r"at least 3 .*, got 2"):
        fit_quality([e for e in given if e.subject in ("sub-0", "sub-1")], 10)
    with pytest.raises(InputError, match="not shifted"):
        fit_quality([e for e in given if e.shifted], 10)
    with pytest.raises(InputError, match="same number of draws"):
        fit_quality(
            [*given, replace(given[0], features={"entropy": 0.1, "absent": 0.0})], 10
        )


def test_flags_say_why():
    poor = [
        structure(1, 1000 * math.exp(0.61), pairwise_dice=0.55, entropy=0.3),
        structure(2, 0.0),
        structure(3, 10.0, pairwise_dice=0.95, entropy=0.3),
    ]
    assert flags(poor, COHORT, MODEL) == (
        "predicted Dice 0.65 is below 0.80",
        "draws agree poorly (pairwise Dice 0.75, on held-out scans 0.80 or more)",
        "mean entropy is 0.300, on held-out scans 0.200 or less",
        "volume of part-1 is 6.1 SD above the training cohort's",
        "missing: part-2",
    )
    assert flags(poor, COHORT, MODEL, threshold=0.6) == flags(poor, COHORT, MODEL)[1:]
    # Without a model the draws alone are judged, and there are no limits but those of
    # the cohort.
    agreement = "mean pairwise Dice of the draws 0.75 is below 0.80"
    assert flags(poor, COHORT, None) == (agreement, *flags(poor, COHORT, MODEL)[-2:])
    assert flags(poor, None, None) == (agreement,)
    assert flags(poor, None, None, threshold=0.7) == ()
    part = [structure(1, 1000.0, pairwise_dice=0.69), structure(2, 100.0), NONE]
    lenient = replace(MODEL, low=(0.7, 0.7, 0.0, 0.0, 0.0))
    assert flags(part, COHORT, lenient, threshold=0) == (
        "draws agree poorly on part-1 (pairwise Dice 0.69, on held-out scans the "
        "lowest is 0.70 or more)",
    )
    # 3.5 SD is beyond the limit of the model, but not much for a cohort.
    wide = [structure(1, 1000 * math.exp(0.35)), structure(2, 100.0), NONE]
    assert flags(wide, COHORT, MODEL, threshold=0) == ()
    good = [structure(1, 1000.0), structure(2, 100.0), NONE]
    assert flags(good, COHORT, MODEL) == ()
    assert flags([structure(1, 0.0)], None, None) == ("nothing was segmented",)


def test_many_volumes_and_many_missing_are_summed_up():
    cohort = Cohort(9, (None, *[math.log(10)] * 5), (None, *[0.1] * 5))
    small = [structure(n, 10 * math.exp(-n / 2)) for n in range(1, 6)]
    assert flags(small, cohort, None) == (
        "volume of part-5 is 25.0 SD below the training cohort's (and 4 more)",
    )
    few = [structure(1, 10.0), *(structure(n, 0.0) for n in range(2, 6))]
    assert flags(few, cohort, None) == ("missing: part-2, part-3, part-4 and 1 more",)


def test_only_structures_without_a_cohort_are_there():
    some = [structure(1, 0.0), structure(2, 0.0), structure(3, 5.0)]
    assert flags(some, COHORT, None) == ("missing: part-1, part-2",)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, NAN])
def test_a_threshold_is_a_dice(threshold):
    with pytest.raises(InputError, match="threshold must be between 0 and 1"):
        flags([ONE], None, None, threshold=threshold)


def test_score_is_the_predicted_dice_or_the_agreement():
    case = assess("a", [ONE, TWO, NONE], COHORT, MODEL)
    assert case.score == case.predicted_dice == predicted_dice(MODEL, case.features)
    without = assess("a", [ONE, TWO, NONE], COHORT, None)
    assert without.score == pytest.approx(0.75)
    assert math.isnan(without.predicted_dice)


def test_outliers_of_a_run():
    entropies = [0.10, 0.11, 0.12, 0.10, 0.11, 0.12, 0.10, 0.11, 0.01, 0.40]
    cases = [{"entropy": value, "absent": 0.0} for value in entropies]
    cases[4]["absent"] = 1.0
    found = cohort_outliers(cases)
    # Less entropy than the rest is no reason.
    assert [number for number, reasons in enumerate(found) if reasons] == [4, 9]
    assert found[9] == ("mean entropy is 0.4, the median of this run 0.11",)
    assert found[4] == ("number of missing structures is 1, the median of this run 0",)
    assert cohort_outliers(cases[1:]) == [()] * 9


def test_an_outlier_has_one_sentence_about_draws():
    agreements = [0.90, 0.91, 0.92, 0.90, 0.91, 0.92, 0.90, 0.91, 0.92, 0.12345]
    cases = [{"pairwise_dice": a, "entropy": 0.1, "cv": 1 - a} for a in agreements]
    # Far beyond the limit of the one, and a little beyond that of the other.
    cases[9]["cv"] = 0.2
    assert cohort_outliers(cases)[9] == (
        "mean pairwise Dice of the draws is 0.123, the median of this run 0.91",
    )


def test_table_and_sidecar():
    cases = [
        Case("a", 0.9, 0.9, {"entropy": 0.25, "absent": 1.0}, ("x", "y")),
        Case("b", 0.5, NAN, {"pairwise_dice": 0.5, "entropy": 1 / 3}, ()),
    ]
    rows = list(csv.reader(to_tsv(cases).splitlines(), delimiter="\t"))
    assert rows == [
        [
            "subject",
            "flagged",
            "score",
            "score_is",
            "predicted_dice",
            "pairwise_dice",
            "entropy",
            "absent",
            "reasons",
        ],
        ["a", "true", "0.9", "predicted Dice", "0.9", "n/a", "0.25", "1", "x; y"],
        [
            *("b", "false", "0.5", "agreement of the draws (not a predicted Dice)"),
            *("n/a", "0.5", "0.333333", "n/a", "n/a"),
        ],
    ]
    assert set(rows[0]) <= set(sidecar())
    assert sidecar()["entropy"]["Units"] == "nat"


# --- the scan itself against the training scans

TRAINING = TrainingAppearance(
    n_scans=4,
    names=("sharpness/R", "intensity/level", "intensity/scale", "contrast/around"),
    mean=(0.0, 0.0, 0.0, -1.0),
    sd=(0.5, 1.0, 1.0, 0.1),
    limit=3.0,
    cut=(0.0, 0.0, 0.1, 0.0, 0.3, 0.0),
    islands=0.02,
)
SEEN = replace(COHORT, appearance=TRAINING)
WHOLE = [structure(1, 1000.0), structure(2, 100.0), NONE]


def look(level=0.0, cut=(0.0,) * 6, islands=0.0, around=-1.0):
    found = {"intensity/level": level, "intensity/scale": 0.0, "sharpness/R": 0.0}
    return Appearance(found | {"contrast/around": around}, cut, islands)


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


def test_flags_of_the_scan_say_what_is_unlike_training():
    assert flags(WHOLE, SEEN, None, scan=look()) == ()
    odd = look(-6.0, cut=(0, 0, 0, 0.1, 0.4, 0.95), islands=0.08, around=-1.5)
    sentences = (
        "the scan is unlike the training scans in the intensities of the head (4.2 "
        "SD), the contrast of what was segmented (5.0 SD): usual is 3.0 SD or less",
        "what was segmented is cut off at its superior end: its area there is 95% of "
        "its largest (in training scans 0% or less)",
        "8% of what was segmented is apart from its largest piece (in training scans "
        "2% or less)",
    )
    assert flags(WHOLE, SEEN, None, scan=odd) == sentences
    assert unlike_training(WHOLE, SEEN, odd) == sentences
    assert unlike_training(WHOLE, COHORT, odd) == ()
    # 0.1 beyond training is little, and so are islands of 0.05 beyond it.
    slight = look(cut=(0, 0, 0, 0.1, 0.4, 0), islands=0.07)
    assert unlike_training(WHOLE, SEEN, slight) == ()
    # Held-out scans of the quality model may lie further out than training scans.
    one = dict.fromkeys(("centre", "coefficients", "low"), (0.0,)) | {"scale": (1.0,)}
    wide = replace(MODEL, features=("input_distance",), high=(5.0,), **one)
    assert unlike_training(WHOLE, SEEN, look(level=-6.0), wide) == ()
    empty = [structure(1, 0.0)]
    alone = Cohort(4, (None, None), (None, None), appearance=TRAINING)
    assert unlike_training(empty, alone, odd) == ("nothing was segmented", sentences[0])


def test_a_case_says_what_was_checked_and_what_its_score_is():
    case = assess("a", WHOLE, SEEN, None, scan=look())
    assert case.meaning == "agreement of the draws (not a predicted Dice)"
    assert len(case.checked) == 4
    assert case.unchecked == ("draws and entropy against held-out scans",)
    old = assess("a", WHOLE, None, MODEL, scan=look())
    assert old.meaning == "predicted Dice"
    assert [what.split(" ")[0] for what in old.unchecked] == [
        "volumes", "intensities,", "cut",
    ]  # fmt: skip
    single = assess("a", [structure(1, 100.0, **SINGLE)], None, None)
    assert single.meaning == "certainty of one pass (not a predicted Dice)"


def test_a_little_beyond_equal_cases_is_no_outlier():
    cases = [{"islands": value} for value in [0.0] * 8 + [0.04, 0.06]]
    assert [bool(reasons) for reasons in cohort_outliers(cases)] == [False] * 9 + [True]
