"""What `nobrainer train --folds` does when the members are trained."""

from math import ceil
from pathlib import Path

import nobrainer as nb
from nobrainer.cli.outputs import echo
from nobrainer.posthoc import DEFAULT_DRAWS

COVERAGES = ((0.9, 9), (0.8, 4))
"""Shares of true volumes that intervals shall hold, and the subjects that each needs;
the first that there are enough subjects for is taken."""
FEWEST_FOR_QUALITY = 3


def is_judged(directory: Path) -> bool:
    """Whether the model that is saved in a directory was calibrated out of fold."""
    return nb.Segmentation.load(directory).calibration_ is not None


def judge_out_of_fold(
    segmentation: "nb.Segmentation", dataset: "nb.Dataset", seed: int, *, is_store: bool
) -> None:
    """Fit temperature, intervals and quality, as far as there are subjects for them.

    Args:
        segmentation: the ensemble, trained with folds.
        dataset: the scans that it was trained on.
        seed: seed of the draws.
        is_store: whether they lie in a store: such scans are prepared already and
            cannot be degraded, from which quality is learned.
    """
    n_subjects = len({*dataset.subjects})
    n_members = len(segmentation.recipe_.provenance.folds)
    # Without draws of their own there are no more draws than members.
    can_draw = segmentation.n_draws(n_members + 1) > n_members
    enough = [share for share, fewest in COVERAGES if can_draw and n_subjects >= fewest]
    coverage = enough[0] if enough else None
    # Every member gives as many of the draws.
    n_samples = segmentation.n_draws(n_members * ceil(DEFAULT_DRAWS / n_members))
    segmentation.calibrate(
        dataset, coverage=coverage, n_samples=n_samples, seed=seed, out_of_fold=True
    )
    if n_subjects >= FEWEST_FOR_QUALITY and not is_store:
        segmentation.fit_quality(dataset, n_samples, seed, out_of_fold=True)
    few = f"{n_subjects} subjects"
    _tell(
        segmentation,
        no_intervals=few if can_draw else "no draws",
        no_quality="a store; give the files to calibrate" if is_store else few,
    )


def _tell(
    segmentation: "nb.Segmentation", *, no_intervals: str, no_quality: str
) -> None:
    """Say on standard error what was found, and why anything is missing."""
    made, fit = segmentation.recipe_.provenance, segmentation.calibration_
    assert fit is not None
    lines = [
        f"Dice {made.metrics['out_of_fold_dice']:.3f} on {fit.counted}, temperature "
        f"{1 / fit.weight[0]:.3f}"
    ]
    if fit.intervals is None:
        lines.append(f"no intervals of volumes: {no_intervals}")
    else:
        lines.append(f"intervals of volumes for {100 * fit.intervals.coverage:g} %")
    if segmentation.quality_ is None:
        lines.append(f"no quality model: {no_quality}")
    else:
        lines.append(f"quality: error of the Dice {segmentation.quality_.error:.3f}")
    for line in lines:
        echo(f"nobrainer: {line}", err=True)
