"""Cases as a table, and what its columns mean."""

import csv
import io
import math
from collections.abc import Sequence

from nobrainer.quality.case import Case
from nobrainer.quality.feature import FEATURES


def to_tsv(cases: Sequence[Case]) -> str:
    """Write cases as a tab-separated table, in the order given.

    Args:
        cases: the cases; they need not have the same features.

    Returns:
        A row per case with the columns `subject`, `flagged` (true or false), `score`,
        `score_is` (see `Case.meaning`), `predicted_dice`, the features that any case
        has, and `reasons`, separated by semicolons; "n/a" for what is not there.
    """
    names = [name for name in FEATURES if any(name in case.features for case in cases)]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(
        [
            *("subject", "flagged", "score", "score_is", "predicted_dice"),
            *(*names, "reasons"),
        ]
    )
    for case in cases:
        numbers = [case.predicted_dice]
        numbers += [case.features.get(name, math.nan) for name in names]
        writer.writerow(
            [
                case.name,
                "true" if case.flags else "false",
                f"{case.score:.6g}",
                case.meaning,
                *("n/a" if math.isnan(value) else f"{value:.6g}" for value in numbers),
                "; ".join(case.flags) or "n/a",
            ]
        )
    return text.getvalue()


def sidecar() -> dict[str, dict[str, str]]:
    """Describe the columns of `to_tsv` as BIDS JSON: Description and Units of each."""
    columns = {
        "subject": ("The scan.", "n/a"),
        "flagged": ("Whether there are reasons to look at the segmentation.", "n/a"),
        "score": (
            "From 0 to 1: the predicted Dice where the model was fitted for it; else "
            "the mean pairwise Dice of the draws, which says how far these agree and "
            "not how right they are; else (one draw) 1 minus the mean entropy in the "
            "foreground over its maximum.",
            "1",
        ),
        "score_is": ("What the score is.", "n/a"),
        "predicted_dice": ("Mean Dice against a reference, as predicted.", "1"),
    }
    reasons = ("Why the segmentation should be looked at.", "n/a")
    return {
        **{column: _column(*about) for column, about in columns.items()},
        **{name: one.metric.describe_column() for name, one in FEATURES.items()},
        "reasons": _column(*reasons),
    }


def _column(description: str, unit: str) -> dict[str, str]:
    return {"Description": description, "Units": unit}
