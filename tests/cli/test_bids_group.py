"""The group level in the shell: what is printed, and where what is missing goes."""

import json
from pathlib import Path

import numpy as np
import pytest

from cohorts import make_source, named, write_record, write_results
from commands import errors_of, nobrainer_
from html_pages import Page

SCANS = ["sub-01_ses-a_T1w", "sub-01_ses-b_T1w", "sub-02_T1w", "sub-03_T1w"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A data set of which sub-02 has failed and sub-03 waits, and its results."""
    root, out = make_source(tmp_path / "in", SCANS, {}), tmp_path / "out"
    names = named(root)
    for scan in SCANS[:2]:
        draws = {"part": np.array([10.0, 11, 13]), "brain": np.array([90.0, 91, 92])}
        write_results(out, names[scan], draws, flags=["odd"] * scan.endswith("b_T1w"))
    write_record(out, names["sub-02_T1w"], failed="is cut short")
    return root, out


def test_what_is_done_is_printed_and_what_is_missing_told(
    folders: tuple[Path, Path],
) -> None:
    root, out = folders
    result = nobrainer_("bids", root, out, "group")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "done      2",
        "missing   2, see standard error and group_quality.tsv",
        "flagged   1",
        "sessions  1 compared with the first one",
        f"tables    {out}/group_*.tsv",
        f"page      {out}/group.html",
    ]
    failed, waiting = errors_of(result.stderr)
    assert failed == ("nobrainer: sub-02/anat/sub-02_T1w.nii.gz: failed: is cut short")
    assert "sub-03/anat/sub-03_T1w.nii.gz: waiting: is not done yet" in waiting
    # Of two scans none is an outlier, and nothing says that there are 0.
    page = Page(out / "group.html")
    assert "With fewer than 10 scans none can be told to be an outlier" in page.text
    assert "with outliers" not in page.text and "distribution" not in page.text
    assert page.row("part") == ["part", "0.01", "0.01 to 0.01", "", "40.4"]


def test_the_same_as_json(folders: tuple[Path, Path]) -> None:
    root, out = folders
    result = nobrainer_(
        *("bids", root, out, "group", "--json", "--participant-label", "01", "02")
    )
    story = json.loads(result.stdout)
    assert story["scans"] == SCANS[:2]
    (gap,) = story["missing"]
    assert (gap["state"], gap["reason"]) == ("failed", "is cut short")
    assert [Path(file).name for file in story["files"]][-1] == "group.html"
    assert all(Path(file).is_file() for file in story["files"])


def test_nothing_done_is_bad_input(folders: tuple[Path, Path]) -> None:
    root, out = folders
    result = nobrainer_("bids", root, out, "group", "--participant-label", "03")
    assert result.exit_code == 2
    assert "run the participant level first" in result.stderr
