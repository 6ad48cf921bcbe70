"""The group level: tables and a page of all scans of a data set that are done."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from nobrainer.bids.group.columns import (
    describe_columns,
    write_changes,
    write_quality,
    write_structures,
    write_volumes,
)
from nobrainer.bids.group.outliers import find_deviations
from nobrainer.bids.group.page import write_dashboard
from nobrainer.bids.group.people import People
from nobrainer.bids.group.results import (
    Gap,
    Scan,
    read_scan,
    state_of,
    structure_names,
)
from nobrainer.bids.group.sessions import FollowUp, compare_sessions
from nobrainer.bids.layout import DESCRIPTION, Layout, Source
from nobrainer.bids.names import Names, name_all
from nobrainer.bids.tables import MISSING, Row
from nobrainer.errors import InputError
from nobrainer.io import write_text
from nobrainer.results.records import Records

PAGE = "group.html"
_CHANGES = "group_changes"


@dataclass(frozen=True)
class Group:
    """What the group level has found and written.

    scans: the scans that are done.
    gaps: what has no results.
    follow_ups: later sessions against the first ones.
    problems: a line for whatever else could not be used.
    files: the files that were written.
    """

    scans: list[Scan]
    gaps: list[Gap]
    follow_ups: list[FollowUp]
    problems: list[str]
    files: list[Path]


def write_group(layout: Layout, directory: Path) -> Group:
    """Write the tables and the page of all scans that the participant level has done.

    Files of an earlier run are replaced; nothing else is touched.

    Args:
        layout: the scans of the data set.
        directory: folder of the results.

    Raises:
        InputError: no scan is done, or a file cannot be written.
    """
    people = People(layout.root)
    named, alike = name_all(layout.sources, "")
    scans, gaps = _collect(named, directory, people)
    lines = [(line, "unusable") for line in (*layout.problems, *alike)]
    lines += [(line, "missing") for line in layout.missing]
    gaps += [Gap(*_divide(line, state)) for line, state in lines]
    gaps = [replace(gap, person=_find_person(gap, people)) for gap in gaps]
    gaps.sort(key=lambda gap: (gap.state, gap.where))
    if not scans:
        raise InputError(
            f"{directory}: no scan of {layout.root} is done: run the participant level "
            "first"
        )
    structures = structure_names(scans)
    parts = list(dict.fromkeys(name for scan in scans for name in scan.parts))
    deviations = find_deviations(scans, parts)
    moments = {one.source.relative: people.moment(one.source) for one in scans}
    follow_ups, problems = compare_sessions(directory, scans, moments)
    tables = {
        "group_structures": write_structures(scans, deviations, people),
        "group_volumes": write_volumes(scans, structures, people),
        "group_quality": write_quality(scans, gaps, deviations, people),
    }
    if follow_ups:
        tables[_CHANGES] = write_changes(follow_ups, people)
    else:
        for end in (".tsv", ".json"):
            (directory / f"{_CHANGES}{end}").unlink(missing_ok=True)
    coverage = _coverage(directory)
    files = []
    for name, text in tables.items():
        about = describe_columns(text, people, structures, coverage)
        files.append(write_text(text, directory / f"{name}.tsv", overwrite=True))
        files.append(write_text(about, directory / f"{name}.json", overwrite=True))
    files.append(
        write_dashboard(
            directory / PAGE, _title(layout.root), scans, gaps, deviations, follow_ups
        )
    )
    others = _find_others(directory, {names.quality for _, names in named})
    return Group(scans, gaps, follow_ups, [*people.problems, *problems, *others], files)


def _collect(
    named: Sequence[tuple[Source, Names]], directory: Path, people: People
) -> tuple[list[Scan], list[Gap]]:
    """The scans that are done, and those that have no results."""
    scans, gaps = [], []
    for source, names in named:
        state, reason = state_of(directory, names)
        if state == "done":
            try:
                found = read_scan(directory, source, names)
            except InputError as error:
                state, reason = "failed", f"{error}: do the scan again"
            else:
                scans.append(replace(found, person=people.of(source)))
                continue
        gaps.append(Gap(source.relative, state, reason))
    gaps += [
        Gap(f"sub-{label}", "missing", "is in participants.tsv, and has no folder")
        for label in people.without_folder()
    ]
    return scans, gaps


def _divide(line: str, state: str) -> tuple[str, str, str]:
    """What a line is about, the state, and what the line says."""
    where, _, reason = line.partition(": ")
    return where, state, reason


def _find_person(gap: Gap, people: People) -> Row:
    """What the tables of the data set say of whom and of when there are no results."""
    session = None if gap.session == MISSING else gap.session.removeprefix("ses-")
    return people.of_session(gap.subject.removeprefix("sub-"), session)


def _find_others(directory: Path, known: Collection[PurePosixPath]) -> list[str]:
    """A line about results of scans that are not among those of the data set."""
    found = sorted(
        path.relative_to(directory).as_posix()
        for pattern in ("sub-*/anat", "sub-*/ses-*/anat")
        for path in directory.glob(f"{pattern}/*_quality.json")
    )
    others = [one for one in found if PurePosixPath(one) not in known]
    if not others:
        return []
    return [
        f"{others[0]}: belongs to no scan that was asked for (of such files there are "
        f"{len(others)}): left out"
    ]


def _coverage(directory: Path) -> float | None:
    """The coverage of the conformal intervals; None where there are none."""
    method = Records(directory).method()
    return None if method is None else method.coverage


def _title(root: Path) -> str:
    """The name of the data set, by its description or its folder."""
    try:
        found = json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
        name = str(found["Name"])
    except (OSError, ValueError, KeyError, TypeError):
        name = ""
    return name or root.resolve().name
