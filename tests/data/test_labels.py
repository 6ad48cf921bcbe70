"""The table of the classes: names, colours, and what stands for them in files."""

import re

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex

from nobrainer.data.freesurfer import FREESURFER_NAMES
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError


def test_aseg_is_freesurfers_subcortical_labels_in_order():
    table = LabelTable.for_scheme("aseg")
    below_1000 = [number for number in FREESURFER_NAMES if number < 1000]
    assert list(table.ids) == below_1000 == sorted(below_1000)
    assert table.names[1:] == tuple(FREESURFER_NAMES[i] for i in below_1000[1:])


def test_synthseg_has_the_32_structures_of_its_list_by_their_freesurfer_ids():
    table = LabelTable.for_scheme("synthseg")
    left = (2, 3, 4, 5, 7, 8, 10, 11, 12, 13)
    assert table.ids == (
        *(0, *left, 14, 15, 16, 17, 18, 24, 26, 28),
        *(41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60),
    )
    assert table.names[1:] == tuple(FREESURFER_NAMES[i] for i in table.ids[1:])


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


def test_the_palette_is_that_of_matplotlib():
    tab20, tab20b, tab20c = (
        tuple(to_hex(colormaps[name](position)) for position in range(20))
        for name in ("tab20", "tab20b", "tab20c")
    )
    palette = (*tab20[::2], *tab20[1::2], *tab20b, *tab20c)
    assert LabelTable.generic(61).colors[1:] == palette


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
