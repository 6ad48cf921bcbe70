"""Charts show the numbers that they are given."""

import numpy as np

from nobrainer.figure import (
    draw_metric,
    draw_quality,
    draw_reliability,
    draw_risk_coverage,
    draw_structures,
)
from nobrainer.metrics.calibration import Reliability
from nobrainer.metrics.uncertainty import RiskCoverage
from nobrainer.quality import Case
from nobrainer.structures import Structure


def structure(name: str, volume_mm3: float, half_mm3: float) -> Structure:
    low, high = volume_mm3 - half_mm3, volume_mm3 + half_mm3
    return Structure(
        name,
        volume_mm3,
        1,
        low,
        high,
        np.nan,
        np.nan,
        0.1,
        0.9,
        0.8,
        0.1,
        0.1,
        0.8,
        1,
        1,
    )


def test_structures_are_drawn_in_ml_with_intervals() -> None:
    rows = [structure("a", 2000, 500), structure("none", 0, 0), structure("b", 3000, 1)]
    axis = draw_structures(rows, {"a": 2400}).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    (lines,) = axis.collections
    np.testing.assert_allclose(
        lines.get_segments(), [[(1.5, 0), (2.5, 0)], [(2.999, 1), (3.001, 1)]]
    )
    mean, true = axis.lines
    np.testing.assert_array_equal(mean.get_xdata(), [2, 3])
    np.testing.assert_array_equal(true.get_xdata(), [2.4, np.nan])
    assert axis.get_xscale() == "linear" and axis.get_xlim()[0] == 0
    rows.append(structure("large", 500_000, 1000))
    assert draw_structures(rows).axes[0].get_xscale() == "log"


def test_metrics_have_a_dot_for_each_subject() -> None:
    axis = draw_metric({"a": [0.5, 0.9, 0.7], "b": [0.2]}, "Dice").axes[0]
    assert axis.get_xlabel() == "Dice"
    dots, mean, *_ = axis.lines
    assert list(dots.get_xdata()) == [0.5, 0.9, 0.7]
    np.testing.assert_allclose(mean.get_xdata(), 0.7)
    np.testing.assert_allclose(
        axis.collections[0].get_segments(), [[(0.5, 0), (0.9, 0)]]
    )


def test_metrics_of_many_subjects_have_quartiles_and_no_dots() -> None:
    axis = draw_metric({"a": np.arange(101.0).tolist()}, "Dice").axes[0]
    whole, half = (lines.get_segments()[0] for lines in axis.collections)
    np.testing.assert_allclose(whole[:, 0], [0, 100])
    np.testing.assert_allclose(half[:, 0], [25, 75])
    (mean,) = axis.lines
    np.testing.assert_allclose(mean.get_xdata(), 50)


def test_reliability_shows_the_straight_line_and_counts() -> None:
    one = Reliability((0.5, 0.9), (0.4, 0.95), (10, 1000))
    figure = draw_reliability({"whole scan": one, "near": one})
    upper, lower = figure.axes
    straight, *curves = upper.lines
    assert list(straight.get_xdata()) == list(straight.get_ydata()) == [0, 1]
    assert [list(curve.get_ydata()) for curve in curves] == 2 * [[0.4, 0.95]]
    assert [list(curve.get_ydata()) for curve in lower.lines] == 2 * [[10, 1000]]
    assert lower.get_yscale() == "log"
    assert len({curve.get_linestyle() for curve in curves}) == 2


def test_risk_is_drawn_against_coverage() -> None:
    curve = RiskCoverage((0.5, 1.0), (0.01, 0.1))
    axis = draw_risk_coverage({"entropy": curve}).axes[0]
    assert list(axis.lines[0].get_xdata()) == [0.5, 1.0]
    assert list(axis.lines[0].get_ydata()) == [0.01, 0.1]


def test_flagged_cases_are_crosses_and_have_names() -> None:
    cases = [
        Case("good", 0.9, np.nan, {"volume_z": 0.0, "entropy": 0.1}, ()),
        Case("bad", 0.2, np.nan, {"volume_z": 0.0, "entropy": 0.4}, ("odd",)),
    ]
    (axis,) = draw_quality(cases).axes  # no cohort: no panel for volumes
    dots, crosses = axis.collections
    np.testing.assert_array_equal(dots.get_offsets(), [(0.1, 0.9)])
    np.testing.assert_array_equal(crosses.get_offsets(), [(0.4, 0.2)])
    assert [text.get_text() for text in axis.texts] == ["bad"]
    assert max(map(len, axis.get_ylabel().splitlines())) <= 34
    cases[0].features["volume_z"] = 2.0  # type: ignore[index]
    left, _ = draw_quality(cases, {"bad": "bad.html"}).axes
    assert [one.get_urls() for one in left.collections] == [[None], ["bad.html"]]
