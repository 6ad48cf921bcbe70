"""Scans that a model has seen before, known by the checksums of their files.

Scans in memory are not known, nor are the calibration scans of older models, whose
checksums were not kept.
"""

import os
import warnings
from contextlib import suppress
from pathlib import Path

from nobrainer.data.entries import Scan
from nobrainer.data.zarr_store.table import StoredScan
from nobrainer.errors import InputError, list_problems
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.learned import Learned
from nobrainer.provenance import checksum


def used_before(dataset: Dataset, learned: Learned) -> list[tuple[Scan, str]]:
    """The scans of a dataset that a model has used, and what it used them for.

    Args:
        dataset: the scans in question.
        learned: the model.

    Returns:
        Pairs of a scan and its use: "training", "validation", "calibration" or
        "quality". A scan with several uses has the first of these.
    """
    uses: dict[str, str] = {}
    for kind, record in (
        ("quality", learned.quality),
        ("calibration", learned.calibration),
    ):
        for digest in record.checksums if record is not None else ():
            uses[digest] = kind
    for role, kind in (("validate", "validation"), ("train", "training")):
        for file in learned.recipe.provenance.files:
            if file.role == f"{role}-image":
                uses[file.sha256] = kind
    found = []
    for scan, digest in zip(dataset.data, image_checksums(dataset), strict=True):
        if digest in uses:
            found.append((scan, uses[digest]))
    return found


def check_unused(dataset: Dataset, learned: Learned) -> None:
    """Check that a model has not used any scan of a dataset before.

    Args:
        dataset: the scans in question.
        learned: the model.

    Raises:
        InputError: there are such scans; a line for each.
    """
    if used := used_before(dataset, learned):
        raise InputError(
            list_problems(
                (
                    scan.name,
                    f"the model has used it in {use}, so that figures would be too "
                    "good: give scans that it has not seen, or allow_seen=True",
                )
                for scan, use in used
            )
        )


def check_not_trained_on(dataset: Dataset, learned: Learned) -> None:
    """Check that a model's weights were not fitted to any scan of a dataset.

    Args:
        dataset: the scans in question.
        learned: the model.

    Raises:
        InputError: there are such scans; they are named.
    """
    used = used_before(dataset, learned)
    found = [str(scan.name) for scan, use in used if use == "training"]
    if found:
        hint = ", or out_of_fold=True" if learned.recipe.provenance.folds else ""
        raise InputError(
            f"{', '.join(found)}: the model was trained on it: give scans that it "
            f"has not seen{hint}"
        )


def warn_of_shared(train: Dataset, validate: Dataset, stacklevel: int = 1) -> None:
    """Warn of scans that are both trained and validated on; label maps do not count.

    Args:
        train: the scans to train on.
        validate: the scans to validate on.
        stacklevel: how many callers above this function the warning points to.
    """
    taught = {_identity(scan) for scan in train.data if not scan.is_map}
    shared = [
        scan.name
        for scan in validate.data
        if not scan.is_map and _identity(scan) in taught
    ]
    if shared:
        warnings.warn(
            f"{len(shared)} of the scans of dataset_validate (such as {shared[0]}) are "
            "in dataset_train, too: their Dice is too good, and chooses the epoch that "
            "fits them most closely",
            stacklevel=stacklevel + 1,
        )


def _identity(scan: Scan) -> str | int:
    """What tells the image of a scan from those of others, without reading it."""
    if isinstance(scan.image, StoredScan):
        return scan.image.row.image.sha256
    if isinstance(scan.image, str | os.PathLike):
        return os.path.realpath(scan.image)
    return id(scan.image)


def scan_checksums(dataset: Dataset) -> tuple[str, ...]:
    """The checksums of a dataset's scans, as a record keeps them."""
    return tuple(sorted({*image_checksums(dataset)} - {""}))


def image_checksums(dataset: Dataset) -> list[str]:
    """SHA-256 of each scan's file, empty for what is in memory or cannot be read.

    Args:
        dataset: the scans.

    Of a scan in a store it is the file that the scan was made from.
    """
    found = []
    for scan in dataset.data:
        digest = ""
        if isinstance(scan.image, StoredScan):
            digest = scan.image.row.image.sha256
        # Reading the scan later tells what is wrong with its file.
        with suppress(OSError, InputError):
            if isinstance(scan.image, str | os.PathLike):
                digest = checksum(Path(scan.image))
        found.append(digest)
    return found
