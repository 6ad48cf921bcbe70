"""Whether the files of a store are still those that were written."""

from collections.abc import Callable
from pathlib import Path

from nobrainer.data.zarr_store.arrays import Arrays
from nobrainer.data.zarr_store.table import DAMAGED, MISSING, ScanRow, read_finished
from nobrainer.errors import InputError, list_problems
from nobrainer.provenance import checksum


def verify(store: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Hold every file of the scans in a store against the checksums of its table.

    Args:
        store: path of the store.
        progress: called after each scan with (scans done, scans in all).

    Returns:
        The number of files.

    Raises:
        InputError: there is no finished store, or files of it are missing or are not
            what was written, a line for each with the scan and whom it shows.
    """
    Arrays.open(store)
    rows = read_finished(store)
    old = [row.scan for row in rows if not row.checksums]
    if old:
        raise InputError(
            f"{store}: has no checksums of {len(old)} of its {len(rows)} scans, such "
            f"as {old[0]}, which an earlier nobrainer wrote: convert the scans into "
            "another store"
        )
    problems = []
    for number, row in enumerate(rows):
        problems += _find_problems(store, row)
        if progress is not None:
            progress(number + 1, len(rows))
    if problems:
        raise InputError(list_problems(problems))
    return sum(len(row.checksums) for row in rows)


def _find_problems(store: Path, row: ScanRow) -> list[tuple[str, str]]:
    """The files of a scan that are not as they were written, and what is wrong."""
    of_scan = f"of scan {row.scan}, subject {row.subject or 'n/a'},"
    problems = []
    for name, expected in row.checksums.items():
        file = store / name
        if not file.is_file():
            problems.append((str(file), f"{of_scan} {MISSING}"))
        elif checksum(file) != expected:
            problems.append((str(file), f"{of_scan} {DAMAGED}"))
    return problems
