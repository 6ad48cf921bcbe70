"""What a user may list as a scan, and what is refused at once."""

import os
import warnings

import nibabel as nib
import pytest
import torch

from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from scans import images, write_scan


def test_bad_lists_of_files(pairs, tmp_path):
    image, label = pairs[0]
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "lost.nii.gz").symlink_to("../.git/annex/objects/lost")
    for files, message in (
        ([], "files is empty"),
        (str(image), "must be a list"),
        ([(image, label, label)], r"files\[0\] must be \(image, label\)"),
        ([{"img": image}], r"files\[0\] must have the keys"),
        ([pairs[0], pairs[1], pairs[0]], "sub-0_T1w.nii.gz: given twice"),
        (
            [pairs[0], (image.parent / "." / image.name, label)],
            "sub-0_T1w.nii.gz: given twice",
        ),
        ([(image, tmp_path / "absent.nii")], "absent.nii: no such file"),
        ([(image, tmp_path / "pipe.nii.gz")], "pipe.nii.gz: is a named pipe"),
        ([(image, tmp_path / "lost.nii.gz")], "is a link to .* `git annex get`"),
    ):
        with pytest.raises(InputError, match=message):
            Dataset.from_files(files)


def test_entries_may_be_pairs_dicts_or_objects(pairs):
    (image, label), *_ = pairs
    loaded, labels = nib.load(image), nib.load(label)
    arrays = (loaded.get_fdata(), loaded.affine), (labels.get_fdata(), labels.affine)
    expected = images(Dataset.from_files([pairs[0]]).binarize().loader())
    for entry in (
        {"image": image, "label": label},
        [str(image), str(label)],
        (loaded, labels),
        arrays,
    ):
        result = images(Dataset.from_files([entry]).binarize().loader())
        assert torch.equal(result, expected)
    bare = Dataset.from_files([image])
    assert bare.prepare()[0].label is None
    with pytest.raises(InputError, match=r"sub-0_T1w\.nii\.gz: has no labels"):
        bare.loader()


def test_what_is_given_of_subjects_wins(tmp_path):
    pairs = [write_scan(tmp_path / site / "sub-1", "a") for site in ("A", "B", "C")]
    given = ("one", "one", None)
    entries = [
        {"image": image, "label": label, "subject": subject, "session": None}
        for (image, label), subject in zip(pairs, given, strict=True)
    ]
    dataset = Dataset.from_files(entries)
    assert dataset.subjects == ["one", "one", "C_sub-1"]
    assert [scan.shown for scan in dataset.data] == [
        *("A_one_sub-1_a_T1w", "B_one_sub-1_a_T1w", "C_sub-1_a_T1w")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.split(1)
    with pytest.raises(InputError, match=r"files\[0\]: subject must be text, got 1"):
        Dataset.from_files([entries[0] | {"subject": 1}])
