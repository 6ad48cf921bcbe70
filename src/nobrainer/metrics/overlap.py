"""Overlap and volumes of label maps, from voxel counts that add up over tiles."""

import numpy as np


def confusion(truth: np.ndarray, label: np.ndarray, n_classes: int) -> np.ndarray:
    """Count voxels by true and predicted class.

    Args:
        truth: true classes, integers in [0, n_classes), any shape.
        label: predicted classes, same shape.
        n_classes: number of classes C.

    Returns:
        (C, C) int64, rows truth, columns prediction; the confusions of disjoint
        tiles add up to that of the whole.

    Raises:
        ValueError: the shapes differ or a class is outside of [0, n_classes).
    """
    if truth.shape != label.shape:
        raise ValueError(f"truth has shape {truth.shape}, label {label.shape}")
    for name, classes in (("truth", truth), ("label", label)):
        if classes.size and not 0 <= classes.min() <= classes.max() < n_classes:
            raise ValueError(f"{name} holds classes outside of [0, {n_classes})")
    pairs = truth.astype(np.int64).ravel() * n_classes + label.ravel()
    counts = np.bincount(pairs, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def dice(confusion: np.ndarray) -> np.ndarray:
    """Dice coefficient 2 |A ∩ B| / (|A| + |B|) of each class (Dice 1945).

    Args:
        confusion: (C, C) voxel counts, rows truth, as `confusion` returns.

    Returns:
        (C,) in [0, 1]; NaN for a class absent in both truth and prediction.
    """
    sizes = confusion.sum(0) + confusion.sum(1)
    both = 2 * np.diagonal(confusion)
    return np.divide(both, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)


def volume_errors(
    volume_mm3: np.ndarray, true_mm3: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Relative and absolute errors of volumes.

    Args:
        volume_mm3: (C,) predicted volume of each class, mm³.
        true_mm3: (C,) true volume of each class, mm³.

    Returns:
        (C,) relative error (predicted - true) / true, signed, NaN for a class that
        the truth does not have; and (C,) absolute error |predicted - true|, mm³, NaN
        for a class absent in both.
    """
    difference = np.asarray(volume_mm3, np.float64) - true_mm3
    unknown = np.full(len(difference), np.nan)
    relative = np.divide(difference, true_mm3, out=unknown, where=true_mm3 > 0)
    either = (volume_mm3 > 0) | (true_mm3 > 0)
    return relative, np.where(either, np.abs(difference), np.nan)
