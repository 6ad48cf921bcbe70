"""How structures change over the sessions of a person, draw by draw."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nobrainer.bids.draws import read_draws
from nobrainer.bids.group.people import Moment
from nobrainer.bids.group.results import Scan
from nobrainer.changes import Change, compare_draws
from nobrainer.errors import InputError


@dataclass(frozen=True)
class FollowUp:
    """A later session against the first one.

    earlier, later: the two scans, which differ in their session alone.
    changes: the change of each structure and whole that both have.
    """

    earlier: Scan
    later: Scan
    changes: tuple[Change, ...]


def compare_sessions(
    directory: Path, scans: Sequence[Scan], moments: Mapping[str, Moment]
) -> tuple[list[FollowUp], list[str]]:
    """Compare every later session of a person with the first one.

    Scans are compared that differ in nothing but the session: run 2 with run 2. The
    first session is that of the earliest scan; where times and ages are not known for
    all, that whose label comes first.

    Args:
        directory: folder of the results.
        scans: the scans that are done.
        moments: when each scan was made, by its path in the data set.

    Returns:
        The follow-ups, and a line for each that cannot be compared.
    """
    series: dict[tuple[object, ...], list[Scan]] = defaultdict(list)
    for scan in scans:
        if scan.source.session is not None:
            others = [
                (key, label)
                for key, label in scan.source.entities.items()
                if key != "ses"
            ]
            series[scan.source.suffix, *others].append(scan)
    found, problems = [], []
    for members in series.values():
        first, *later = _in_order(members, moments)
        draws: dict[str, np.ndarray] | None = None
        for scan in later:
            try:
                if scan.method != first.method:
                    raise InputError(
                        "was not done with the same model, version, seed and number "
                        "of draws: do both again"
                    )
                draws = draws or read_draws(directory / first.names.draws)
                changes = _compare(
                    draws,
                    read_draws(directory / scan.names.draws),
                    _moment(moments, scan).years_since(_moment(moments, first)),
                )
            except InputError as error:
                problems.append(
                    f"{scan.source.relative}: cannot be compared with "
                    f"{first.source.relative}: {error}"
                )
            else:
                found.append(FollowUp(first, scan, changes))
    return found, problems


def _moment(moments: Mapping[str, Moment], scan: Scan) -> Moment:
    return moments[scan.source.relative]


def _compare(
    earlier: Mapping[str, np.ndarray],
    later: Mapping[str, np.ndarray],
    years: float | None,
) -> tuple[Change, ...]:
    """The changes of what both scans have."""
    names = [name for name in earlier if name in later]
    if not names:
        raise InputError("they have no structure in common")
    before, after = (
        np.stack([draws[name] for name in names], axis=1) for draws in (earlier, later)
    )
    return compare_draws(names, before, after, years)


def _in_order(scans: Sequence[Scan], moments: Mapping[str, Moment]) -> list[Scan]:
    """The scans of one person from the first to the last."""
    times = [_moment(moments, scan).time for scan in scans]
    ages = [_moment(moments, scan).age for scan in scans]
    keys: list[tuple[object, ...]] = [
        # Labels as people count: ses-2 before ses-10.
        tuple(
            (0, int(part), "") if part.isdecimal() else (1, 0, part)
            for part in re.split(r"(\d+)", scan.source.session or "")
            if part
        )
        for scan in scans
    ]
    if all(times):
        keys = [(time, key) for time, key in zip(times, keys, strict=True)]
    elif np.isfinite(ages).all():
        keys = [(age, key) for age, key in zip(ages, keys, strict=True)]
    order = sorted(range(len(scans)), key=keys.__getitem__)
    return [scans[n] for n in order]
