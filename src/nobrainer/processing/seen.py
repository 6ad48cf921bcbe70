"""Scans that a model has seen before, known by the checksums of their files.

Scans in memory are not known, nor those that an older model was calibrated on before
that was written down.
"""

import os
from contextlib import suppress
from pathlib import Path

from nobrainer.data.entries import Scan
from nobrainer.errors import InputError, list_problems
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.learned import Learned
from nobrainer.provenance import checksum


def used_before(dataset: Dataset, learned: Learned) -> list[tuple[Scan, str]]:
    """The scans of a dataset that a model has used, and what it used them for.

    Returns:
        Pairs of a scan and "training", "validation", "calibration" or "quality", the
        first that holds.
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
    for scan, digest in zip(dataset.data, _image_checksums(dataset), strict=True):
        if digest in uses:
            found.append((scan, uses[digest]))
    return found


def check_unused(dataset: Dataset, learned: Learned) -> None:
    """Raise `InputError` for scans that a model has used for anything."""
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
    """Raise `InputError` for scans that a model's weights were fitted to."""
    used = used_before(dataset, learned)
    found = [str(scan.name) for scan, use in used if use == "training"]
    if found:
        raise InputError(
            f"{', '.join(found)}: the model was trained on it: give scans that it "
            "has not seen"
        )


def scan_checksums(dataset: Dataset) -> tuple[str, ...]:
    """The checksums of a dataset's scans, as a record keeps them."""
    return tuple(sorted({*_image_checksums(dataset)} - {""}))


def _image_checksums(dataset: Dataset) -> list[str]:
    """SHA-256 of each scan's file, empty for what is in memory or cannot be read."""
    found = []
    for scan in dataset.data:
        digest = ""
        # Whoever reads the scan says what is wrong with its file.
        with suppress(OSError, InputError):
            if isinstance(scan.image, str | os.PathLike):
                digest = checksum(Path(scan.image))
        found.append(digest)
    return found
