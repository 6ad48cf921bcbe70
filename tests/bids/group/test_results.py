"""How a scan stands, by the record and the files that are left of it."""

from pathlib import Path

import numpy as np

from cohorts import make_source, named, write_record, write_results
from nobrainer.bids.group.results import Gap, state_of
from nobrainer.results.records import Records


def test_the_state_of_a_scan_is_known_from_its_files(tmp_path: Path) -> None:
    (names,) = named(make_source(tmp_path / "in", ["sub-01_T1w"], {})).values()
    out = tmp_path / "out"
    assert state_of(out, names)[0] == "waiting"
    write_record(out, names)
    with Records(out).working(names.scan):
        assert state_of(out, names)[0] == "running"
    assert state_of(out, names) == (
        "waiting",
        "was interrupted: run the participant level again",
    )
    write_record(out, names, failed="is cut short")
    assert state_of(out, names) == ("failed", "is cut short")
    write_results(out, names, {"part": np.array([1.0, 2, 3])})
    assert state_of(out, names) == ("done", "")
    (out / names.quality).unlink()
    assert state_of(out, names)[1].startswith("its files are gone")


def test_a_gap_says_whose_it_is() -> None:
    gap = Gap("sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz", "failed", "is cut short")
    assert (gap.subject, gap.session) == ("sub-01", "ses-a")
    gap = Gap("sub-01/anat/sub-01_T1w.nii.gz", "failed", "is cut short")
    assert (gap.subject, gap.session) == ("sub-01", "n/a")
    assert Gap("sub-01", "missing", "has no T1w").session == "n/a"
