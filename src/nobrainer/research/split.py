"""The subjects of a study, parted into training, validation and test."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nobrainer.bayes.draws import mix_seed
from nobrainer.data.entries import Scan
from nobrainer.data.samples import get_data
from nobrainer.data.table import read_table
from nobrainer.data.zarr_store.table import StoredScan
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from nobrainer.research.records import Rows, Settings, Split


def list_scans(data: str | Path) -> list[tuple[str, ...]]:
    """Scan, labels and given subject of each row, by absolute paths, sorted.

    Of a scan in a store: the store, the name of the scan in it, and the subject.

    Args:
        data: path of a CSV table with the columns features,labels, or of a store.
    """
    if Path(data).is_dir():
        return sorted(_list_rows(Dataset.from_zarr(os.path.abspath(data))))
    return sorted(
        (os.path.abspath(row["image"]), os.path.abspath(row["label"]), row["subject"])
        for row in read_table(Path(data))
    )


def split_subjects(
    data: str | Path | None, settings: Settings
) -> tuple[Split, dict[str, int]]:
    """Part the subjects: a fifth each for validation and test, the rest to train.

    Args:
        data: path of a CSV table with the columns features,labels, or of a store;
            None takes `get_data()`.
        settings: say how labels are made into classes, and the seed.

    Returns: the scans of each part, and the number of subjects of each part.

    Raises:
        InputError: there are fewer than three subjects, or a file cannot be used.
    """
    rows = list_scans(get_data() if data is None else data)
    dataset = make_dataset(rows, settings)
    n_subjects = len({*dataset.subjects})
    if n_subjects < 3:
        raise InputError(
            f"a study needs 3 subjects or more, to train, validate and test on, got "
            f"{n_subjects}: add scans to the table"
        )
    share = max(1, round(n_subjects / 5))
    rest, test = dataset.split(share, seed=mix_seed(settings.seed, "test"))
    train, validate = rest.split(share, seed=mix_seed(settings.seed, "validate"))
    parts = {"train": train, "validate": validate, "test": test}
    return (
        Split(**{name: _list_rows(part) for name, part in parts.items()}),
        {name: len({*part.subjects}) for name, part in parts.items()},
    )


def make_dataset(rows: Sequence[Sequence[str]], settings: Settings) -> Dataset:
    """The scans with their labels made into classes.

    Args:
        rows: what `list_scans` gives of each scan; the subject where it is known.
        settings: say how labels are made into classes.
    """
    if rows and Path(rows[0][0]).is_dir():
        dataset = _take_stored(rows, settings.n_classes)
    else:
        names = ("image", "label", "subject")
        dataset = Dataset.from_files(
            [dict(zip(names, row, strict=False)) for row in rows],
            n_classes=settings.n_classes,
        )
    if settings.relabel is not None:
        dataset = dataset.relabel(settings.relabel)
    return dataset.binarize() if settings.binarize else dataset


def _take_stored(rows: Sequence[Sequence[str]], n_classes: int | None) -> Dataset:
    """Some scans of a store.

    Raises:
        InputError: a scan is no longer there.
    """
    store, names = rows[0][0], {row[1] for row in rows}
    whole = Dataset.from_zarr(store, n_classes=n_classes)
    taken = tuple(scan for scan in whole.data if scan.shown in names)
    if gone := names - {scan.shown for scan in taken}:
        raise InputError(
            f"{store}: no longer has the scan {min(gone)}, with which the study was "
            "begun: convert it into the store again"
        )
    return replace(whole, data=taken)


def _list_rows(dataset: Dataset) -> Rows:
    """What names each scan, and whom it shows, as far as that is known."""
    return tuple((*_name(scan), scan.subject or "") for scan in dataset.data)


def _name(scan: Scan) -> tuple[str, ...]:
    """The paths of a scan and its labels; the store and its name there."""
    if isinstance(scan.image, StoredScan):
        return str(scan.image.store), scan.shown
    return tuple(str(path) for path in scan.paths or ())
