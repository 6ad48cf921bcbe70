"""Whom scans show: splits keep people together, guesses are warned of."""

import pytest

from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from scans import write_scan


@pytest.mark.parametrize(("eval_size", "n_eval"), [(0.25, 1), (0.5, 2), (3, 3)])
def test_split_keeps_subjects_together(tmp_path, eval_size, n_eval):
    pairs = [
        write_scan(tmp_path / f"sub-{subject}" / f"ses-{session}", f"scan-{session}")
        for subject in range(4)
        for session in range(2)
    ]
    dataset = Dataset.from_files(pairs).batch(5)
    train, held_out = dataset.split(eval_size, seed=1)

    def subjects(part):
        return {scan.name.split("sub-")[1][0] for scan in part.data}

    assert (len(train), len(held_out)) == (2 * (4 - n_eval), 2 * n_eval)
    assert not subjects(train) & subjects(held_out)
    assert train.batch_size == held_out.batch_size == 5
    again, _ = dataset.split(eval_size, seed=1)
    assert again.data == train.data
    chosen = {frozenset(subjects(dataset.split(1, seed=s)[1])) for s in range(20)}
    assert len(chosen) == 4


def test_split_by_scan_and_without_subject_names(pairs, tmp_path):
    train, held_out = Dataset.from_files(pairs).split(1, by="scan")
    assert (len(train), len(held_out)) == (2, 1)
    unnamed = [write_scan(tmp_path / f"{n}", "t1", offset=n) for n in range(3)]
    with pytest.warns(UserWarning, match=r"3 of 3 scans name no subject"):
        train, held_out = Dataset.from_files(unnamed).split(1)
    assert (len(train), len(held_out)) == (2, 1)


def test_a_scan_of_nobody_leaves_the_subjects_of_the_others(tmp_path):
    pairs = [
        write_scan(tmp_path, f"sub-con-{subject}_ses-{session}")
        for subject in range(4)
        for session in range(2)
    ]
    pairs.append(write_scan(tmp_path, "pilot"))
    dataset = Dataset.from_files(pairs)
    assert len({*dataset.subjects}) == 5
    for seed in range(10):
        expected = r"1 of 9 scans name no subject \(such as pilot_T1w\)"
        with pytest.warns(UserWarning, match=expected) as caught:
            parts = dataset.split(3, seed=seed)
        assert len(caught) == 1 and caught[0].filename == __file__
        train, held_out = ({*part.subjects} for part in parts)
        assert not train & held_out and len(held_out) == 3


def test_one_label_of_two_sites_is_two_people_and_a_warning_says_so(tmp_path):
    pairs = [write_scan(tmp_path / site / "sub-1", "a") for site in ("A", "B")]
    pairs.append(write_scan(tmp_path / "B" / "derivatives" / "fs" / "sub-1", "b"))
    dataset = Dataset.from_files(pairs)
    assert dataset.subjects == ["A_sub-1", "B_sub-1", "B_sub-1"]
    with pytest.warns(UserWarning, match=r"such as sub-1: A_sub-1, B_sub-1"):
        train, held_out = dataset.split(1)
    # Of a part, as of the whole.
    assert sorted({*train.subjects, *held_out.subjects}) == ["A_sub-1", "B_sub-1"]


@pytest.mark.parametrize("eval_size", [0, 1.0, -1, 3, 0.9, True, "half"])
def test_split_refuses_sizes_that_leave_a_part_empty(pairs, eval_size):
    with pytest.raises(InputError, match=r"eval_size"):
        Dataset.from_files(pairs).split(eval_size)
