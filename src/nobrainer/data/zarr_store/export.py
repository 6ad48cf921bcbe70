"""From a store back to files."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

from nobrainer.data.zarr_store.arrays import Arrays
from nobrainer.data.zarr_store.table import read_finished, take_split
from nobrainer.errors import InputError
from nobrainer.io import write, write_text

FILES = "scans.csv"
"""Name of the table of the files."""


def export(
    store: Path,
    directory: Path,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the scans of a store as NIfTI files, with a table of them.

    The files hold what the store holds: the image that the network sees, as 16-bit
    integers with a scale, and the label values, both on the grid of the store, under
    the header that the scan came with.

    Args:
        store: path of the store.
        directory: folder for the files, which is made where it is missing.
        split: takes the scans of this part of the data alone; None takes all.
        progress: called after each scan with (scans done, scans in all).

    Returns:
        The path of the table, which `Dataset` and the commands read.

    Raises:
        InputError: there is no finished store, it has no scan in that split, a file of
            it is missing or damaged, or a file is there already or cannot be written.
    """
    arrays = Arrays.open(store)
    rows = take_split(store, read_finished(store), split)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be made ({error.strerror})") from error
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["features", "labels", "subject", "session", "split"])
    for number, row in enumerate(rows):
        # A name that somebody wrote into the table could lead out of the folder.
        names = [f"{Path(row.scan).name}{end}.nii.gz" for end in ("", "_dseg")]
        for image, name in zip(arrays.to_nifti(row), names, strict=True):
            write(image, directory / name)
        who = (row.subject, row.session, row.split)
        writer.writerow([*names, *(text or "" for text in who)])
        if progress is not None:
            progress(number + 1, len(rows))
    return write_text(table.getvalue(), directory / FILES)
