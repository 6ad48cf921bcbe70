"""The volumes of a scan's structures in each draw, as a table beside its results.

Sessions of one person are compared by them, see `nobrainer.changes`.
"""

from pathlib import Path

import numpy as np

import nobrainer as nb
from nobrainer.bids.tables import read_tsv
from nobrainer.errors import InputError


def draws_to_tsv(prediction: "nb.Prediction") -> str:
    """The volume of each structure in each draw, mm³.

    Args:
        prediction: the prediction of the scan.

    Returns:
        A tab-separated table with a column for each part of `Prediction.draws_mm3`
        and a row for each draw, in their order.
    """
    parts = prediction.draws_mm3
    lines = ["\t".join(parts)]
    for volumes in zip(*parts.values(), strict=True):
        lines.append("\t".join(f"{volume:.8g}" for volume in volumes))
    return "\n".join(lines) + "\n"


def read_draws(path: Path) -> dict[str, np.ndarray]:
    """Read what `draws_to_tsv` wrote.

    Args:
        path: path of the table.

    Returns:
        The volume in each draw, (n_draws,), mm³, of each part by its name.

    Raises:
        InputError: it cannot be read, has no rows, or holds anything but numbers.
    """
    columns, rows = read_tsv(path)
    try:
        values = np.array([[float(row[name]) for name in columns] for row in rows])
    except ValueError as error:
        raise InputError(
            f"{path}: must hold numbers alone ({error}): remove it and do the scan "
            "again"
        ) from error
    if not rows or not np.isfinite(values).all():
        raise InputError(
            f"{path}: has no draws, or some without a volume: remove it and do the "
            "scan again"
        )
    return dict(zip(columns, values.T, strict=True))
