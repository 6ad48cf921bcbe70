"""Tables as BIDS has them: what is read leniently, what is written strictly."""

import math
from pathlib import Path

import pytest

from nobrainer.bids.tables import read_tsv, to_number, write_tsv
from nobrainer.errors import InputError


def test_cells_that_are_missing_are_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_bytes(
        b"\xef\xbb\xbfid\tage\tsite \r\nsub-01\t 30\tA B\r\n\r\nsub-02\t\r\n"
        b"sub-03\tn/a\tC\xc2\x85D\tmore\r\n"
    )
    columns, rows = read_tsv(path)
    assert columns == ["id", "age", "site"]
    assert rows == [
        {"id": "sub-01", "age": "30", "site": "A B"},
        {"id": "sub-02", "age": "n/a", "site": "n/a"},
        {"id": "sub-03", "age": "n/a", "site": "C\x85D"},
    ]


@pytest.mark.parametrize("text", ["", "a\ta\n1\t2\n", "a\t\n"])
def test_a_table_without_a_name_for_each_column_is_refused(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match="must name each column once"):
        read_tsv(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tsv: cannot be read"):
        read_tsv(tmp_path / "none.tsv")
    (tmp_path / "latin.tsv").write_bytes(b"id\tsite\nsub-01\tK\xf6ln\n")
    with pytest.raises(InputError, match=r"latin\.tsv: cannot be read.*UTF-8"):
        read_tsv(tmp_path / "latin.tsv")


def test_what_is_not_known_is_written_as_na() -> None:
    rows = [
        {"a": 1234567.125, "b": True, "c": " tab\tand\nline "},
        {"a": math.nan, "b": None, "c": ""},
        {"a": -math.inf, "b": 7, "d": "not a column"},
    ]
    assert write_tsv(["a", "b", "c"], rows) == (
        "a\tb\tc\n1234567.1\ttrue\ttab and line\nn/a\tn/a\tn/a\nn/a\t7\tn/a\n"
    )


def test_numbers_in_cells() -> None:
    assert to_number(" 1.5 ") == 1.5 and to_number(3) == 3
    for cell in ("n/a", "89+", "inf", "", None):
        assert math.isnan(to_number(cell))
