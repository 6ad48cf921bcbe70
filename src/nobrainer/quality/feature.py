"""The features of a segmentation: figures that go with its quality."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nobrainer.appearance import Appearance, distances
from nobrainer.glossary import OF_SCANS, Metric
from nobrainer.recipe import Cohort, TrainingAppearance
from nobrainer.structures import Structure, is_single_draw, mean_by_volume

MAX_VOLUME_Z = 20.0
"""Largest deviation of a volume, in standard deviations; larger ones count as this."""
OF_DRAWS = ("pairwise_dice", "pairwise_dice_min", "mutual_information", "cv")
"""Names of the features that only a prediction with two draws or more has."""

_LOG_SD_FLOOR = 0.05
"""Least standard deviation of the log volumes of a cohort: that of a few subjects can
be small by chance."""


@dataclass(frozen=True)
class Feature:
    """How a figure of one segmentation is judged.

    metric: its entry in the glossary.
    slack: the least distance from ordinary scans that is worth a look. The scans of one
        study can be so much alike that any other scan is many of their standard
        deviations away.
    transform: puts the figure on a scale on which equal steps mean about the same; the
        quality model and the search for outliers use it.
    """

    metric: Metric
    slack: float
    transform: Callable[[float], float]

    @property
    def worse(self) -> int:
        """1 where larger values are worse, -1 where smaller ones are."""
        return -self.metric.sign


def _arcsine(share: float) -> float:
    return math.asin(math.sqrt(min(max(share, 0.0), 1.0)))


def _root(value: float) -> float:
    # Rounding can put an entropy of 0 just below it.
    return math.sqrt(max(value, 0.0))


FEATURES = {
    name: Feature(OF_SCANS[name], slack, transform)
    for name, slack, transform in (
        ("pairwise_dice", 0.05, _arcsine),
        ("pairwise_dice_min", 0.1, _arcsine),
        ("expected_dice", 0.05, _arcsine),
        ("entropy", 0.05, _root),
        ("mutual_information", 0.02, _root),
        ("cv", 0.05, _root),
        ("volume_z", 1.0, math.log1p),
        ("absent", 0.0, math.log1p),
        ("input_distance", 1.0, math.log1p),
        ("cut", 0.2, _arcsine),
        ("islands", 0.05, _arcsine),
    )
}
"""How each figure that `features` computes is judged, by its name."""


def features(
    structures: Sequence[Structure],
    cohort: Cohort | None,
    scan: Appearance | None = None,
) -> dict[str, float]:
    """Compute the features of one segmentation; all of them are finite.

    Args:
        structures: the structures of one scan, see `nobrainer.structures`.
        cohort: volumes of the classes in the training scans, and what these scans look
            like. Without a cohort `volume_z` and `absent` are 0; without its
            `appearance` so are `cut` and `input_distance`.
        scan: what the scan looks like; without it `cut`, `input_distance` and `islands`
            are 0.

    Returns:
        The value of each entry of `FEATURES`. A prediction with one draw lacks the
        features of draws. Where nothing was segmented the features of structures have
        their worst values: a Dice of 0, ln C nats, a coefficient of variation of 1 and
        a `volume_z` of 20 (0 without a cohort).

    Sources: Roy et al., NeuroImage 195 (2019) 11, for the agreement of draws and the
    coefficient of variation; Valindria et al., IEEE TMI 36 (2017) 1597, for the
    accuracy of single cases without a reference.
    """
    present = [one for one in structures if one.volume_mm3 > 0]
    # A structure that only single draws have is not in the label map.
    expected = [np.nan_to_num(one.expected_dice) for one in present]
    found = {
        "expected_dice": float(np.mean(expected)) if present else 0.0,
        "entropy": mean_by_volume(structures, "entropy"),
        "volume_z": 0.0,
        "absent": 0.0,
        "input_distance": 0.0,
        "cut": 0.0,
        "islands": 0.0 if scan is None else scan.islands,
    }
    training = appearance_of(cohort)
    if scan is not None and training is not None:
        found["input_distance"] = max(distances(scan, training).values())
        found["cut"] = max(*cut_beyond(scan, training), 0.0)
    if cohort is not None:
        gaps = [abs(z) for z in deviations(structures, cohort).values()]
        n_missing = len(missing(structures, cohort))
        # Where none of the cohort's structures is there, no distance can be measured.
        farthest = max(gaps, default=MAX_VOLUME_Z if n_missing else 0.0)
        found["volume_z"] = min(farthest, MAX_VOLUME_Z)
        found["absent"] = float(n_missing)
    if not is_single_draw(structures):
        found["mutual_information"] = mean_by_volume(structures, "mutual_information")
        found |= _agreement(present)
    return {name: found[name] for name in FEATURES if name in found}


def _agreement(present: Sequence[Structure]) -> dict[str, float]:
    """The features that say how far the draws agree on the structures they have."""
    overlaps = [one.pairwise_dice for one in present]
    variations = [min(one.cv, 1.0) for one in present]
    return {
        "pairwise_dice": float(np.mean(overlaps)) if present else 0.0,
        "pairwise_dice_min": min(overlaps, default=0.0),
        "cv": float(np.mean(variations)) if present else 1.0,
    }


def deviations(structures: Sequence[Structure], cohort: Cohort) -> dict[str, float]:
    """Compare the volumes of a scan with those of the training scans.

    Args:
        structures: the structures of one scan.
        cohort: volumes of the same classes in the training scans.

    Returns:
        For each structure that both have, by name: its ln volume minus the cohort's
        mean ln volume, in standard deviations of the cohort. The standard deviation
        counts as 0.05 (5 % of the volume) where it is smaller.
    """
    found = {}
    for one in structures:
        mean, sd = cohort.log_mean[one.class_number], cohort.log_sd[one.class_number]
        if one.volume_mm3 > 0 and mean is not None and sd is not None:
            gap = math.log(one.volume_mm3) - mean
            found[one.name] = gap / max(sd, _LOG_SD_FLOOR)
    return found


def missing(structures: Sequence[Structure], cohort: Cohort) -> list[str]:
    """Names of the structures that the training scans have and this scan lacks.

    Args:
        structures: the structures of one scan.
        cohort: volumes of the same classes in the training scans.
    """
    return [
        one.name
        for one in structures
        if one.volume_mm3 == 0 and cohort.log_mean[one.class_number] is not None
    ]


def appearance_of(cohort: Cohort | None) -> TrainingAppearance | None:
    """What the training scans look like, as far as that is known."""
    return None if cohort is None else cohort.appearance


def cut_beyond(scan: Appearance, training: TrainingAppearance) -> list[float]:
    """How much more of the foreground is cut than in the training scans.

    Args:
        scan: what the scan looks like.
        training: what the training scans look like.

    Returns:
        For each of `nobrainer.appearance.FACES`, the share of the scan minus the
        largest share of the training scans; negative where that is larger.
    """
    return [own - usual for own, usual in zip(scan.cut, training.cut, strict=True)]
