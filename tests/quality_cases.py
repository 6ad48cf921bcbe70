"""Structures, cohorts and scans with figures that are easy to follow by hand."""

import math
from dataclasses import replace

from nobrainer.appearance import Appearance
from nobrainer.posthoc import QualityModel
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
        "expected_dice": 0.85 if volume_mm3 else NAN,
        **figures,
    }
    return Structure(
        class_number=index,
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


ONE = structure(1, 1000.0, pairwise_dice=0.9, cv=0.1, entropy=0.1, expected_dice=0.8)
TWO = structure(2, 500.0, pairwise_dice=0.6, cv=3.0, entropy=0.4, expected_dice=0.7)
NONE = structure(3, 0.0)
SINGLE = {
    "volume_sd_mm3": NAN,
    "cv": NAN,
    "pairwise_dice": NAN,
    "mutual_information": 0.0,
}
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
TRAINING = TrainingAppearance(
    n_scans=4,
    names=("sharpness/R", "intensity/level", "intensity/scale", "contrast/around"),
    mean=(0.0, 0.0, 0.0, -1.0),
    sd=(0.5, 1.0, 1.0, 0.1),
    limit=3.0,
    cut=(0.0, 0.0, 0.1, 0.0, 0.3, 0.0),
    islands=0.02,
    pieces=(0.0, 0.001),
)
SEEN = replace(COHORT, appearance=TRAINING)
WHOLE = [structure(1, 1000.0), structure(2, 100.0), NONE]


def look(level=0.0, cut=(0.0,) * 6, islands=0.0, around=-1.0):
    found = {"intensity/level": level, "intensity/scale": 0.0, "sharpness/R": 0.0}
    return Appearance(found | {"contrast/around": around}, cut, islands)
