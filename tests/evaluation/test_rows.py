"""Means of the rows of an evaluation, worked out by hand."""

import pytest

from nobrainer.evaluation import Evaluation, Row, summarise


def test_summary_is_the_mean_over_subjects_then_structures() -> None:
    rows = [
        Row("a", "volume", "grey", "dice", 0.8),
        Row("b", "volume", "grey", "dice", 0.6),
        Row("a", "volume", "white", "dice", 0.9),
        Row("a", "volume", "all", "ece", 0.1),
        Row("b", "volume", "all", "ece", 0.3),
        Row("a", "foreground", "all", "ece", 0.5),
    ]
    expected = {
        "dice": 0.8,
        "dice/grey": 0.7,
        "dice/white": 0.9,
        "ece": 0.2,
        "ece/foreground": 0.5,
    }
    assert summarise(rows) == pytest.approx(expected)
    assert summarise([]) == {}


def test_summary_of_structures_and_of_regions_follow_one_rule() -> None:
    rows = [
        Row("a", "volume", "volume", "hd95_mm", 2.0),
        Row("b", "volume", "volume", "hd95_mm", 4.0),
        Row("b", "volume", "white", "hd95_mm", 1.0),
        Row("a", "volume", "all", "auroc_entropy", 0.7),
        Row("b", "foreground", "all", "auroc_entropy", 0.6),
    ]
    expected = {
        "hd95_mm": 2.0,
        "hd95_mm/volume": 3.0,
        "hd95_mm/white": 1.0,
        "auroc_entropy": 0.7,
        "auroc_entropy/foreground": 0.6,
    }
    assert summarise(rows) == pytest.approx(expected)


def test_volume_errors_are_summed_up_by_the_median_of_their_absolute_values() -> None:
    errors = {"white": -0.3, "grey": 0.1, "fluid": 314.2}
    rows = [Row("a", "volume", name, "volume_error", e) for name, e in errors.items()]
    found = summarise(rows)
    assert found["volume_error"] == pytest.approx(0.3)
    assert found["volume_error/white"] == pytest.approx(-0.3)
    # Nor do errors of one structure cancel each other over scans.
    rows += [Row("b", "volume", name, "volume_error", -e) for name, e in errors.items()]
    found = summarise(rows)
    assert found["volume_error"] == pytest.approx(0.3)
    assert found["volume_error/white"] == pytest.approx(0)


def test_one_scan_is_one_scan() -> None:
    rows = (Row("a", "volume", "grey", "dice", 0.8),)
    assert repr(Evaluation(rows, {}, {})) == "Evaluation(1 scan, 1 figure)"


def test_cases_are_ordered_by_the_disagreement_of_draws() -> None:
    # Mean disagreement .1, .3, .2 and mean error .2, .1, .4.
    agreement = {"a": (0.8, 1.0), "b": (0.6, 0.8), "c": (0.8, 0.8)}
    overlap = {"a": (0.9, 0.7), "b": (0.9, 0.9), "c": (0.4, 0.8)}
    rows = [
        Row(subject, "volume", structure, metric, value)
        for metric, table in (("pairwise_dice", agreement), ("dice", overlap))
        for subject, values in table.items()
        for structure, value in zip(("grey", "white"), values, strict=True)
    ]
    summary = summarise(rows)
    area = (0.2 + 0.6 / 2 + 0.7 / 3) / 3
    best = (0.1 + 0.3 / 2 + 0.7 / 3) / 3
    assert summary["aurc_cases"] == pytest.approx(area)
    assert summary["e_aurc_cases"] == pytest.approx(area - best)
    one = summarise([row for row in rows if row.subject == "a"])
    assert "aurc_cases" not in one and "e_aurc_cases" not in one
