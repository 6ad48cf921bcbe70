import os
from pathlib import Path

from nobrainer.json_records import build_record
from nobrainer.provenance import InputFile


def test_a_file_is_read_again_only_where_its_time_differs(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(b"abc")
    was = InputFile.of(path)
    assert was.is_still(path)
    # The same size and time are believed; another time is not.
    path.write_bytes(b"xyz")
    assert was.modified_ns is not None
    os.utime(path, ns=(was.modified_ns, was.modified_ns))
    assert was.is_still(path)
    os.utime(path, ns=(1, 1))
    assert not was.is_still(path)
    path.write_bytes(b"abc")
    os.utime(path, ns=(2, 2))
    assert was.is_still(path) and InputFile.of(path) == was
    path.write_bytes(b"abcd")
    assert not was.is_still(path)


def test_records_without_a_time_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(b"abc")
    now = InputFile.of(path)
    raw = {"name": now.name, "sha256": now.sha256, "size_bytes": 3}
    before = build_record(InputFile, raw, "input")
    assert before == now and before.modified_ns is None and before.is_still(path)
