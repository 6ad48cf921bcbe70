"""How good predictions are on labelled volumes, as tidy rows."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import maximum_filter
from torch import nn

from nobrainer.data.labels import LabelTable
from nobrainer.data.patches import Prepared
from nobrainer.errors import InputError
from nobrainer.inference.predict import Sampling, TileResult, predict_volume
from nobrainer.metrics.calibration import CalibrationSums
from nobrainer.metrics.overlap import confusion, dice

FOREGROUND_MARGIN = 5
"""Voxels by which the region "foreground" reaches beyond the true foreground."""


@dataclass(frozen=True)
class Row:
    """One figure of one subject.

    subject: name of the scan.
    region: "volume" (every voxel), or for calibration also "foreground": the true
        foreground widened by 5 voxels along every axis, diagonals included, so that
        easy background does not hide errors.
    structure: name of the class, or "all".
    metric: "dice", "nll" (nats), "brier" or "ece".
    value: the figure; a structure that neither truth nor prediction has, and a
        region without voxels, has no row.
    """

    subject: str
    region: str
    structure: str
    metric: str
    value: float


def evaluate(
    model: nn.Module,
    volumes: Iterable[Prepared],
    sampling: Sampling,
    *,
    n_classes: int,
    labels: LabelTable,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Row]:
    """Predict labelled volumes and compare, on the working grid.

    One volume is held at a time, and probabilities of one tile of it.

    Args:
        model: a model of the registry.
        volumes: prepared subjects with labels.
        sampling: draws and tiling.
        n_classes: classes of the model's output.
        labels: names of the classes.
        device, dtype: where and in which number format the network runs.

    Returns:
        For each subject: Dice of each structure but background, of the mode of the
        draws' labels; then negative log-likelihood, Brier score and expected
        calibration error of the draws' mean probabilities, in both regions.

    Raises:
        InputError: a volume has no labels.
    """
    rows = []
    for volume in volumes:
        comparison = _Comparison(volume, n_classes)
        predict_volume(
            model,
            volume.image,
            sampling,
            n_classes=n_classes,
            background=volume.background,
            device=device,
            dtype=dtype,
            on_tile=comparison.add,
        )
        rows += comparison.rows(labels)
    return rows


def summarise(rows: Sequence[Row]) -> dict[str, float]:
    """Means over subjects.

    Args:
        rows: what `evaluate` returns.

    Returns:
        "dice/<structure>" for each structure and "dice", their mean; "nll", "brier"
        and "ece" of whole volumes; "nll/foreground", "brier/foreground" and
        "ece/foreground".
    """
    values = defaultdict(list)
    for row in rows:
        part = row.structure if row.metric == "dice" else row.region
        whole = row.metric != "dice" and row.region == "volume"
        values[row.metric if whole else f"{row.metric}/{part}"].append(row.value)
    means = {name: float(np.mean(found)) for name, found in values.items()}
    overlaps = [mean for name, mean in means.items() if name.startswith("dice/")]
    return {"dice": float(np.mean(overlaps)), **means} if overlaps else means


class _Comparison:
    """One volume's truth against its tiles as they come."""

    def __init__(self, volume: Prepared, n_classes: int) -> None:
        if volume.label is None:
            raise InputError(
                f"{volume.name}: has no labels: give (image, label) pairs to evaluate"
            )
        self._subject = volume.name
        self._truth = volume.label
        self._near = maximum_filter(
            volume.label > 0, size=2 * FOREGROUND_MARGIN + 1, mode="constant"
        )
        self._confusion = np.zeros((n_classes, n_classes), np.int64)
        self._sums = {"volume": CalibrationSums(), "foreground": CalibrationSums()}

    def add(self, tile: TileResult) -> None:
        truth, near = self._truth[tile.where], self._near[tile.where]
        self._confusion += confusion(truth, tile.label, len(self._confusion))
        self._sums["volume"].update(tile.probabilities, truth)
        self._sums["foreground"].update(tile.probabilities, truth, near)

    def rows(self, labels: LabelTable) -> list[Row]:
        overlaps = zip(labels.names, dice(self._confusion), strict=True)
        figures = [
            ("volume", structure, "dice", value) for structure, value in overlaps
        ][1:]
        for region, sums in self._sums.items():
            figures += [
                (region, "all", "nll", sums.nll),
                (region, "all", "brier", sums.brier),
                (region, "all", "ece", sums.ece),
            ]
        return [
            Row(self._subject, region, structure, metric, float(value))
            for region, structure, metric, value in figures
            if not np.isnan(value)
        ]
