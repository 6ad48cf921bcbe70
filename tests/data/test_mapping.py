"""Maps from label values to classes, from schemes, files and mappings."""

import numpy as np
import pytest

from nobrainer.data.freesurfer import FREESURFER_NAMES, SCHEMES
from nobrainer.data.labels import LabelTable
from nobrainer.data.mapping import read_mapping
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset

SIZES = {"6-class": 6, "50-class": 50, "115-class": 115, "aseg": 46, "synthseg": 33}


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
    six, fifty, all_ids, aseg, synthseg = map(mapping_for, SCHEMES)
    assert [six[i] for i in (0, 2, 3, 42, 24, 17, 16, 77)] == [0, 1, 2, 2, 3, 4, 5, 0]
    assert [fifty[i] for i in (3, 4, 15, 17, 53, 1035, 2035, 255)] == [
        0, 2, 2, 10, 10, 49, 49, 15,
    ]  # fmt: skip
    assert [all_ids[i] for i in (3, 41, 255, 2035, 192)] == [2, 21, 44, 114, 0]
    assert [aseg[i] for i in (0, 2, 3, 4, 41, 42, 77, 1000, 1035, 2000, 2035)] == [
        0, 1, 2, 3, 21, 22, 38, 2, 2, 22, 22,
    ]  # fmt: skip
    # White matter with lesions and corpus callosum, and ventricles with what is inside.
    assert [synthseg[i] for i in (2, 25, 77, 255, 41, 57, 1035, 2035)] == [
        1, 1, 1, 1, 19, 19, 2, 20,
    ]  # fmt: skip
    assert [synthseg[i] for i in (4, 31, 136, 5, 137, 43, 63, 163, 44, 164)] == [
        3, 3, 3, 4, 4, 21, 21, 21, 22, 22,
    ]  # fmt: skip
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
    with pytest.raises(InputError, match=r"absent\.csv: no such file"):
        mapping_for(tmp_path / "absent.csv")
