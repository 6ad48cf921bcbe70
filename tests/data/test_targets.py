"""Label values become classes: relabelled first, then binarized."""

import nibabel as nib
import numpy as np
import pytest

from nobrainer.data.labels import LabelTable
from nobrainer.data.targets import (
    describe_unknown,
    foreground_values,
    give_sides,
    make_targets,
)
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from nobrainer.recipe import DataConfig
from nobrainer.volume import Volume


def config(n_classes, **changes):
    return DataConfig(
        n_classes=n_classes,
        block_shape=(4, 4, 4),
        batch_size=1,
        patches_per_volume=1,
        foreground=0.5,
        shuffle=False,
        **changes,
    )


def test_white_matter_without_a_side_goes_to_the_nearer_one():
    # Across: left white matter, five voxels of corpus callosum, right white matter.
    row = [2] * 4 + [253] * 5 + [41] * 4
    labels = np.zeros((13, 20, 20), np.int32)
    labels[:] = np.array(row)[:, None, None]
    labels[1, 3, 4] = labels[11, 5, 6] = 77  # lesions on the left and on the right
    affine = np.diag([1.5, 1, 1, 1])
    scan = ((np.arange(labels.size) % 97.0).reshape(labels.shape), affine)

    def classes(orientation):
        there = nib.orientations.axcodes2ornt(orientation)
        pair = [
            nib.Nifti1Image(data, affine).as_reoriented(there)
            for data in (scan[0], labels)
        ]
        dataset = Dataset.from_files([tuple(pair)]).relabel("synthseg")
        (prepared,) = dataset.spacing((1.5, 1, 1)).iterate()
        return prepared.label

    found = classes("RAS")
    assert (found[:6] == 1).all() and (found[7:] == 19).all()
    # The middle is as near to both. Half of 400: 200, with a standard deviation of 10.
    assert abs(np.count_nonzero(found[6] == 19) - 200) < 45
    assert set(np.unique(found[6])) == {1, 19}
    np.testing.assert_array_equal(classes("LPI"), found)
    np.testing.assert_array_equal(classes("SAR"), found)


def test_values_without_a_side_stay_where_a_mapping_of_ones_own_has_them():
    labels = np.array([[[2, 253, 41]]], np.int32)
    volume = Volume(labels, np.eye(4))
    own = config(3, relabel={"0": 0, "2": 1, "253": 1, "41": 2})
    assert give_sides(volume, own) is volume


def test_relabel_then_binarize():
    labels = np.array([[[0, 10, 20, 30, 30]]])
    relabel = {"0": 0, "10": 1, "20": 2}
    classes, unknown = make_targets(labels, config(3, relabel=relabel), None)
    assert classes.tolist() == [[[0, 1, 2, 0, 0]]]
    assert classes.dtype == np.uint8
    assert unknown == {30: 2}
    binary, _ = make_targets(
        labels, config(2, relabel=relabel, binarize="nonzero"), None
    )
    assert binary.tolist() == [[[0, 1, 1, 0, 0]]]
    chosen, _ = make_targets(
        labels, config(2, relabel=relabel, binarize="ids", binarize_ids=(2,)), None
    )
    assert chosen.tolist() == [[[0, 0, 1, 0, 0]]]
    by_function, _ = make_targets(
        labels, config(2, binarize="callable"), lambda values: values >= 20
    )
    assert by_function.tolist() == [[[0, 0, 1, 1, 1]]]


def test_targets_refuse_too_many_classes_and_odd_functions():
    labels = np.array([[[0, 3]]])
    with pytest.raises(InputError, match=r"label value 3 .* n_classes=4 or more"):
        make_targets(labels, config(3), None)
    for odd in (lambda values: values[0], lambda values: values * 0.5):
        with pytest.raises(InputError, match="one boolean per voxel"):
            make_targets(labels, config(2, binarize="callable"), odd)


def test_targets_use_the_smallest_type():
    labels = np.array([[[0, 299]]])
    assert make_targets(labels, config(300), None)[0].dtype == np.uint16


def test_unknown_labels_are_described():
    text = describe_unknown({9999: 1, 17: 20})
    assert text == "17 (FreeSurfer Left-Hippocampus): 20 voxels, 9999: 1 voxels"


def test_foreground_values():
    assert foreground_values({42, 3}) == (3, 42)
    for bad in ((), (-1,), ("a",), (1.5,), (True,), {17: 1}, b"17", "17", 17, True):
        with pytest.raises(InputError, match="binarize"):
            foreground_values(bad)


def test_relabel_refuses_another_number_of_classes(tmp_path):
    path = tmp_path / "dseg.csv"
    path.write_text("index,name\n1,a\n2,b\n")
    scan = (np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4))
    four = Dataset.from_files([(scan, None)], n_classes=4)
    with pytest.raises(
        InputError,
        match=r"dseg\.csv: has 3 classes with background, but n_classes is 4",
    ):
        four.relabel(path)
    with pytest.raises(InputError, match=r"aseg: has 46 classes .* n_classes=46"):
        four.relabel("aseg")
    two = Dataset.from_files([(scan, None)], n_classes=2).relabel(path)
    assert two.labels == LabelTable.generic(2)
    with pytest.raises(InputError, match=r"relabel: has 3 classes .* n_classes is 2"):
        two.prepare()
    assert len(two.binarize().prepare()) == 1


def test_relabel_says_how_many_classes_there_are(tmp_path):
    scan = (np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4))
    values = np.zeros((4, 4, 4), np.int16)
    values[0], values[1] = 17, 53
    base = Dataset.from_files([(scan, (values, np.eye(4)))])
    aseg = base.relabel("aseg")
    assert (base.n_classes, aseg.n_classes, aseg.config.n_classes) == (2, 46, 46)
    assert aseg.labels == LabelTable.for_scheme("aseg")
    assert np.unique(aseg.prepare()[0].label).tolist() == [0, 14, 31]
    # An earlier mapping is replaced; binarize makes two classes, in either order.
    assert aseg.relabel("6-class").n_classes == 6
    for binary in (aseg.binarize({14}), base.binarize({14}).relabel("aseg")):
        assert (binary.n_classes, binary.labels) == (2, LabelTable.generic(2))
        assert binary.prepare()[0].label.sum() == 16
    # Maps of a binarized model are 0 and 1, whatever the one label value was.
    for binary in (base.relabel({17: 1}).binarize(), base.binarize().relabel({17: 1})):
        assert binary.labels.values == (0, 1)
    assert base.relabel({17: 1}).labels.values == (0, 17)
    with pytest.raises(InputError, match="makes every label value background"):
        base.relabel({17: 0})
