"""Label values to classes, and the names of classes."""

import numpy as np
import pytest

from nobrainer.data.labels import (
    FREESURFER_NAMES,
    SCHEMES,
    LabelTable,
    binarize_ids,
    describe_unknown,
    make_targets,
    mapping_for,
)
from nobrainer.errors import InputError
from nobrainer.recipe import DataConfig


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


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scheme_uses_every_class_once_named(scheme):
    n_classes = int(scheme.split("-")[0])
    mapping = mapping_for(scheme)
    table = LabelTable.for_scheme(scheme)
    assert set(mapping.values()) == set(range(n_classes))
    assert len(table.names) == len(set(table.names)) == n_classes
    assert LabelTable.from_tsv(table.to_tsv()) == table


def test_scheme_entries():
    six, fifty, all_ids = (mapping_for(scheme) for scheme in SCHEMES)
    assert [six[i] for i in (0, 2, 3, 42, 24, 17, 16, 77)] == [0, 1, 2, 2, 3, 4, 5, 0]
    assert [fifty[i] for i in (3, 4, 15, 17, 53, 1035, 2035, 255)] == [
        0, 2, 2, 10, 10, 49, 49, 15,
    ]  # fmt: skip
    assert [all_ids[i] for i in (3, 41, 255, 2035, 192)] == [2, 21, 44, 114, 0]
    assert FREESURFER_NAMES[17] == "Left-Hippocampus"
    assert LabelTable.for_scheme("50-class").names[10] == "Hippocampus"
    assert LabelTable.for_scheme("115-class").names[14] == "Left-Hippocampus"


def test_left_and_right_share_a_class_only_where_the_scheme_merges_them():
    names = {name: number for number, name in FREESURFER_NAMES.items()}
    fifty, all_ids = mapping_for("50-class"), mapping_for("115-class")
    pairs = [
        (number, names[name.replace("Left-", "Right-").replace("-lh-", "-rh-")])
        for number, name in FREESURFER_NAMES.items()
        if name.startswith(("Left-", "ctx-lh-"))
    ]
    assert len(pairs) == 51
    assert all(fifty[left] == fifty[right] for left, right in pairs)
    assert all(all_ids[left] != all_ids[right] for left, right in pairs)


def test_generic_names():
    assert LabelTable.generic(2).names == ("background", "foreground")
    assert LabelTable.generic(4).names[3] == "class-3"


@pytest.mark.parametrize(
    "text", ["", "name\tindex\n", "index\tname\n1\ta\n", "index\tname\n0\n"]
)
def test_from_tsv_refuses_other_text(text):
    with pytest.raises(InputError, match="index and name"):
        LabelTable.from_tsv(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.csv", "id,class,name\n10,1,a\n20,,b\n30,2,c\n"),
        ("map.csv", "10,1\n20,0\n\n30,2\n"),
        ("map.tsv", "id\tclass\n10\t1\n20\t\n30\t2\n"),
    ],
)
def test_mapping_from_a_file(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert mapping_for(path) == {0: 0, 10: 1, 20: 0, 30: 2}
    assert mapping_for(str(path)) == mapping_for(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,class\n10,left\n", "line 2.*'left'"),
        ("10,1\n-3,1\n", "line 2.*'-3'"),
        ("10,1.5\n", "line 1.*'1.5'"),
        ("10\n", "line 1.*two columns"),
        ("id,class\n", "no label mapping"),
    ],
)
def test_bad_mapping_file_is_named(tmp_path, text, message):
    path = tmp_path / "map.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"map.csv.*{message}"):
        mapping_for(path)


def test_unknown_scheme_names_the_near_miss(tmp_path):
    with pytest.raises(InputError, match="did you mean '50-class'"):
        mapping_for("50_class")
    with pytest.raises(InputError, match="cannot read the label mapping"):
        mapping_for(tmp_path / "absent.csv")


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


def test_binarize_ids():
    assert binarize_ids({42, 3}) == (3, 42)
    for bad in ((), (-1,), ("a",), (1.5,)):
        with pytest.raises(InputError):
            binarize_ids(bad)
