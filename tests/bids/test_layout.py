import json
import time
from pathlib import Path

import pytest

from nobrainer.bids.filters import Filters
from nobrainer.bids.layout import Layout, read_layout
from nobrainer.errors import InputError


def make(root: Path, *files: str) -> Path:
    """A data set of empty files."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "made", "BIDSVersion": "1.11.0"})
    )
    return root


def found(layout: Layout) -> list[str]:
    return [Path(one.relative).name.split(".")[0] for one in layout.sources]


PLAIN = (
    "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_run-1_T1w.nii",
    "sub-01/ses-b/anat/sub-01_ses-b_run-2_T1w.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_T2w.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz",
    "derivatives/x/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
    "sourcedata/sub-09/anat/sub-09_T1w.nii.gz",
)


def test_scans_are_found_with_and_without_sessions(tmp_path: Path) -> None:
    layout = read_layout(make(tmp_path, *PLAIN))
    assert found(layout) == [
        "sub-01_ses-a_T1w",
        "sub-01_ses-b_run-1_T1w",
        "sub-01_ses-b_run-2_T1w",
        "sub-02_T1w",
    ]
    assert layout.problems == layout.missing == ()
    first, *_, last = layout.sources
    assert (first.subject, first.session, last.session) == ("01", "a", None)
    assert first.path.is_file() and first.relative == PLAIN[0]


def test_a_folder_of_derivatives_is_a_data_set_as_well(tmp_path: Path) -> None:
    make(tmp_path, *PLAIN)
    inside = make(tmp_path / "derivatives" / "x")
    assert found(read_layout(inside)) == ["sub-01_desc-preproc_T1w"]


def test_labels_choose_participants_and_sessions(tmp_path: Path) -> None:
    make(tmp_path, *PLAIN)
    for label in ("02", "sub-02"):
        assert found(read_layout(tmp_path, participants=[label])) == ["sub-02_T1w"]
    layout = read_layout(tmp_path, sessions=["ses-a"])
    assert found(layout) == ["sub-01_ses-a_T1w"]
    assert layout.missing == ("sub-02: has no T1w that was asked for",)
    with pytest.raises(InputError, match="no sub-03: did you mean 01, 02"):
        read_layout(tmp_path, participants=["03"])
    with pytest.raises(InputError, match=r"no ses-c: did you mean a, b\?"):
        read_layout(tmp_path, sessions=["c"])


def test_other_suffixes_are_found_on_request(tmp_path: Path) -> None:
    make(tmp_path, *PLAIN)
    layout = read_layout(tmp_path, suffixes=["T2w"])
    assert found(layout) == ["sub-01_ses-b_T2w"]
    assert layout.missing == (
        "sub-01/ses-a: has no T2w that was asked for",
        "sub-02: has no T2w that was asked for",
    )
    assert len(read_layout(tmp_path, suffixes=["T2w", "T1w"]).sources) == 5


def test_a_file_of_filters_chooses_by_entities(tmp_path: Path) -> None:
    make(tmp_path, *PLAIN)
    file = tmp_path / "filter.json"

    def taken(query: dict[str, object]) -> list[str]:
        file.write_text(json.dumps({"t1w": query, "bold": {"task": "rest"}}))
        return found(read_layout(tmp_path, filters=Filters.read(file)))

    assert taken({"run": 2}) == taken({"run": ["02"]}) == ["sub-01_ses-b_run-2_T1w"]
    assert taken({"session": "a", "suffix": "T1w"}) == ["sub-01_ses-a_T1w"]
    assert taken({"session": None, "datatype": "anat"}) == ["sub-02_T1w"]
    assert taken({"extension": "nii"}) == ["sub-01_ses-b_run-1_T1w"]
    assert taken({"run": [None, 1], "ses": ["ses-a", "b"]}) == [
        "sub-01_ses-a_T1w",
        "sub-01_ses-b_run-1_T1w",
    ]
    with pytest.raises(InputError, match=r"unknown entity 'sesion'.*'session'"):
        taken({"sesion": "a"})
    with pytest.raises(InputError, match="run must be a label, a list of labels"):
        taken({"run": [{}]})
    file.write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        Filters.read(file)


def test_what_nobody_has_is_refused_with_the_suffixes_that_there_are(
    tmp_path: Path,
) -> None:
    root = make(tmp_path, *PLAIN, "sub-03/anat/sub-03_FLAIR.nii.gz")
    with pytest.raises(InputError, match=r"has no PDw: give .*: FLAIR, T1w, T2w$"):
        read_layout(root, suffixes=["PDw"], participants=["02"])
    # Others have one, which is no error of who runs a job for each participant.
    layout = read_layout(root, suffixes=["T2w"], participants=["02"])
    assert not layout.sources and len(layout.missing) == 1
    none = Filters({"t1w": {"run": ("7",)}})
    with pytest.raises(InputError, match="no T1w has the entities that are asked for"):
        read_layout(root, filters=none)


def test_images_of_phases_are_not_taken(tmp_path: Path) -> None:
    make(
        tmp_path,
        "sub-01/anat/sub-01_part-mag_T1w.nii.gz",
        "sub-01/anat/sub-01_part-phase_T1w.nii.gz",
    )
    assert found(read_layout(tmp_path)) == ["sub-01_part-mag_T1w"]


def test_what_cannot_be_used_is_a_line_and_the_others_are_found(
    tmp_path: Path,
) -> None:
    make(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.nii",
        "sub-02/anat/sub-02_run-1_T1w.nii.gz",
        "sub-02/anat/sub-02_run-01_T1w.nii.gz",
        "sub-02/anat/sub-02_bogus-1_T1w.nii.gz",
        "sub-03/anat/sub-04_T1w.nii.gz",
        "sub-05/anat/sub-05_T1w.nii.gz",
    )
    (tmp_path / "sub-06" / "anat").mkdir(parents=True)
    link = tmp_path / "sub-06" / "anat" / "sub-06_T1w.nii.gz"
    link.symlink_to("../../.git/annex/objects/MD5E-s1--x.nii.gz")
    layout = read_layout(tmp_path)
    assert found(layout) == ["sub-05_T1w"] and layout.missing == ()
    starts = [
        ("sub-01/anat/sub-01_T1w.nii.gz: ", "has the same entities as"),
        ("sub-01/anat/sub-01_T1w.nii: ", "has the same entities as"),
        ("sub-02/anat/sub-02_bogus-1_T1w.nii.gz: ", "is no name of BIDS"),
        ("sub-02/anat/sub-02_run-01_T1w.nii.gz: ", "run-1_T1w.nii.gz: remove or"),
        ("sub-02/anat/sub-02_run-1_T1w.nii.gz: ", "run-01_T1w.nii.gz: remove or"),
        ("sub-03/anat/sub-04_T1w.nii.gz: ", "named for another participant"),
        ("sub-06/anat/sub-06_T1w.nii.gz: ", "datalad get sub-06/anat"),
    ]
    assert len(layout.problems) == len(starts)
    for problem, (start, text) in zip(layout.problems, starts, strict=True):
        assert problem.startswith(start) and text in problem


def test_who_has_a_scan_as_mgz_alone_is_told_to_convert_it(tmp_path: Path) -> None:
    make(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.mgz",
        "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_T1w.mgz",
        "sub-02/ses-b/anat/sub-02_ses-b_T1w.mgh",
        "sub-03/anat/sub-03_T2w.mgz",
    )
    lacks = "has no T1w that was asked for"
    hint = f"{lacks}, but one as MGZ: convert it to NIfTI, as BIDS has it"
    layout = read_layout(tmp_path)
    assert found(layout) == ["sub-02_ses-a_T1w"] and not layout.problems
    assert layout.missing == (
        *(f"sub-01: {hint}", f"sub-02/ses-b: {hint}"),
        f"sub-03: {lacks}",
    )


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        read_layout(tmp_path / "absent")
    (tmp_path / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii").touch()
    with pytest.raises(InputError, match=r"description.json: is missing.*--skip"):
        read_layout(tmp_path)
    assert found(read_layout(tmp_path, is_checked=False)) == ["sub-01_T1w"]
    description = tmp_path / "dataset_description.json"
    for text, message in (("{", "cannot be read"), ("[]", "must have Name")):
        description.write_text(text)
        with pytest.raises(InputError, match=message):
            read_layout(tmp_path)
    with pytest.raises(InputError, match="has no folder sub-"):
        read_layout(make(tmp_path / "empty", "README"))


def test_two_thousand_participants_take_a_second(tmp_path: Path) -> None:
    for number in range(2000):
        folder = tmp_path / f"sub-{number:04}" / "ses-1" / "anat"
        folder.mkdir(parents=True)
        (folder / f"sub-{number:04}_ses-1_T1w.nii.gz").touch()
    make(tmp_path)
    started_s = time.process_time()
    layout = read_layout(tmp_path)
    # Measured 0.2 s.
    assert time.process_time() - started_s < 2
    assert len(layout.sources) == 2000
