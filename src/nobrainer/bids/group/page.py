"""The page of a cohort: one file that works from disk with thousands of scans."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from nobrainer.bids.group.histograms import draw_scores, draw_z
from nobrainer.bids.group.outliers import FEWEST, LIMIT, Deviations
from nobrainer.bids.group.people import AGE, TIME
from nobrainer.bids.group.results import SKULL, Gap, Scan
from nobrainer.bids.group.sessions import FollowUp
from nobrainer.bids.tables import MISSING, to_number
from nobrainer.naming import count
from nobrainer.report.document import Table, address, number, write_document

_SITES = ("site", "site_id", "scanner", "scanner_id", "center", "centre")
"""Names of columns that say where a scan was made, in small letters."""
_MOST_LEVELS, _MOST_COLUMNS = 30, 8
"""Most values of a column that splits the scans, and most columns that do."""
_MOST_GAPS = 100
"""Most scans without results that the page lists."""


@dataclass(frozen=True)
class _Column:
    """A column of the participants that splits the scans into groups.

    name: its name.
    levels: its values, sorted.
    of: for each scan the number of its level; -1 where not known.
    """

    name: str
    levels: list[str]
    of: list[int]

    @property
    def is_site(self) -> bool:
        """Whether it says where a scan was made."""
        return self.name.lower() in _SITES


def write_dashboard(
    path: Path,
    title: str,
    scans: Sequence[Scan],
    gaps: Sequence[Gap],
    deviations: Deviations,
    follow_ups: Sequence[FollowUp],
) -> Path:
    """Write the page of all scans, which loads nothing.

    Args:
        path: path of the page; a page that is there is replaced.
        title: name of the data set.
        scans: the scans that are done.
        gaps: what has no results.
        deviations: how far each structure of each scan is from the others.
        follow_ups: later sessions against the first ones.

    Raises:
        InputError: the page cannot be written.
    """
    columns = _splitting(scans)
    site = next((column for column in columns if column.is_site), None)
    links = _link(scans, path.parent)
    content = {
        "title": title,
        "tiles": _count(scans, gaps, deviations),
        "scores": draw_scores(
            [scan.score for scan in scans], [bool(scan.flags) for scan in scans]
        ),
        "score_is": ", ".join(sorted({str(s.quality.get("score_is")) for s in scans})),
        "is_compared": len(scans) >= FEWEST,
        "fewest": FEWEST,
        "limit": LIMIT,
        "has_skull": any(math.isfinite(scan.skull_mm3) for scan in scans),
        "structures": _describe_parts(deviations),
        "sites": None if site is None else _tabulate_sites(site, scans, deviations),
        "changes": _tabulate_changes(follow_ups) if follow_ups else None,
        "follow_ups": count(len(follow_ups), "later session"),
        "gaps": _describe_gaps(gaps),
        "most_gaps": _MOST_GAPS,
        "data": _embed(_data(scans, deviations, columns, site, links)),
    }
    return write_document(path, "dashboard.html", content, caution="", overwrite=True)


def _link(scans: Sequence[Scan], directory: Path) -> list[str]:
    """The address of each scan's page; empty where there is none."""
    there = {
        page: address(page) if (directory / page).is_file() else ""
        for page in {scan.names.page for scan in scans}
    }
    return [there[scan.names.page] for scan in scans]


def _count(
    scans: Sequence[Scan], gaps: Sequence[Gap], deviations: Deviations
) -> list[tuple[str, str, bool]]:
    """Counts of what is there: value, meaning, whether it deserves a look."""
    states = Counter(gap.state for gap in gaps)
    n_flagged = sum(bool(scan.flags) for scan in scans)
    odd = deviations.is_outlier.any(axis=1)
    wide = deviations.is_wide.any(axis=1)
    people = {scan.source.subject for scan in scans}
    tiles = [
        (f"{len(scans):,}", "scans done", False),
        (f"{len(people):,}", "participants", False),
        *(
            (f"{states[state]:,}", state, state in ("failed", "unusable"))
            for state in ("failed", "unusable", "missing", "running", "waiting")
            if states[state]
        ),
        (f"{n_flagged:,}", "flagged", n_flagged > 0),
    ]
    if len(scans) >= FEWEST:
        tiles += [
            (f"{odd.sum():,}", "with outliers", bool(odd.any())),
            (f"{wide.sum():,}", "with wide intervals", bool(wide.any())),
        ]
    return tiles


def _describe_parts(deviations: Deviations) -> list[dict[str, Any]]:
    """A row for each structure: its distribution and what stands out."""
    is_outlier, is_wide = deviations.is_outlier, deviations.is_wide
    rows = []
    for n, part in enumerate(deviations.parts):
        volume = deviations.volume_mm3[:, n]
        found = volume[volume > 0] / 1000
        low, middle, high = (
            np.quantile(found, (0.05, 0.5, 0.95)) if len(found) else [math.nan] * 3
        )
        width = deviations.width[np.isfinite(deviations.width[:, n]), n]
        half = 50 * float(np.median(width)) if len(width) else math.nan
        rows.append(
            {
                "name": part,
                "number": n,
                "chart": draw_z(deviations.z[:, n]),
                "median": number(middle, 2),
                "low": number(low, 2),
                "high": number(high, 2),
                "n_outliers": int(is_outlier[:, n].sum()),
                "n_absent": int((volume == 0).sum()),
                "half": number(half, 1),
                "n_wide": int(is_wide[:, n].sum()),
            }
        )
    return rows


def _splitting(scans: Sequence[Scan]) -> list[_Column]:
    """The columns of the participants that split the scans, sites first."""
    names = dict.fromkeys(name for scan in scans for name in scan.person)
    columns = []
    for name in names:
        cells = [scan.person.get(name, MISSING) for scan in scans]
        levels = sorted(set(cells) - {MISSING})
        if name in (AGE, TIME) or not 2 <= len(levels) <= _MOST_LEVELS:
            continue
        place = {level: n for n, level in enumerate(levels)} | {MISSING: -1}
        columns.append(_Column(name, levels, [place[cell] for cell in cells]))
    return sorted(columns, key=lambda one: not one.is_site)[:_MOST_COLUMNS]


def _tabulate_sites(
    site: _Column, scans: Sequence[Scan], deviations: Deviations
) -> Table:
    n_outliers = deviations.is_outlier.sum(axis=1)
    rows = []
    for level, name in [*enumerate(site.levels), (-1, "not known")]:
        chosen = [n for n, of in enumerate(site.of) if of == level]
        if not chosen:
            continue
        here = [scans[n] for n in chosen]
        ages = np.array([to_number(scan.person.get(AGE)) for scan in here])
        ages = ages[np.isfinite(ages)]
        rows.append(
            (
                name,
                f"{len(here):,}",
                f"{100 * sum(bool(scan.flags) for scan in here) / len(here):.1f}",
                number(_median([scan.score for scan in here])),
                number(float(n_outliers[chosen].mean()), 2),
                number(_median([scan.skull_mm3 for scan in here]) / 1000, 0),
                f"{ages.min():g} to {ages.max():g}" if len(ages) else "\N{EN DASH}",
            )
        )
    head = ("flagged (%)", "median score", "outliers a scan", "median ICV (ml)")
    return Table(
        f"Scans by {site.name}", (site.name, "scans", *head, "age"), tuple(rows)
    ).without_blanks()


def _tabulate_changes(follow_ups: Sequence[FollowUp]) -> Table:
    """Median changes of each structure, by year where the times are known."""
    by_name: dict[str, list[Any]] = {}
    for one in follow_ups:
        for change in one.changes:
            by_name.setdefault(change.name, []).append(change)
    rows = []
    for name, changes in by_name.items():
        sure = [c.change_low_mm3 > 0 or c.change_high_mm3 < 0 for c in changes]
        half = [(c.percent_high - c.percent_low) / 2 for c in changes]
        rows.append(
            (
                name,
                f"{len(changes):,}",
                number(_median([c.change_mm3 for c in changes]) / 1000, 3),
                number(_median([c.percent for c in changes]), 2),
                number(_median([c.percent_per_year for c in changes]), 2),
                number(_median(half), 2),
                f"{sum(sure):,}",
            )
        )
    return Table(
        "Change from the first session to each later one",
        (
            "structure",
            "follow-ups",
            "median change (ml)",
            "median change (%)",
            "median change (% a year)",
            "median half interval (%)",
            "interval without 0",
        ),
        tuple(rows),
    ).without_blanks()


def _describe_gaps(gaps: Sequence[Gap]) -> list[dict[str, Any]]:
    """What has no results, by state: how many, and the first of them."""
    states = dict.fromkeys(gap.state for gap in gaps)
    return [
        {
            "state": state,
            "n": f"{len(of_state):,}",
            "n_more": f"{max(len(of_state) - _MOST_GAPS, 0):,}",
            "rows": of_state[:_MOST_GAPS],
        }
        for state in states
        if (of_state := [gap for gap in gaps if gap.state == state])
    ]


def _data(
    scans: Sequence[Scan],
    deviations: Deviations,
    columns: Sequence[_Column],
    site: _Column | None,
    links: Sequence[str],
) -> Mapping[str, object]:
    """What the page's script draws from: small numbers, a list for each column."""
    skull = np.array([scan.skull_mm3 for scan in scans])
    ages = [to_number(scan.person.get(AGE)) for scan in scans]
    middle = _median(skull)
    return {
        "scans": {
            "name": [scan.names.scan for scan in scans],
            "page": links,
            "score": _rounded([1e4 * scan.score for scan in scans]),
            "flags": ["; ".join(scan.flags) for scan in scans],
            "icv": _rounded(skull),
            "age": [age if math.isfinite(age) else None for age in ages],
            "outliers": deviations.is_outlier.sum(axis=1).tolist(),
            "wide": deviations.is_wide.sum(axis=1).tolist(),
        },
        "icv": middle if math.isfinite(middle) else None,
        "compared": len(scans) >= FEWEST,
        "columns": [
            {"name": one.name, "levels": one.levels, "of": one.of} for one in columns
        ],
        "site": -1 if site is None else columns.index(site),
        "parts": [
            {
                "name": part,
                "adjusted": part != SKULL and math.isfinite(middle),
                "volume": _rounded(deviations.volume_mm3[:, n]),
                "z": _rounded(100 * deviations.z[:, n]),
                "width": _rounded(1000 * deviations.width[:, n]),
                "out": np.flatnonzero(deviations.is_outlier[:, n]).tolist(),
                "wide": np.flatnonzero(deviations.is_wide[:, n]).tolist(),
            }
            for n, part in enumerate(deviations.parts)
        ],
    }


def _embed(data: Mapping[str, object]) -> Markup:
    """JSON that stands in a page; no text in it can end the element around it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _rounded(values: Sequence[float] | np.ndarray) -> list[int | None]:
    return [round(value) if math.isfinite(value) else None for value in values]


def _median(values: Sequence[float] | np.ndarray) -> float:
    known = np.asarray(values)[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan
