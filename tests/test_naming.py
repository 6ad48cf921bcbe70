"""Whom a path shows, and what scans are called."""

import pytest

from nobrainer.naming import Who, repeats, scan_names, stem, subject_names, subject_of


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".mgh"])
def test_a_stem_has_no_folder_and_no_suffix(suffix):
    assert stem(f"a.b/sub-01.x_T1w{suffix}") == "sub-01.x_T1w"
    assert stem(f"sub-01{suffix.upper()}") == "sub-01"
    assert stem("a/notes.txt") == "notes.txt"
    assert stem(f"a\x1b[2J{suffix}") == "a\\x1b[2J"
    assert scan_names([f"x\x1b/T{suffix}", f"y/T{suffix}"])[0].startswith("x\\x1b")


@pytest.mark.parametrize(
    ("path", "label", "root"),
    [
        ("/d/sub-con-01_T1w.nii.gz", "sub-con-01", "/d"),
        ("/d/sub-con-02.T1w.nii.gz", "sub-con-02", "/d"),
        ("/d/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01", "/d"),
        ("/d/ses-2/sub-01.nii.gz", "sub-01", "/d"),
        ("/d/sub-01_ses-2/mri/T1.mgz", "sub-01", "/d"),
        ("/d/study_sub-01/T1.nii", "sub-01", "/d"),
        ("/d/sub-01/copy_of_sub-02_T1w.nii", "sub-02", "/d/sub-01"),
        ("/d/rawdata/sub-01/T1w.nii", "sub-01", "/d"),
        ("/d/derivatives/sub-01/T1w.nii", "sub-01", "/d"),
        ("/d/derivatives/fs/sub-01/mri/T1.mgz", "sub-01", "/d"),
        ("/d/derivatives/prep/sourcedata/fs/sub-01/mri/T1.mgz", "sub-01", "/d"),
        # Data sets inside a folder of that name are not versions of one.
        ("/rawdata/d/sub-01/T1w.nii", "sub-01", "/rawdata/d"),
        ("/subjects/bert/mri/orig.mgz", "bert", "/subjects"),
        ("/subjects/bert_ses-1/mri/orig.mgz", "bert", "/subjects"),
    ],
)
def test_a_path_names_a_subject_of_a_data_set(path, label, root):
    assert subject_of(path) == Who(label, root)


@pytest.mark.parametrize(
    "path",
    # A label begins a part of a name; FreeSurfer keeps no NIfTI.
    ["/d/pilot_T1w.nii", "/d/nosub-01.nii", "/d/bert/mri/T1.nii", "/mri/T1.mgz"],
)
def test_a_path_may_name_nobody(path):
    assert subject_of(path) is None


def test_labels_of_several_data_sets_are_told_apart():
    paths = ["/x/a/sub-1/T1.nii", "/x/b/sub-1/T1.nii", "/x/b/sub-2.nii", "/x/b/c.nii"]
    paths += ["/x/a/ses-2/sub-1.nii"]
    found = subject_names([subject_of(path) for path in paths])
    assert found == ["a_sub-1", "b_sub-1", "sub-2", None, "a_sub-1"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        # As they are, where that is enough.
        (["a/sub-01_T1w.nii.gz", "b/sub-02_T1w.mgz"], ["sub-01_T1w", "sub-02_T1w"]),
        (["x/T1.nii"], ["T1"]),
        # What only folders say of subject and session comes first.
        (["sub-01/mri/T1.mgz"], ["sub-01_T1"]),
        (["sub-01/ses-2/anat/T1w.nii"], ["sub-01_ses-2_T1w"]),
        (["sub-01/ses-2/sub-01_T1w.nii"], ["sub-01_ses-2_T1w"]),
        (["ses-2/sub-01.nii"], ["sub-01_ses-2"]),
        (["ses-2/T1w.nii"], ["ses-2_T1w"]),
        (
            ["subject-1/mri/T1.mgz", "subject-2/mri/T1.mgz"],
            ["subject-1_T1", "subject-2_T1"],
        ),
        # The nearest folders that differ, and no more.
        (["p1/anat/T1.nii", "p2/anat/T1.nii"], ["p1_T1", "p2_T1"]),
        (
            ["p1/d1/T1.nii", "p1/d2/T1.nii", "p2/d1/T1.nii", "p2/d1/T2.nii"],
            ["p1_d1_T1", "p1_d2_T1", "p2_d1_T1", "T2"],
        ),
        (["A/sub-1/T1.nii", "B/sub-1/T1.nii"], ["A_sub-1_T1", "B_sub-1_T1"]),
        # Not even the path tells these apart.
        (["x/T1.nii", "x/T1.mgz", "x/T1_1.nii"], ["T1_2", "T1_3", "T1_1"]),
        (["array", "array", "files[2]"], ["array_1", "array_2", "files[2]"]),
        (["a_b/c.nii", "a/b_c.nii", "z/c.nii", "z/b_c.nii"], None),
        # Some disks take these for one name.
        (["x/t1.nii", "y/T1.nii"], ["x_t1", "y_T1"]),
    ],
)
def test_every_scan_has_a_name_of_its_own_that_can_be_a_file(paths, names):
    found = scan_names(paths)
    assert len({name.casefold() for name in found}) == len(paths)
    assert all("/" not in name for name in found)
    if names is not None:
        assert found == names
    # The order in which they are given does not change a name that is not a number.
    if not any(name.endswith(("_1", "_2", "_3")) for name in found):
        assert scan_names(paths[::-1]) == found[::-1]


def test_what_a_table_says_tells_scans_apart_before_folders_do():
    paths = ["x/T1.nii", "y/T1.nii", "z/T1.nii", "z/T2.nii"]
    given = [("P/1", "a"), ("P/1", "b"), ("P2", "a"), ("P2", "b")]
    names = ["P-1_a_T1", "P-1_b_T1", "P2_a_T1", "T2"]
    assert scan_names(paths, given) == names


def test_a_file_given_twice_is_named(tmp_path):
    path = tmp_path / "a.nii"
    path.touch()
    (tmp_path / "link.nii").symlink_to(path)
    assert repeats([path, tmp_path / "b.nii"]) == []
    (problem,) = repeats([path, tmp_path / "link.nii"])
    assert problem == f"{tmp_path}/link.nii: given twice: give each scan once"
