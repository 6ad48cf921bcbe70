"""The glossary says of each figure what those who read it need."""

from dataclasses import fields

import pytest

from nobrainer.appearance import MAX_DISTANCE
from nobrainer.changes import Change
from nobrainer.glossary import (
    OF_CHANGES,
    OF_DRAWS,
    OF_REGIONS,
    OF_RUNS,
    OF_SCANS,
    OF_STRUCTURES,
    SCORES,
    Metric,
)
from nobrainer.quality import FEATURES, MAX_VOLUME_Z
from nobrainer.research.judge import OBJECTIVES


def test_titles_and_headings_carry_the_unit() -> None:
    nll = OF_REGIONS["nll"]
    assert (nll.title, nll.heading) == ("negative log-likelihood (nats)", "NLL (nats)")
    assert nll.brief == "NLL"
    assert OF_STRUCTURES["hd95_mm"].heading == "HD95 (mm)"
    assert OF_STRUCTURES["dice"].title == OF_STRUCTURES["dice"].heading == "Dice"


def test_columns_are_described_with_the_units_of_bids() -> None:
    shared = {**OF_STRUCTURES, **OF_DRAWS}
    units = {name: one.describe_column()["Units"] for name, one in shared.items()}
    assert (units["volume_mm3"], units["entropy"], units["iou"]) == ("mm^3", "nat", "1")
    assert units["hd95_mm"] == "mm"
    for name in ("iou", "dice"):
        metric = shared[name]
        words = metric.describe_column()["Description"]
        assert words == (metric.definition if name == "iou" else metric.meaning)


@pytest.mark.parametrize("score", SCORES)
def test_figures_of_scores_name_the_score(score: str) -> None:
    words = score.replace("_", " ")
    for kind in ("auroc", "aupr", "aurc", "e_aurc"):
        assert OF_REGIONS[f"{kind}_{score}"].name.endswith(f" of {words}")
    assert OF_REGIONS[f"auroc_{score}"].line == f"errors found by {words}, AUROC"
    assert not any("{" in one.meaning for one in OF_REGIONS.values())


def test_the_quality_of_a_scan_is_judged_by_every_figure_of_a_scan() -> None:
    assert set(FEATURES) == set(OF_SCANS)
    for name, most in (("volume_z", MAX_VOLUME_Z), ("input_distance", MAX_DISTANCE)):
        assert OF_SCANS[name].bounds == f"0 to {most:g}"
        assert OF_SCANS[name].definition.endswith(f", at most {most:g}.")
    worse = {name: FEATURES[name].worse for name in ("pairwise_dice", "entropy")}
    assert worse == {"pairwise_dice": -1, "entropy": 1}


def test_every_figure_of_a_change_is_described() -> None:
    assert OF_CHANGES.keys() == {one.name for one in fields(Change)} - {"name"}
    units = {name: one.describe_column()["Units"] for name, one in OF_CHANGES.items()}
    assert units["mm3_per_year_low"] == units["mm3_per_year"] == "mm^3/year"
    assert units["percent_high"] == "%" and units["change_high_mm3"] == "mm^3"
    assert OF_CHANGES["percent_low"].definition.startswith("Lower end of the 95 %")


def test_figures_of_runs_are_figures_of_evaluations() -> None:
    for metric in OF_RUNS.values():
        name, _, region = metric.source.partition("/")
        found = OF_REGIONS[name] if region else OF_STRUCTURES[name]
        assert (metric.meaning, metric.better) == (found.meaning, found.better)
    assert set(OBJECTIVES) <= set(OF_RUNS)


def test_a_gain_is_positive_where_the_figure_is_better() -> None:
    signs = [OF_RUNS[name].sign for name in OBJECTIVES]
    assert OBJECTIVES == ("dice", "nll", "aurc") and signs == [1, -1, -1]
    directions = [OF_RUNS[name].direction for name in OBJECTIVES]
    assert directions == ["maximize", "minimize", "minimize"]
    assert Metric("x", better="lower").sign == -1
