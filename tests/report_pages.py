"""Predictions, cases and evaluations to write reports of."""

import math

import nibabel as nib
import numpy as np

from nobrainer.data.labels import LabelTable
from nobrainer.evaluation import Evaluation, Row
from nobrainer.metrics.calibration import Reliability
from nobrainer.metrics.uncertainty import RiskCoverage
from nobrainer.posthoc import Calibration, Intervals
from nobrainer.processing.prediction import Prediction
from nobrainer.quality import Case
from nobrainer.recipe import FileRecord
from nobrainer.structures import Structure
from recipes import make_recipe

NAN = math.nan
EVIL = "<b>x & $y$ 'q' \"d\""
LABELS = LabelTable(("background", "<i>left", "right"))
RECIPE = make_recipe(
    model={"args": {"n_classes": 3, "levels": 2}},
    data={"n_classes": 3, "patches_per_volume": 4},
    training={
        "epochs": 7,
        "optimizer": "torch.optim.Adam",
        "opt_args": {"lr": 0.003},
        "schedule": "cosine",
        "seed": 41,
        "precision": "32-true",
    },
    provenance={
        "started": "2024-01-01T00:00:00+00:00",
        "ended": "2024-01-01T01:00:00+00:00",
        "versions": {"torch": "9.8.7"},
        "files": (
            FileRecord("a.nii", "train-image", "0" * 64, 1),
            FileRecord("b.nii", "train-label", "0" * 64, 1),
        ),
        "metrics": {"validation_dice": 0.7654},
    },
)
CALIBRATION = Calibration(
    "temperature", (0.5,) * 3, (0.0,) * 3, 11, 0.4321, 0.1234,
    Intervals(0.9, 13, 5, (None, 2.0, 2.0)),
)  # fmt: skip


def structure(index: int, volume_mm3: float, **others: float) -> Structure:
    known = {
        "volume_sd_mm3": 100.0,
        "volume_low_mm3": volume_mm3 - 200,
        "volume_high_mm3": volume_mm3 + 200,
        "conformal_low_mm3": volume_mm3 - 300,
        "conformal_high_mm3": volume_mm3 + 300,
        "cv": 0.0625,
        "pairwise_dice": 0.875,
        "iou": 0.75,
        "entropy": 0.125,
        "mutual_information": 0.0625,
        "expected_dice": 0.8125,
    }
    return Structure(
        class_number=index,
        value=index,
        name=LABELS.names[index],
        volume_mm3=volume_mm3,
        **(known | others),
    )


def predicted(*, name: str = "sub-01", single: bool = False) -> Prediction:
    """Two halves of a ball in a skewed, anisotropic scan."""
    i, j, k = np.ogrid[:30, :36, :24]
    ball = (i - 15) ** 2 + (j - 18) ** 2 + 2 * (k - 12) ** 2 < 90
    label = np.where(i < 15, 1, 2) * ball
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    affine[0, 1] = 0.2

    def image(data: np.ndarray) -> nib.Nifti1Image:
        return nib.Nifti1Image(data.astype(np.float32), affine)

    undefined = {"volume_sd_mm3": NAN, "volume_low_mm3": NAN, "volume_high_mm3": NAN}
    undefined |= {"conformal_low_mm3": NAN, "conformal_high_mm3": NAN, "cv": NAN}
    undefined |= {"pairwise_dice": NAN, "iou": 1.0, "mutual_information": 0.0}
    others = undefined if single else {}
    noise = np.random.default_rng(0).random(ball.shape)
    return Prediction(
        label=nib.Nifti1Image(label.astype(np.uint8), affine),
        variance=image(ball * noise * (0 if single else 0.2)),
        entropy=image(ball * noise),
        mutual_information=image(ball * noise * (0 if single else 0.1)),
        probabilities=None,
        volumes_mm3=np.ones((1 if single else 4, 3)),
        structures=(structure(1, 1234.5, **others), structure(2, 98765.4, **others)),
        seed=17,
        labels=LABELS,
        data=RECIPE.data,
        scan=image(ball + noise),
        name=name,
    )


def case(name: str, score: float, *flags: str) -> Case:
    found = {"volume_z": 10 * (1 - score), "entropy": 0.5 - score / 4}
    return Case(name, score, NAN, found, flags)


def evaluated() -> Evaluation:
    """Two subjects, of which one lacks a structure."""
    figures = [
        ("one", "volume", "<i>left", "dice", 0.5),
        ("two", "volume", "<i>left", "dice", 0.75),
        ("one", "volume", "right", "dice", 0.9),
        ("one", "volume", "<i>left", "hd95_mm", 4.0),
        ("one", "volume", "<i>left", "covered", 1.0),
        ("two", "volume", "<i>left", "covered", 0.0),
        ("one", "volume", "all", "nll", 0.0101),
        ("one", "foreground", "all", "nll", 0.2202),
        ("two", "volume", "all", "nll", 0.0303),
        ("two", "foreground", "all", "nll", 0.4404),
        ("one", "foreground", "all", "auroc_entropy", 0.8765),
    ]
    reliable = Reliability((0.4, 0.7, 0.98), (0.35, 0.6, 0.99), (10, 200, 30000))
    return Evaluation(
        tuple(Row(*figure) for figure in figures),
        {"volume": reliable, "foreground": reliable},
        {"entropy": RiskCoverage((0.5, 1.0), (0.01, 0.1))},
    )
