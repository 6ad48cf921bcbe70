"""Label values to classes, and the names and colours of classes."""

import re

import numpy as np
import pytest

from nobrainer.data.labels import (
    FREESURFER_NAMES,
    SCHEMES,
    LabelTable,
    binarize_ids,
    describe_unknown,
    make_targets,
    read_mapping,
)
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from nobrainer.recipe import DataConfig

SIZES = {"6-class": 6, "50-class": 50, "115-class": 115, "aseg": 46}


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


def mapping_for(source):
    return read_mapping(source)[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scheme_uses_every_class_once_named(scheme):
    n_classes = SIZES[scheme]
    mapping, table = read_mapping(scheme)
    assert table == LabelTable.for_scheme(scheme)
    assert set(mapping.values()) == set(range(n_classes))
    assert len(table.names) == len(set(table.names)) == n_classes
    assert LabelTable.from_tsv(table.to_tsv()) == table
    # A class that is one structure maps back to it.
    for index, value in enumerate(table.ids):
        if value is not None:
            assert mapping[value] == index
            if index:
                name = table.names[index].lower()
                assert FREESURFER_NAMES[value].lower().endswith(name)


def test_scheme_entries():
    six, fifty, all_ids, aseg = (mapping_for(scheme) for scheme in SCHEMES)
    assert [six[i] for i in (0, 2, 3, 42, 24, 17, 16, 77)] == [0, 1, 2, 2, 3, 4, 5, 0]
    assert [fifty[i] for i in (3, 4, 15, 17, 53, 1035, 2035, 255)] == [
        0, 2, 2, 10, 10, 49, 49, 15,
    ]  # fmt: skip
    assert [all_ids[i] for i in (3, 41, 255, 2035, 192)] == [2, 21, 44, 114, 0]
    assert [aseg[i] for i in (0, 2, 3, 4, 41, 42, 77, 1000, 1035, 2000, 2035)] == [
        0, 1, 2, 3, 21, 22, 38, 2, 2, 22, 22,
    ]  # fmt: skip
    assert FREESURFER_NAMES[17] == "Left-Hippocampus"
    assert LabelTable.for_scheme("50-class").names[10] == "Hippocampus"
    assert LabelTable.for_scheme("115-class").names[14] == "Left-Hippocampus"


def test_aseg_is_freesurfers_subcortical_labels_in_order():
    table = LabelTable.for_scheme("aseg")
    below_1000 = [number for number in FREESURFER_NAMES if number < 1000]
    assert list(table.ids) == below_1000 == sorted(below_1000)
    assert table.names[1:] == tuple(FREESURFER_NAMES[i] for i in below_1000[1:])


def test_ids_and_colours_of_schemes():
    six, fifty, all_ids = (
        LabelTable.for_scheme(name) for name in ("6-class", "50-class", "115-class")
    )
    assert six.ids == (0, None, None, None, None, 16)
    assert six.colors[:3] == ("#000000", "#f5f5f5", "#cd3e4e")
    assert (fifty.ids[10], fifty.ids[9], fifty.ids[12]) == (None, 16, 24)
    assert fifty.colors[16] == "#196428"  # bankssts, 25 100 40
    assert (all_ids.ids[14], all_ids.colors[14]) == (17, "#dcd814")
    assert (all_ids.ids[31], all_ids.colors[31]) == (53, "#dcd814")


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


def test_names_alone_have_colours_that_differ_and_no_ids():
    table = LabelTable.generic(61)
    assert table.colors[:3] == ("#000000", "#1f77b4", "#ff7f0e")
    assert len(set(table.colors)) == 61
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in table.colors)
    assert table.ids == (None,) * 61
    assert table.colors[:9] == LabelTable.generic(9).colors
    assert LabelTable.generic(62).colors[61] == table.colors[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((("a", "a"),), "must differ, got 'a' twice"),
        ((("a", ""),), "must be text in one line.*got ''"),
        ((("a", "b\tc"),), "must be text in one line"),
        ((("a", "b\n"),), "must be text in one line"),
        ((("a", " b"),), "outer spaces, got ' b'"),
        ((("a", "b"), ("#000000",)), "colors must be one for each of 2 classes, got 1"),
        ((("a", "b"), (), (0, 1, 2)), "ids must be one for each of 2 classes, got 3"),
        ((("a", "b"), ("#000000", "red")), "must be #rrggbb, got 'red'"),
        ((("a", "b"), ("#000000", "#12345")), "must be #rrggbb, got '#12345'"),
    ],
)
def test_bad_tables_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        LabelTable(*fields)


def test_tsv_has_a_row_per_class():
    table = LabelTable(("background", "grey matter"), ("#000000", "#CD3E4E"), (0, None))
    text = "index\tname\tcolor\toriginal\n0\tbackground\t#000000\t0\n"
    assert table.to_tsv() == text + "1\tgrey matter\t#cd3e4e\tn/a\n"
    assert LabelTable.from_tsv(table.to_tsv()) == table


def test_tables_of_two_columns_are_read_as_before():
    text = 'index\tname\n0\tbackground\n1\t"Weiße" Substanz\n'
    table = LabelTable(("background", '"Weiße" Substanz'))
    assert LabelTable.from_tsv(text) == table
    assert LabelTable.from_tsv(table.to_tsv()) == table


@pytest.mark.parametrize(
    "text",
    [
        "",
        "index\tname\n",
        "name\tindex\n",
        "index\tname\n1\ta\n",
        "index\tname\n0\n",
        "index\tname\n0\ta\t#000000\n",
        "index\tname\tcolor\toriginal\n0\ta\t#000000\n",
        "index\tname\tcolor\tmapping\n0\ta\t#000000\t0\n",
        "index\tname\tcolor\n0\ta\t#000000\n",
    ],
)
def test_from_tsv_refuses_other_text(text):
    with pytest.raises(InputError, match="index and name"):
        LabelTable.from_tsv(text)


def test_a_table_of_index_and_name_keeps_its_order_and_closes_gaps(tmp_path):
    path = tmp_path / "dseg.tsv"
    path.write_text(
        "index\tname\tabbreviation\tcolor\n"
        "42\tright cortex\tRC\t#CD3E4E\n"
        "3\tleft cortex\tLC\tn/a\n"
        "17\tleft hippocampus\tLH\t#dcd814\n"
    )
    mapping, table = read_mapping(path)
    assert mapping == {0: 0, 3: 1, 17: 2, 42: 3}
    assert table.names == (
        *("background", "left cortex", "left hippocampus", "right cortex"),
    )
    assert table.ids == (0, 3, 17, 42)
    assert table.colors == ("#000000", "#1f77b4", "#dcd814", "#cd3e4e")


def test_the_id_of_a_class_is_the_value_in_the_label_files(tmp_path):
    # What other columns say of a class, no voxel of the label files holds.
    path = tmp_path / "dseg.tsv"
    path.write_text("index\tname\tmapping\toriginal\n1\tleft\t17\t53\n")
    mapping, table = read_mapping(path)
    assert mapping == {0: 0, 1: 1}
    assert table.ids == (0, 1)


def test_the_table_of_a_model_is_a_table_of_label_values(tmp_path):
    path = tmp_path / "labels.tsv"
    table = LabelTable.for_scheme("50-class")
    path.write_text(table.to_tsv())
    mapping, again = read_mapping(path)
    assert mapping == {index: index for index in range(50)}
    assert (again.names, again.colors) == (table.names, table.colors)
    assert again.values == table.values == again.ids
    path.write_text("index\tname\n0\tnothing\n1\tbrain\n")
    assert read_mapping(path)[1] == LabelTable(("nothing", "brain"), ids=(0, 1))


def test_a_mapping_can_name_its_classes(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text(
        "Original,New,Name,Color\n"
        "2,1,white matter,#ffffff\n"
        "41,1,,\n"
        "77,,,\n"
        "17,3,hippocampus,n/a\n"
        "53,1,white matter\n"
    )
    mapping, table = read_mapping(path)
    assert mapping == {0: 0, 2: 1, 41: 1, 77: 0, 17: 3, 53: 1}
    assert table.names == ("background", "white matter", "class-2", "hippocampus")
    assert table.ids == (0, None, None, 17)
    assert table.colors[1] == "#ffffff"
    assert table.colors[3] == LabelTable.generic(4).colors[3]
    path.write_text("original,new\n2,1\n")
    table = LabelTable(("background", "foreground"), ids=(0, 2))
    assert read_mapping(path) == ({0: 0, 2: 1}, table) == read_mapping({2: 1})


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ({10: 1, 49: 2}, (0, 10, 49)),
        ({10: 2, 49: 1, 77: 0}, (0, 49, 10)),
        # Two label values for one class, or none: no value stands for it.
        ({10: 1, 49: 2, 53: 2}, (0, 1, 2)),
        ({10: 1, 49: 3}, (0, 1, 2, 3)),
        # 0 means background to every viewer, so a class may not have it.
        ({0: 1, 5: 0}, (0, 1)),
        ("6-class", tuple(range(6))),
        ("50-class", tuple(range(50))),
        ("aseg", tuple(number for number in FREESURFER_NAMES if number < 1000)),
    ],
)
def test_a_map_carries_ids_or_numbers_and_never_both(source, values):
    table = read_mapping(source)[1]
    assert table.values == values
    assert table.numbered().values == tuple(range(len(values)))
    rows = [row.split("\t") for row in table.to_dseg().splitlines()]
    assert rows[0][:3] == ["index", "name", "color"]
    assert [int(row[0]) for row in rows[1:]] == list(values)


def test_values_and_classes_turn_into_each_other():
    table = LabelTable.for_scheme("aseg")
    classes = np.arange(46, dtype=np.uint8).reshape(1, 2, 23)
    values = table.to_values(classes)
    # FreeSurfer's 8 is the left cerebellum's cortex.
    assert (table.names[8], values[0, 0, 8]) == ("Left-Caudate", 11)
    assert values.dtype == np.uint8
    again = table.to_classes(values.astype(np.float32))
    assert np.array_equal(again, classes) and again.dtype == np.uint8
    with pytest.raises(InputError, match="holds 9, which stands for none of the 46"):
        table.to_classes(np.array([[[0, 9]]]))
    parcels = LabelTable.for_scheme("115-class").to_values(np.array([[[114, 0]]]))
    assert parcels.tolist() == [[[2035, 0]]] and parcels.dtype == np.uint16


def test_no_label_value_or_class_is_beyond_what_files_hold():
    for bad in ({2**31: 1}, {1: 2**31}, {1: 10**9}):
        with pytest.raises(InputError, match=r"2147483647|most there can be 4095"):
            read_mapping(bad)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,name\n1,a\n1,b\n", "line 3: index 1 stands twice"),
        ("index,name\n-1,a\n", "line 2.*'-1'"),
        ("index,name\n1,\n", "names of classes .* got ''"),
        ("index,name\n1,a\n2,a\n", "got 'a' twice"),
        ("index,name,color\n1,a,blue\n", "#rrggbb, got 'blue'"),
        ("index,name\n", "no label mapping"),
        ("original,new,name\n2,1,a\n41,1,b\n", "line 3: the name of class 1 is 'b'"),
        ("name,original,new\nx,y\n", "line 2.*'y'"),
    ],
)
def test_bad_table_of_classes_is_named(tmp_path, text, message):
    path = tmp_path / "map.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"map.csv: .*{message}"):
        read_mapping(path)


def test_relabel_takes_names_and_colours_from_the_file(tmp_path):
    path = tmp_path / "dseg.tsv"
    path.write_text("index\tname\tcolor\n3\tleft\t#112233\n42\tright\t#445566\n")
    scan = (np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4))
    labels = (np.full((4, 4, 4), 42, np.int16), np.eye(4))
    dataset = Dataset.from_files([(scan, labels)], n_classes=3).relabel(path)
    assert dataset.labels.names == ("background", "left", "right")
    assert dataset.labels.colors == ("#000000", "#112233", "#445566")
    assert dataset.labels.ids == (0, 3, 42)
    assert np.unique(dataset.prepare()[0].label) == [2]
    # The names do not outlive the mapping.
    ids = LabelTable(("background", "class-1", "class-2"), ids=(0, 42, 3))
    assert dataset.relabel({42: 1, 3: 2}).labels == ids


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
    with pytest.raises(InputError, match=r"cannot be read .* label value and class"):
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
    for bad in ((), (-1,), ("a",), (1.5,), (True,), {17: 1}, b"17", "17", 17, True):
        with pytest.raises(InputError, match="binarize"):
            binarize_ids(bad)
