import json
from dataclasses import replace

import numpy as np
import pytest

from nobrainer.errors import InputError
from nobrainer.posthoc import (
    Calibration,
    Intervals,
    QualityModel,
    usual_draws,
    volume_spread,
)

INTERVALS = Intervals(coverage=0.9, n_subjects=12, n_draws=10, factors=(None, 1.5, 0.0))
CALIBRATION = Calibration(
    method="vector",
    weight=(1.0, 0.5, 2.0),
    bias=(0.25, -0.25, 0.0),
    n_subjects=6,
    nll_before=0.75,
    nll_after=0.5,
    intervals=INTERVALS,
)
QUALITY = QualityModel(
    features=("entropy", "volume_z"),
    centre=(0.1, 1.0),
    scale=(0.05, 0.5),
    coefficients=(-0.2, -0.1),
    intercept=1.2,
    low=(0.0, 0.0),
    high=(0.3, 4.0),
    n_subjects=8,
    n_cases=40,
    n_draws=10,
    error=0.03,
)
COUNTED = replace(CALIBRATION, n_scans=9, checksums=("a" * 64, "b" * 64))
TOTALS = replace(INTERVALS, totals={"brain": 2.5, "intracranial": None})
RECORDS = [INTERVALS, TOTALS, CALIBRATION, replace(COUNTED, intervals=None), QUALITY]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_round_trip_is_exact(record):
    assert type(record).from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("record", "path", "value", "message"),
    [
        (INTERVALS, "coverage", "high", r"intervals\.coverage must be float"),
        (INTERVALS, "coverage", 1.0, r"intervals\.coverage must be in \(0, 1\)"),
        (INTERVALS, "n_subjects", 0, r"intervals\.n_subjects must be positive"),
        (INTERVALS, "factors", [None, -1.0], r"intervals\.factors must be finite"),
        (CALIBRATION, "method", "platt", r"calibration\.method must be one of"),
        (CALIBRATION, "weight", [1.0, 0.0, 1.0], r"calibration\.weight .* positive"),
        (CALIBRATION, "bias", [0.0, 0.0], r"calibration\.bias must be one number"),
        (CALIBRATION, "bias", [0.0, 0.0, float("nan")], r"calibration\.bias .*finite"),
        (CALIBRATION, "nll_after", float("inf"), r"calibration\.nll_after .*finite"),
        (CALIBRATION, "n_subjects", True, r"calibration\.n_subjects must be int"),
        (
            CALIBRATION,
            "intervals.factors",
            [1.0, 1.0],
            r"calibration\.intervals\.factors must be one for each of 3",
        ),
        (
            CALIBRATION,
            "intervals.coverage",
            2,
            r"intervals\.coverage must be in \(0, 1\), got 2\.0",
        ),
        (QUALITY, "centre", [0.1], r"quality\.centre must be one finite number"),
        (QUALITY, "scale", [0.0, 1.0], r"quality\.scale must be positive"),
        (QUALITY, "error", float("nan"), r"quality\.error must be finite"),
        (QUALITY, "features", "entropy", r"quality\.features must be a list"),
    ],
)
def test_a_wrong_field_is_named(record, path, value, message):
    raw = json.loads(record.to_json())
    *parents, last = path.split(".")
    node = raw
    for name in parents:
        node = node[name]
    node[last] = value
    with pytest.raises(InputError, match=message):
        type(record).from_json(json.dumps(raw))


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_unknown_and_missing_fields_are_named(record):
    raw = json.loads(record.to_json())
    with pytest.raises(InputError, match="colour"):
        type(record).from_json(json.dumps({**raw, "colour": 1}))
    del raw["n_subjects"]
    with pytest.raises(InputError, match="lacks the field 'n_subjects'"):
        type(record).from_json(json.dumps(raw))


@pytest.mark.parametrize("record", [COUNTED, replace(QUALITY, n_scans=9)])
def test_records_of_older_formats_are_read_and_counted_as_they_counted(record):
    raw = json.loads(record.to_json())
    del raw["n_scans"], raw["checksums"]
    old = type(record).from_json(json.dumps(raw))
    assert (old.n_scans, old.checksums) == (None, ())
    is_quality = isinstance(record, QualityModel)
    assert old.counted == ("40 cases of 8 subjects" if is_quality else "6 scans")
    new = "40 cases of 9 scans of 8 subjects" if is_quality else "9 scans of 6 subjects"
    assert record.counted == new


def test_what_is_not_json_is_refused():
    with pytest.raises(InputError, match="calibration is not JSON"):
        Calibration.from_json("{")


def test_spread_is_the_draws_sd_with_a_floor():
    # 3-4-5: one per cent of 400 is 4.
    assert volume_spread(400.0, 3.0) == pytest.approx(5.0)
    assert volume_spread(400.0, 0.0) == pytest.approx(4.0)
    assert volume_spread(400.0, float("nan")) == pytest.approx(4.0)
    np.testing.assert_allclose(
        volume_spread(np.array([400.0, 0.0]), np.array([3.0, 2.0])), [5.0, 2.0]
    )


def test_draws_are_those_of_the_intervals_else_of_the_quality_model():
    five = replace(CALIBRATION, intervals=replace(INTERVALS, n_draws=5))
    scaled, quality = replace(five, intervals=None), replace(QUALITY, n_draws=7)
    assert usual_draws(five, quality) == usual_draws(five, None) == 5
    assert usual_draws(scaled, quality) == usual_draws(None, quality) == 7
    assert usual_draws(scaled, None) == usual_draws(None, None) == 10
