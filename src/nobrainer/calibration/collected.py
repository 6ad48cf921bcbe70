"""What calibration keeps of held-out scans: logits at a few voxels, and volumes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from nobrainer.bayes.draws import mix_seed
from nobrainer.data.prepared import Prepared
from nobrainer.errors import InputError
from nobrainer.inference.predictor import Predictor
from nobrainer.metrics.region import foreground_band

VOXELS_PER_SUBJECT = 20_000
"""Most voxels near the foreground that a scan gives to the fit of a scaling."""


@dataclass(frozen=True, eq=False)
class Collected:
    """What calibration keeps of one subject.

    logits: (n_draws, n_voxels, C) float32, unscaled, at random voxels of the true
        foreground's band (see `nobrainer.metrics.region`).
    truth: (n_voxels,) true classes there.
    volumes_mm3: (n_draws, C) of each draw's classes.
    true_mm3: (C,) of the true classes.
    """

    name: str
    logits: np.ndarray
    truth: np.ndarray
    volumes_mm3: np.ndarray
    true_mm3: np.ndarray


def collect(
    predictors: Iterable[Predictor],
    volumes: Iterable[Prepared],
    *,
    voxels_per_subject: int = VOXELS_PER_SUBJECT,
) -> list[Collected]:
    """Predict labelled volumes, keeping logits at a few voxels, and volumes.

    The seed and the name of a scan decide its draws and its voxels. Every scan has
    draws of its own, because a draw moves the volumes of all scans in the same
    direction: with shared draws the scans would not be independent. One scan is held
    in memory at a time.

    Args:
        predictors: the network of each volume, and how it is applied; its scaling
            changes the volumes' sizes, not the logits.
        volumes: prepared subjects with labels.
        voxels_per_subject: most voxels of a scan whose logits are kept; 0 keeps
            volumes only.

    Returns:
        One record per subject, in order.

    Raises:
        InputError: a volume has no labels, or no foreground in them.
    """
    found = []
    for predictor, volume in zip(predictors, volumes, strict=True):
        sampling, n_classes = predictor.sampling, predictor.n_classes
        truth = _foreground_of(volume)
        rng = np.random.default_rng(mix_seed(sampling.seed, "calibration", volume.name))
        band = np.flatnonzero(foreground_band(truth))
        chosen = rng.choice(band, min(voxels_per_subject, len(band)), replace=False)
        at = np.stack(np.unravel_index(chosen, truth.shape))
        logits = np.empty((predictor.n_passes, len(chosen), n_classes), np.float32)

        def keep(
            draw: int,
            where: tuple[slice, slice, slice],
            tile: Tensor,
            at: np.ndarray = at,
            logits: np.ndarray = logits,
        ) -> None:
            start = np.array([[edge.start] for edge in where])
            stop = np.array([[edge.stop] for edge in where])
            inside = ((at >= start) & (at < stop)).all(0)
            i, j, k = at[:, inside] - start
            logits[draw, inside] = tile[:, i, j, k].T.cpu().numpy()

        own_seed = mix_seed(sampling.seed, "scan", volume.name)
        counts = replace(predictor, sampling=replace(sampling, seed=own_seed))(
            volume.image,
            volume.background,
            lambda tile: None,
            on_logits=keep if voxels_per_subject else None,
        )
        voxel_mm3 = volume.geometry.voxel_mm3
        found.append(
            Collected(
                volume.name,
                logits,
                truth.ravel()[chosen].astype(np.int64),
                counts * voxel_mm3,
                np.bincount(truth.ravel(), minlength=n_classes) * voxel_mm3,
            )
        )
    return found


def _foreground_of(volume: Prepared) -> np.ndarray:
    """The subject's labels, which must show something."""
    if volume.label is None:
        raise InputError(
            f"{volume.name}: has no labels: give (image, label) pairs to calibrate on"
        )
    if not volume.label.any():
        raise InputError(
            f"{volume.name}: its labels hold no foreground: leave it out, or check "
            "what becomes background"
        )
    return volume.label
