"""The table of scans and labels, as spreadsheets write it."""

import pytest

from nobrainer.data.table import read_table
from nobrainer.errors import InputError


@pytest.mark.parametrize(
    "text",
    [
        "features,labels\na.nii,b.nii\n",
        "features;labels\na.nii;b.nii\n",
        "features\tlabels\na.nii\tb.nii\n",
        "Features,LABELS\na.nii,b.nii\n",
        "features , labels \n a.nii , b.nii \n",
        '"features", "labels"\n"a.nii", "b.nii"\n',
        "\ufefffeatures,labels\r\n\r\na.nii,b.nii\r\n , \r\n",
        "age;labels;features\n30,5;b.nii;a.nii\n",
        "features,labels,subject,session\na.nii,b.nii,n/a,\n",
        "features,labels,subject,session\na.nii,b.nii\n",
    ],
)
def test_tables_of_all_spreadsheets_say_the_same(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8", newline="")
    (entry,) = read_table(path)
    files = {"image": tmp_path / "a.nii", "label": tmp_path / "b.nii"}
    assert entry == files | {"subject": "", "session": "", "split": ""}


def test_subjects_and_sessions_are_read(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("Subject\tsession\tfeatures\tlabels\nP 1\t02\ta,b.nii\t/c.nii\n")
    (entry,) = read_table(path)
    assert (entry["subject"], entry["session"]) == ("P 1", "02")
    assert entry["image"] == tmp_path / "a,b.nii" and str(entry["label"]) == "/c.nii"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na,b\n", "its header is image, label, without the column feat"),
        ("features label\na b\n", "its header is features label, without"),
        ("features,label\na,b\n", "without the column labels"),
        ("", "its header is empty"),
        ("features,labels\n\n", "has no rows"),
        ("features,labels\na,b\n\nc\n", "line 4: needs a path in each"),
        ("features,labels\na,b\nc,\n", "line 3: needs a path in each"),
        ("features,labels\na,b,c\n", "line 2: has 3 cells under 2 column names"),
        ("features,labels,features\na,b,c\n", "has the column features twice"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_encoding_is_no_table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("features,labels\na,b\n", encoding="utf-16")
    with pytest.raises(
        InputError, match=r"is no text in UTF-8: give a CSV or TSV file"
    ):
        read_table(path)


def test_a_table_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(InputError, match=r"nope.csv: no such file: check the path$"):
        read_table(tmp_path / "nope.csv")
