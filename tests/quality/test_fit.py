"""The quality model: what it predicts, and what its fit refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nobrainer.errors import InputError
from nobrainer.posthoc import QualityModel
from nobrainer.quality import FEATURES, Example, fit_quality, predicted_dice
from quality_cases import MODEL


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


def test_the_fit_begins_at_the_expected_dice():
    # Four scans are few, but the expected Dice lies above each Dice by one arcsine.
    def lower(expected):
        return math.sin(math.asin(math.sqrt(expected)) - 0.1) ** 2

    given = [
        Example(f"sub-{n}", {"expected_dice": x, "absent": 0.0}, lower(x), n > 1)
        for n, x in enumerate((0.9, 0.8, 0.7, 0.6))
    ]
    model = fit_quality(given, 10)
    assert model.error == pytest.approx(0, abs=1e-9)
    far = {"expected_dice": 0.3, "absent": 0.0}
    assert predicted_dice(model, far) == pytest.approx(lower(0.3))


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


def test_ordinary_scans_of_a_model_with_a_low_dice_are_not_below_the_threshold():
    rng = np.random.default_rng(0)
    given = examples(rng)
    assert fit_quality(given, 10).threshold == 0.8
    worse = [replace(example, dice=0.7 * example.dice) for example in given]
    model = fit_quality(worse, 10)
    usual = np.mean([example.dice for example in worse[::4]])
    assert model.threshold == pytest.approx(usual - 3 * model.error)
    assert 0.6 < model.threshold < usual < 0.67
    # Nobody knows what a score below 0 would be.
    poor = [replace(example, dice=0.03 * example.dice**9) for example in given]
    assert 0 <= fit_quality(poor, 10).threshold < 0.02


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
