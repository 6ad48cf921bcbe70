"""What can be said of one segmentation without a reference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, get_type_hints

from nobrainer.appearance import Appearance
from nobrainer.json_records import build_record
from nobrainer.posthoc import QualityModel
from nobrainer.quality.feature import appearance_of, features
from nobrainer.quality.reasons import best_score, flags
from nobrainer.recipe import Cohort
from nobrainer.structures import Structure


@dataclass(frozen=True)
class Case:
    """What can be said of one segmentation without a reference.

    name: name of the scan.
    score: in [0, 1], larger is better. It is the predicted Dice where a model was
        fitted; else the mean pairwise Dice of the draws; else, for one draw,
        1 - entropy / ln C for C classes.
    predicted_dice: the predicted Dice; NaN without a fitted model.
    features: what `nobrainer.quality.features` returned for it.
    flags: reasons to look at it, as sentences; empty for an ordinary case.
    checked: what was compared with limits; an error elsewhere would not be seen.
    unchecked: what could not be compared, because the model has no record of it.
    """

    name: str
    score: float
    predicted_dice: float
    features: Mapping[str, float]
    flags: tuple[str, ...]
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def meaning(self) -> str:
        """What the score is, in words."""
        if math.isfinite(self.predicted_dice):
            return "predicted Dice"
        if "pairwise_dice" in self.features:
            return "agreement of the draws (not a predicted Dice)"
        return "certainty of one pass (not a predicted Dice)"

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Rebuild a case from parsed JSON, in which a figure that is NaN is null.

        Raises:
            InputError: a field is unknown, missing or of another type.
        """
        figures = {name for name, hint in get_type_hints(cls).items() if hint is float}
        defined = {
            name: math.nan if value is None and name in figures else value
            for name, value in raw.items()
        }
        return build_record(cls, defined, "case")


def assess(
    name: str,
    structures: Sequence[Structure],
    cohort: Cohort | None,
    model: QualityModel | None,
    *,
    threshold: float | None = None,
    scan: Appearance | None = None,
) -> Case:
    """Score one segmentation and find the reasons to look at it.

    Args:
        name: name of the scan.
        structures: the structures of the scan.
        cohort: volumes of the classes in the training scans, and what these scans look
            like, as far as known.
        model: the quality model, if one was fitted.
        threshold: a score below it is a reason, in [0, 1]; None takes that of
            `usual_threshold`.
        scan: what the scan looks like, if that was measured.

    Raises:
        InputError: the threshold is not in [0, 1], or the model needs features that
            this segmentation lacks.
    """
    found = features(structures, cohort, scan)
    reasons = flags(structures, cohort, model, threshold=threshold, scan=scan)
    _, score = best_score(found, model, len(structures) + 1)
    dice = math.nan if model is None else score
    case = Case(name, score, dice, found, reasons)
    has_volumes = cohort is not None and any(
        mean is not None for mean in cohort.log_mean[1:]
    )
    training = None if scan is None else appearance_of(cohort)
    has_looks = training is not None
    has_places = training is not None and bool(training.pieces)
    checks = {
        f"the {case.meaning}": True,
        "draws and entropy against held-out scans": model is not None,
        "volumes and missing structures against training subjects": has_volumes,
        "intensities, sharpness and positions against training scans": has_looks,
        "cut structures and islands against training scans": has_looks,
        "places within structures against training scans": has_places,
    }
    return replace(
        case,
        checked=tuple(what for what, is_known in checks.items() if is_known),
        unchecked=tuple(what for what, is_known in checks.items() if not is_known),
    )
