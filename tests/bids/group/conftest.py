"""A cohort with all that can be in one, done by the group level."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cohorts import make_source, named, write_record, write_results
from nobrainer.bids.group.level import Group, write_group
from nobrainer.bids.layout import read_layout

EVIL = "</script><b>x"
"""A name that is text in a table and must not be markup in a page."""
N_PEOPLE, N_DRAWS = 14, 6
SITES = (EVIL, "Köln")


class Cohort(NamedTuple):
    """A data set, its results, and what the group level says of them."""

    root: Path
    directory: Path
    group: Group


def volumes(number: int, later: bool) -> dict[str, np.ndarray]:
    """The volumes of person `number` in each draw, mm³; the skull goes with them."""
    rng = np.random.default_rng(number)
    skull = 1_400_000 * (1 + 0.01 * rng.normal())
    common, own = rng.normal(size=(2, N_DRAWS))
    scale = 1 + 0.01 * common + 0.001 * own * later
    part = skull / 350 * (1 + 0.02 * rng.normal()) * (0.98 if later else 1)
    if number == 5:
        part *= 2
    return {
        "Left-Hippocampus": part * scale,
        EVIL: (0 if number == 6 else 500) * scale,
        "brain": 0.8 * skull * scale,
        "intracranial": skull * scale,
    }


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Fourteen people, two of them with two sessions; and scans that are not done."""
    folder = tmp_path_factory.mktemp("cohort")
    people = [f"sub-{number:02d}" for number in range(N_PEOPLE)]
    scans = [f"{who}_ses-a_T1w" for who in people]
    scans += ["sub-00_ses-b_T1w", "sub-01_ses-b_T1w", "sub-20_ses-a_T1w"]
    scans += ["sub-21_ses-a_T1w", "sub-22_ses-a_T1w"]
    rows = [
        f"{who}\t{20 + 5 * n}\t{SITES[n % 2]}\tx{n}\t{n % 3}\n"
        for n, who in enumerate(people)
    ]
    header = "participant_id\tage\tsite\tcode\tscore\n"
    table = header + "".join(rows) + "sub-99\t51\tn/a\tn/a\tn/a\n"
    root = make_source(
        folder / "in",
        scans,
        {
            "participants.tsv": table,
            "participants.json": '{"site": {"Description": "Where."}}',
            "sub-00/sub-00_sessions.tsv": "session_id\tage\nses-a\t20\nses-b\t22\n",
            "sub-23/anat/sub-23_T2w.nii.gz": "",
            "sub-24/anat/sub-24_T1w.nii.gz": "",
            "sub-24/anat/sub-24_T1w.nii": "",
        },
    )
    directory = folder / "out"
    for names in named(root).values():
        number = int(names.entities["sub"])
        if number < N_PEOPLE:
            flags = ["<u>odd\tvolume", "low"] if number == 5 else []
            score = 0.5 if flags else 0.9 + number / 1000
            later = names.entities["ses"] == "b"
            found = volumes(number, later)
            write_results(directory, names, found, score=score, flags=flags)
    there = named(root)
    write_record(directory, there["sub-21_ses-a_T1w"], failed="is cut short")
    write_record(directory, there["sub-22_ses-a_T1w"])
    (directory / "sub-03.html").unlink()
    return Cohort(root, directory, write_group(read_layout(root), directory))
