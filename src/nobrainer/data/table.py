"""The table of scans and labels that training reads."""

import csv
from pathlib import Path

from nobrainer.errors import InputError


def read_table(path: Path) -> list[tuple[Path, Path]]:
    """Read the columns `features` and `labels` of a CSV file.

    Relative paths in it start from the table's own directory.

    Raises:
        InputError: the file cannot be read, lacks a column, or a row lacks a path.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}): give a CSV file with the columns "
            "features,labels"
        ) from error
    pairs = []
    for number, row in enumerate(rows, 2):
        image, label = row.get("features"), row.get("labels")
        if not image or not label:
            raise InputError(
                f"{path} line {number}: needs a path in each of the columns features "
                "and labels: complete it"
            )
        pairs.append((path.parent / image, path.parent / label))
    if not pairs:
        raise InputError(f"{path}: has no rows: give one per scan, features,labels")
    return pairs
