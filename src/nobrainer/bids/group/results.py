"""What the participant level wrote for each scan, and which scans lack it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nobrainer.bids.layout import Source
from nobrainer.bids.names import Names
from nobrainer.bids.tables import (
    MISSING,
    Row,
    morphometry_column,
    read_morphometry,
    to_number,
)
from nobrainer.errors import InputError
from nobrainer.results.folder import FAILED
from nobrainer.results.records import Records

SKULL, BRAIN = "intracranial", "brain"
"""Names of the wholes in the tables of structures."""
_METHOD = ("model_sha256", "version", "seed", "n_samples")
"""What decides the draws: scans that have these in common are judged by the same."""
_NEEDED = ("index", "name", "status", "volume_mm3")


@dataclass(frozen=True)
class Scan:
    """A scan whose results are there.

    source: the scan in the data set.
    names: the names of its results.
    quality: what its file of the quality says.
    parts: the rows of its table of structures, by the name of the structure or whole.
    person: what the tables of the data set say of it.
    """

    source: Source
    names: Names
    quality: Mapping[str, Any]
    parts: Mapping[str, Row]
    person: Row = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The score of its quality, 0 to 1."""
        return to_number(self.quality.get("score"))

    @property
    def flags(self) -> list[str]:
        """Reasons to look at it."""
        return [str(flag) for flag in self.quality.get("flags") or ()]

    @property
    def method(self) -> tuple[Any, ...]:
        """What decides the draws of its prediction."""
        return tuple(self.quality.get(key) for key in _METHOD)

    def figure(self, part: str, column: str) -> float:
        """A number of a structure or a whole; NaN where it is not known."""
        return to_number(self.parts.get(part, {}).get(column))

    @property
    def skull_mm3(self) -> float:
        """The intracranial volume, mm³; NaN where the model does not know it."""
        volume = self.figure(SKULL, "volume_mm3")
        return volume if volume > 0 else math.nan


@dataclass(frozen=True)
class Gap:
    """A scan, session or participant without results.

    where: path of the scan in the data set, or "sub-01", or "sub-01/ses-a".
    state: "waiting", "running", "failed", "unusable" (left out before it was tried),
        or "missing" (there is no scan).
    reason: why, or what to do.
    person: what the tables of the data set say of the participant and the session.
    """

    where: str
    state: str
    reason: str
    person: Row = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The participant, with "sub-"."""
        return self.where.split("/")[0]

    @property
    def session(self) -> str:
        """The session, with "ses-"; n/a where there is none."""
        parts = self.where.split("/")[1:2]
        return parts[0] if parts and parts[0].startswith("ses-") else MISSING


def read_scan(directory: Path, source: Source, names: Names) -> Scan:
    """Read the results of a scan that is done.

    Args:
        directory: folder of the results.
        source: the scan.
        names: the names of its results.

    Raises:
        InputError: a file is gone or damaged.
    """
    path = directory / names.quality
    try:
        quality = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{names.quality}: cannot be read ({error})") from error
    if not isinstance(quality, dict):
        raise InputError(f"{names.quality}: is no JSON object")
    columns, rows = read_morphometry(directory / names.morphometry())
    lacking = [
        morphometry_column(column) for column in _NEEDED if column not in columns
    ]
    if lacking:
        raise InputError(f"{names.morphometry()}: lacks {', '.join(lacking)}")
    return Scan(source, names, quality, {row["name"]: row for row in rows})


def state_of(directory: Path, names: Names) -> tuple[str, str]:
    """How a scan stands, by the record and the files that the participant level left.

    Args:
        directory: folder of the results.
        names: the names of the scan's results.

    Returns:
        "done", "failed", "running" or "waiting"; and why, or what to do.
    """
    records = Records(directory)
    record = records.find(names.scan)
    again = "run the participant level again"
    if record is None:
        return "waiting", "is not done yet: run the participant level"
    if record.ended:
        if (directory / names.quality).is_file():
            return "done", ""
        return "waiting", f"its files are gone: {again}"
    if reason := record.data.get(FAILED):
        return "failed", str(reason)
    if records.is_at_work(names.scan):
        return "running", "another process is at work on it"
    return "waiting", f"was interrupted: {again}"


def structure_names(scans: list[Scan]) -> list[str]:
    """The structures that any scan has, without wholes, in the order of the tables."""
    found: dict[str, None] = {}
    for scan in scans:
        found |= {
            name: None for name, row in scan.parts.items() if row["index"] != MISSING
        }
    return list(found)


def volumes(scans: list[Scan], parts: list[str], column: str) -> np.ndarray:
    """A column of the tables of structures, (n_scans, n_parts); NaN where not known."""
    return np.array(
        [[scan.figure(part, column) for part in parts] for scan in scans]
    ).reshape(len(scans), len(parts))
