"""The Dice of whole validation volumes, measured after each epoch.

Scans and images that are made from label maps are measured apart. Scans decide where
there are any: a model is for scans, and its score on images like those of its training
says less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nobrainer.data.labels import LabelTable
from nobrainer.data.stored import Ready
from nobrainer.errors import InputError
from nobrainer.inference.predict import Sampling, TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.metrics.overlap import confusion, dice
from nobrainer.training.engine import prediction_bytes


@dataclass(frozen=True, eq=False)
class Validation:
    """Measures a network on prepared scans with labels.

    volumes: the prepared scans.
    labels: names of the classes.
    device: device that the network runs on.

    Raises:
        InputError: no scan has a voxel of a class but background.
    """

    volumes: Sequence[Ready]
    labels: LabelTable
    device: torch.device

    def __post_init__(self) -> None:
        n_classes = len(self.labels.names)
        for is_map in (False, True):
            kind = [one for one in self.volumes if (one.head is not None) == is_map]
            if kind and not any(one.count_voxels(n_classes)[1:].any() for one in kind):
                raise InputError(
                    "dataset_validate has no voxel of a class but background in its "
                    + ("label maps" if is_map else "scans")
                )

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Measure the Dice of the posterior mean, averaged over scans.

        Returns:
            "validation_dice_NAME" of each class but background that a scan has, and
            "validation_dice", the mean of those. Where there are label maps beside
            scans, the same of their images by the names "synthetic_validation_dice".
        """
        of_scans: list[np.ndarray] = []
        of_maps: list[np.ndarray] = []
        for volume in self.volumes:
            rows = of_scans if volume.head is None else of_maps
            rows.append(self._dice(model, volume))
        if not of_scans:
            return self._means("validation_dice", of_maps)
        figures = self._means("validation_dice", of_scans)
        if of_maps:
            figures |= self._means("synthetic_validation_dice", of_maps)
        return figures

    def of_folds(self, models: Sequence[nn.Module]) -> dict[str, float]:
        """Measure every scan with a network of its own, which has not seen it.

        Args:
            models: the network of each scan.

        Returns:
            The same means as of one network, under names that begin with
            "out_of_fold_dice".
        """
        pairs = zip(models, self.volumes, strict=True)
        return self._means("out_of_fold_dice", [self._dice(*pair) for pair in pairs])

    def _dice(self, model: nn.Module, volume: Ready) -> np.ndarray:
        """Dice of each class but background of a scan, with the posterior mean."""
        memory = prediction_bytes(self.device)
        mean_weights = Sampling(seed=0, n_draws=0, memory_bytes=memory)
        n_classes = len(self.labels.names)
        return _dice_of(Predictor(model, n_classes, mean_weights, self.device), volume)[
            1:
        ]

    def _means(self, title: str, scores: Sequence[np.ndarray]) -> dict[str, float]:
        """Means over volumes of the Dice of each class, and the mean of these."""
        per_class = np.ma.masked_invalid(scores).mean(axis=0).filled(np.nan)
        named = zip(self.labels.names[1:], per_class, strict=True)
        figures = {f"{title}_{name}": float(v) for name, v in named if v == v}
        return figures | {title: float(np.mean(list(figures.values())))}


def _dice_of(predictor: Predictor, volume: Ready) -> np.ndarray:
    """Dice of each class of one scan (C,); NaN where neither side has the class."""
    whole, n_classes = volume.read(), predictor.n_classes
    truth = whole.label
    assert truth is not None
    table = np.zeros((n_classes, n_classes), np.int64)

    def count(tile: TileResult) -> None:
        nonlocal table
        table += confusion(truth[tile.where], tile.label, n_classes)

    predictor(whole.image, whole.background, count)
    return dice(table)
