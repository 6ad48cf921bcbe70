"""Preparing many scans: each problem is named with its file."""

import nibabel as nib
import numpy as np
import pytest

from nobrainer.errors import InputError, list_problems
from nobrainer.processing.dataset import Dataset
from scans import BLOCK, SHAPE, write_scan


def test_scans_of_a_wrong_unit_are_all_named(dataset, tmp_path):
    pairs = [(subject.image, subject.label) for subject in dataset.data]
    for unit in ("micron", "meter"):
        for name in ("image", "label"):
            image = nib.load(pairs[0][name == "label"])
            image.header.set_xyzt_units(unit)
            nib.save(image, tmp_path / f"{unit}-{name}.nii")
        pairs.append((tmp_path / f"{unit}-image.nii", tmp_path / f"{unit}-label.nii"))
    mixed = Dataset.from_files(pairs).binarize().spacing((1.0, 1.0, 1.0))
    with pytest.raises(InputError) as caught:
        mixed.prepare()
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "micron-label.nii: is" in lines[0] and "micrometre" in lines[0]
    assert "meter-label.nii: is" in lines[1] and "metre" in lines[1]


def test_every_bad_file_is_named_in_one_error(pairs, tmp_path):
    image = np.random.default_rng(0).random((6, 6, 6)).astype(np.float32)
    zeros = np.zeros((6, 6, 6), np.uint8)
    holed = image.copy()
    holed[2, 2, 2] = np.inf
    shifted = np.eye(4)
    shifted[1, 3] = 5

    def save(name, data, affine=None):
        path = tmp_path / name
        nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
        return path

    def raw(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    whole = save("whole.nii.gz", image).read_bytes()
    labels = save("zeros.nii", zeros)
    bad = {
        "empty.nii.gz": (raw("empty.nii.gz", b""), labels),
        "cut.nii.gz": (raw("cut.nii.gz", whole[: len(whole) // 2]), labels),
        "text.nii": (raw("text.nii", b"hello"), labels),
        "4d.nii": (save("4d.nii", np.stack([image] * 2, -1)), labels),
        "infinite.nii": (save("infinite.nii", holed), labels),
        "flat.nii": (save("flat.nii", zeros), labels),
        "high.nii": (save("a.nii", image), save("high.nii", zeros + 2)),
        "minus.nii": (save("b.nii", image), save("minus.nii", zeros - np.int16(1))),
        "half.nii": (save("c.nii", image), save("half.nii", zeros + np.float32(0.5))),
        "wide.nii": (save("d.nii", image), save("wide.nii", np.pad(zeros, 1))),
        "moved.nii": (save("e.nii", image), save("moved.nii", zeros, shifted)),
    }
    dataset = Dataset.from_files([pairs[0], *bad.values(), pairs[1]])
    with pytest.raises(InputError) as caught:
        dataset.loader()
    lines = str(caught.value).splitlines()
    # The two good pairs hold label 9999 and are not binarized.
    assert len(lines) == len(bad) + 1
    for name, line in zip(bad, lines[1:], strict=True):
        assert str(tmp_path / name) in line
    assert lines[0] == (
        f"{pairs[0][1]}: label value 9999 is not below n_classes=2: give "
        "n_classes=10000 or more, or binarize or relabel (and 1 other: "
        f"{pairs[1][1]})"
    )


def test_a_problem_that_many_files_have_is_said_once():
    problems = [(name, "no labels") for name in "abcdef"]
    problems.insert(2, ("x", "cut short"))
    assert list_problems(problems).splitlines() == [
        "a: no labels (and 5 others: b, c, d and 2 more)",
        "x: cut short",
    ]
    scans = [(np.arange(8.0).reshape(2, 2, 2), np.eye(4))] * 8
    values = np.full((2, 2, 2), 45)
    dataset = Dataset.from_files([(scan, (values, np.eye(4))) for scan in scans])
    with pytest.raises(InputError) as caught:
        dataset.prepare()
    (line,) = str(caught.value).splitlines()
    assert line.startswith("files[0]: array: label value 45 is not below n_classes=2")
    assert line.endswith("(and 7 others: files[1], files[2], files[3] and 4 more)")


def test_freesurfers_values_without_classes_lead_to_its_scheme():
    scan = np.arange(8.0).reshape(2, 2, 2), np.eye(4)
    dataset = Dataset.from_files([(scan, (np.full((2, 2, 2), 2035), np.eye(4)))])
    with pytest.raises(InputError, match="FreeSurfer's values, give relabel=aseg"):
        dataset.prepare()


def test_bad_arrays_are_named_by_their_place():
    good = np.arange(27.0).reshape(3, 3, 3), np.eye(4)
    flat = np.zeros((3, 3, 3)), np.eye(4)
    with pytest.raises(InputError, match=r"^files\[1\]: array: constant"):
        Dataset.from_files([{"image": good}, {"image": flat}]).prepare()


def test_spacing_is_the_median_of_the_scans(tmp_path):
    pairs = [
        write_scan(tmp_path, f"sub-{n}", spacing=mm) for n, mm in enumerate((1, 1, 2))
    ]
    dataset = Dataset.from_files(pairs, BLOCK).binarize()
    assert dataset.preprocess.spacing_mm == (1, 1, 1)
    shapes = [prepared.image.shape for prepared in dataset.prepare()]
    assert shapes == [SHAPE, SHAPE, tuple(2 * n for n in SHAPE)]
