"""Later sessions against the first: which are compared, and by what."""

from pathlib import Path

import numpy as np
import pytest

from cohorts import make_source, named, write_results
from nobrainer.bids.group.people import People
from nobrainer.bids.group.results import Scan, read_scan
from nobrainer.bids.group.sessions import FollowUp, compare_sessions
from nobrainer.bids.layout import read_layout

COMMON = np.array([30.0, -10, -20, 0])
OWN = np.array([1.0, -1, 2, -2])
SHRUNK = {"1": 1000, "2": 980, "10": 950}
"""True volumes in each session, mm³."""


def make(folder: Path, tables: dict[str, str], **others: dict[str, object]) -> None:
    """A person of three sessions, the second with two runs; and one without."""
    scans = ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-01_ses-2_run-2_T1w"]
    scans += ["sub-01_ses-10_T1w", "sub-02_T1w"]
    root = make_source(folder / "in", scans, tables)
    for names in named(root).values():
        session = names.entities.get("ses", "")
        draws = {"part": SHRUNK.get(session, 0) + COMMON + OWN * (session == "2")}
        method = others.get(f"ses_{session}", {})
        write_results(folder / "out", names, draws, **method)


def compared(folder: Path) -> tuple[list[FollowUp], list[str]]:
    root = folder / "in"
    scans = [
        read_scan(folder / "out", source, names)
        for source, names in zip(
            read_layout(root).sources, named(root).values(), strict=True
        )
    ]
    people = People(root)
    moments = {one.source.relative: people.moment(one.source) for one in scans}
    return compare_sessions(folder / "out", scans, moments)


def pairs(found: list[FollowUp]) -> list[tuple[str, str]]:
    def name(scan: Scan) -> str:
        return scan.names.scan.removeprefix("sub-01_").removesuffix("_T1w")

    return [(name(one.earlier), name(one.later)) for one in found]


def test_each_later_session_is_compared_with_the_first(tmp_path: Path) -> None:
    make(tmp_path, {})
    found, problems = compared(tmp_path)
    # Run 2 has no partner; session 10 comes after session 2.
    assert pairs(found) == [("ses-1", "ses-2"), ("ses-1", "ses-10")]
    assert not problems
    (second,), (tenth,) = (one.changes for one in found)
    assert second.change_mm3 == pytest.approx(-20)
    assert second.change_sd_mm3 == pytest.approx(np.std(OWN, ddof=1))
    assert tenth.change_mm3 == pytest.approx(-50)
    assert tenth.change_sd_mm3 == pytest.approx(0, abs=1e-9)
    assert np.isnan(second.years)


def test_times_or_ages_say_which_session_is_the_first(tmp_path: Path) -> None:
    ages = "session_id\tage\nses-1\t50\nses-2\t48\nses-10\t47.5\n"
    make(tmp_path, {"sub-01/sub-01_sessions.tsv": ages})
    found, _ = compared(tmp_path)
    assert pairs(found) == [("ses-10", "ses-2"), ("ses-10", "ses-1")]
    assert [one.changes[0].years for one in found] == [0.5, 2.5]
    assert found[1].changes[0].mm3_per_year == pytest.approx(50 / 2.5)


def test_scans_of_other_draws_are_not_compared(tmp_path: Path) -> None:
    make(tmp_path, {}, ses_10={"seed": 3})
    found, (line,) = compared(tmp_path)
    assert pairs(found) == [("ses-1", "ses-2")]
    assert line.startswith("sub-01/ses-10/anat/sub-01_ses-10_T1w.nii.gz: cannot be")
    assert "same model, version, seed" in line


def test_volumes_in_draws_that_are_gone_are_named(tmp_path: Path) -> None:
    make(tmp_path, {})
    lost = tmp_path / "out" / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_draws.tsv"
    lost.unlink()
    found, (line,) = compared(tmp_path)
    assert pairs(found) == [("ses-1", "ses-10")]
    assert "sub-01_ses-2_draws.tsv: cannot be read" in line
