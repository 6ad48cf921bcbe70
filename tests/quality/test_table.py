"""The table of the cases of a run."""

import csv

from nobrainer.quality import Case, sidecar, to_tsv
from quality_cases import NAN


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
