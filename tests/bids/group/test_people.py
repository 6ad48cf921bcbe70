"""What the tables of a data set say of scans, and when these were made."""

import math
from datetime import datetime
from pathlib import Path

import pytest

from cohorts import make_source
from nobrainer.bids.group.people import Moment, People
from nobrainer.bids.layout import read_layout

PARTICIPANTS = (
    "participant_id\tage\tsite\nsub-01\t30\tA\nsub-02\t89+\tn/a\nsub-09\t1\tB\n"
)
SESSIONS = (
    "session_id\tage\tacq_time\nses-a\tn/a\t1877-06-15T10:00:00\nses-b\t32\tn/a\n"
)
SCANS = (
    "filename\tacq_time\toperator\n"
    "anat/sub-01_ses-b_T1w.nii.gz\t1879-06-15T22:00:00.5Z\tx\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_source(
        tmp_path,
        ["sub-01_ses-a_T1w", "sub-01_ses-b_T1w", "sub-02_T1w"],
        {
            "participants.tsv": PARTICIPANTS,
            "participants.json": '{"site": {"Description": "Where."}, "age": 3}',
            "sub-01/sub-01_sessions.tsv": SESSIONS,
            "sub-01/ses-b/sub-01_ses-b_scans.tsv": SCANS,
        },
    )


def test_the_closer_table_counts_before_the_others(root: Path) -> None:
    people = People(root)
    first, second, other = (people.of(one) for one in read_layout(root).sources)
    # What the closer table does not know is left to the other one.
    assert first == {"age": "30", "site": "A", "acq_time": "1877-06-15T10:00:00"}
    assert second == {"age": "32", "site": "A", "acq_time": "1879-06-15T22:00:00.5Z"}
    assert other == {"age": "89+", "site": "n/a"}
    assert list(people.columns) == ["age", "site", "acq_time"]
    assert people.about == {"site": {"Description": "Where."}}
    assert people.without_folder() == ["09"] and not people.problems


def test_moments_and_the_years_between_them(root: Path) -> None:
    people = People(root)
    first, second, other = (people.moment(one) for one in read_layout(root).sources)
    assert first.time == datetime(1877, 6, 15, 10) and first.age == 30
    assert second.age == 32 and math.isnan(other.age)
    # Times count before ages: 730 days and 12 hours.
    assert second.years_since(first) == pytest.approx(730.5 / 365.25, abs=1e-6)
    assert first.years_since(second) is None
    young, old = Moment(None, 30), Moment(None, 31.5)
    assert old.years_since(young) == 1.5
    assert young.years_since(young) is None and young.years_since(other) is None
    assert young.years_since(Moment(first.time, 28)) == 2


def test_tables_that_cannot_be_used_are_left_out(root: Path) -> None:
    (root / "participants.tsv").write_text("subject\tage\n01\t30\n")
    (root / "sub-01" / "sub-01_sessions.tsv").write_text(
        "session_id\tage\na\t30\na\t31\n"
    )
    people = People(root)
    assert people.of(read_layout(root).sources[0]) == {"age": "30"}
    lines = "\n".join(people.problems)
    assert "participants.tsv: lacks the column participant_id" in lines
    assert "sub-01_sessions.tsv: has a twice: the first row is taken" in lines
