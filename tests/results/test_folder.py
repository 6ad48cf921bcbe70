"""Folders of results: runs again, runs that were killed, files of others."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from commands import killed_after
from nobrainer.provenance import Method
from nobrainer.provenance import Result as Record
from nobrainer.results import Results
from result_folders import SCANS, contents, record_of, run, said, scan, stamps, unfinish


@pytest.mark.parametrize("command", ["predict", "qc"])
def test_what_is_done_is_skipped_and_what_is_new_is_added(
    command: str, two_models: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    first = run(command, two_models, out, numbers=[0, 2])
    assert first.exit_code == 0 and said(first) == []
    maps = {n: s for n, s in stamps(out).items() if n.startswith("sub-")}
    again = run(command, two_models, out, numbers=[0, 2])
    assert again.exit_code == 0 and again.stdout == first.stdout
    (line,) = said(again)
    assert line.startswith("2 of 2 scans were done before")
    added = run(command, two_models, out, numbers=SCANS)
    assert added.exit_code == 0
    assert "2 of 4 scans were done before" in said(added)[0]
    after = stamps(out)
    assert maps == {name: after[name] for name in maps}
    # As if all had been done at once.
    assert contents(out) == contents(whole[command])


def test_a_half_done_scan_is_done_again(
    two_models: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole["predict"], out)
    unfinish(record_of(out, 1))
    first, *others = Record.from_json(record_of(out, 1).read_text()).files
    (out / first).write_bytes(b"of another time")
    for name in others:
        (out / name).unlink()
    for left in (f".{first}.0123abcd.nii.gz", f".{first}.0123abcd"):
        (out / left).touch()
    again = run("predict", two_models, out)
    assert again.exit_code == 0, again.stderr
    assert "3 of 4 scans were done before" in said(again)[0]
    assert contents(out) == contents(whole["predict"])


def test_a_record_that_lacks_a_part_is_not_taken_for_done(
    two_models: Path, tmp_path: Path
) -> None:
    assert run("qc", two_models, tmp_path, numbers=[0]).exit_code == 0
    tables, path = contents(tmp_path), record_of(tmp_path, 0)
    record = json.loads(path.read_text())
    del record["data"]["case"]
    path.write_text(json.dumps(record))
    again = run("qc", two_models, tmp_path, numbers=[0])
    assert again.exit_code == 0, again.stderr
    assert "done before" not in again.stderr
    assert contents(tmp_path)["qc.tsv"] == tables["qc.tsv"]
    assert "case" in json.loads(path.read_text())["data"]


def test_a_report_goes_on_too(two_models: Path, tmp_path: Path) -> None:
    assert run("report", two_models, tmp_path, numbers=[0]).exit_code == 0
    page = tmp_path / "sub-0_T1w.html"
    made, tables = page.stat().st_mtime_ns, contents(tmp_path)
    assert run("report", two_models, tmp_path, numbers=[0]).exit_code == 0
    assert page.stat().st_mtime_ns == made
    assert contents(tmp_path)["qc.tsv"] == tables["qc.tsv"]
    unfinish(record_of(tmp_path, 0))
    page.write_text("half")
    added = run("report", two_models, tmp_path, numbers=[0, 1])
    assert added.exit_code == 0, added.stderr
    assert page.read_text().startswith("<!DOCTYPE html>")
    index = (tmp_path / "index.html").read_text()
    assert "sub-0_T1w.html" in index and "sub-1_T1w.html" in index
    assert contents(tmp_path)["structures.tsv"].count(b"sub-0_T1w") == 1


def test_of_a_done_scan_only_what_is_missing_is_written(
    two_models: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole["predict"], out)
    (out / "sub-1_T1w_label.nii.gz").write_bytes(b"corrected by hand")
    (out / "sub-1_T1w_entropy.nii.gz").unlink()
    assert run("predict", two_models, out).exit_code == 0
    assert (out / "sub-1_T1w_label.nii.gz").read_bytes() == b"corrected by hand"
    entropy = contents(whole["predict"])["sub-1_T1w_entropy.nii.gz"]
    assert (out / "sub-1_T1w_entropy.nii.gz").read_bytes() == entropy


def test_a_file_that_is_not_ours_is_kept(two_models: Path, tmp_path: Path) -> None:
    (tmp_path / "sub-1_T1w_label.nii.gz").write_bytes(b"precious")
    result = run("predict", two_models, tmp_path)
    assert result.exit_code == 1
    (line,) = said(result)
    assert "sub-1_T1w_label.nii.gz: exists already" in line
    assert (tmp_path / "sub-1_T1w_label.nii.gz").read_bytes() == b"precious"
    assert (tmp_path / "sub-3_T1w_label.nii.gz").exists()
    assert not (tmp_path / "sub-1_T1w_entropy.nii.gz").exists()
    assert run("predict", two_models, tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "sub-1_T1w_label.nii.gz").read_bytes() != b"precious"


@pytest.mark.parametrize("command", ["predict", "qc"])
def test_a_scan_that_has_changed_is_not_taken_for_the_one_done(
    command: str, two_models: Path, tmp_path: Path
) -> None:
    copies, out = tmp_path / "copies", tmp_path / "out"
    copies.mkdir()
    for number in (0, 1):
        shutil.copy(scan(two_models, number), copies)
    assert run(command, two_models, out, numbers=[0, 1]).exit_code == 0
    before = contents(out)
    shutil.copy(scan(two_models, 2), scan(copies, 1))
    model = ("--model", two_models / "model")
    changed = run(command, copies, out, *model, numbers=[0, 1])
    assert changed.exit_code == 1
    (line,) = [line for line in said(changed) if "error" in line]
    assert f"{scan(copies, 1)}: is not the file that the results" in line
    assert contents(out) == before
    redone = run(command, copies, out, *model, "--overwrite", numbers=[0, 1])
    assert redone.exit_code == 0
    (of_input,) = Record.from_json(record_of(out, 1).read_text()).inputs
    data = scan(two_models, 2).read_bytes()
    assert of_input.sha256 == hashlib.sha256(data).hexdigest()


def test_a_scan_that_another_process_is_at_is_left_to_it(
    two_models: Path, tmp_path: Path
) -> None:
    (tmp_path / "provenance").mkdir()
    with FileLock(tmp_path / "provenance" / ".sub-1_T1w.lock"):
        result = run("qc", two_models, tmp_path)
    assert result.exit_code == 1
    (line,) = said(result)
    assert "another process is at work on sub-1_T1w" in line
    subjects = [row.split("\t")[0] for row in (tmp_path / "qc.tsv").open()]
    assert set(subjects) == {"subject", *(f"sub-{n}_T1w" for n in (0, 2, 3))}
    assert run("qc", two_models, tmp_path).exit_code == 0


def test_overwriting_some_rows_keeps_the_others(
    two_models: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole["qc"], out)
    assert run("qc", two_models, out, "--overwrite", numbers=[1]).exit_code == 0
    assert contents(out) == contents(whole["qc"])


def test_after_kill_9_the_same_command_ends_as_if_undisturbed(
    two_models: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    """Killed when it has written eleven files whole and one in part."""
    out = tmp_path / "out"
    files = [scan(two_models, number) for number in SCANS]
    args = ("predict", *files, "--model", two_models / "model", "--n-samples", 2)
    args = (*args, "--output-dir", out)
    killed_after(11, *args)
    assert [p for p in out.rglob(".*.????????*") if p.is_file()]
    again = run("predict", two_models, out)
    assert again.exit_code == 0, again.stderr
    assert "1 of 4 scans were done before" in said(again)[0]
    assert contents(out) == contents(whole["predict"])
    assert not [p for p in out.rglob(".*") if p.is_file()]


def test_only_files_inside_the_folder_are_removed(
    two_models: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    method = Method.from_json((whole["predict"] / "provenance.json").read_text())
    out, other, stale = tmp_path / "out", tmp_path / "other", tmp_path / "out" / "old"
    results = Results(out, method, "cpu", overwrite=True)
    results.open(["a"], [])
    for path in (other, stale):
        path.touch()
    record = Record(method, (), ("old", "../other", str(other)), "cpu", "", "then")
    results.write_record("a", record)
    with results.work("a", [scan(two_models, 0)], [out / "new"]):
        pass
    assert other.exists() and not stale.exists()
    assert results.records()["a"].files == ("new",)


def test_a_failure_is_on_record_until_the_scan_is_done(
    two_models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("predict", two_models, out, numbers=[0]).exit_code == 0
    method = Method.from_json((out / "provenance.json").read_text())
    results = Results(out, method, "cpu", overwrite=False)
    for number in (0, 1):
        results.fail(f"sub-{number}_T1w", "sub-1_T1w.nii: is cut short")
    done, failed = (
        Record.from_json(record_of(out, number).read_text()) for number in (0, 1)
    )
    assert done.ended and not done.data
    assert failed.data == {"failed": "sub-1_T1w.nii: is cut short"}
    assert not failed.ended and list(results.records()) == ["sub-0_T1w"]
    lock = out / "provenance" / ".sub-2_T1w.lock"
    with FileLock(lock):
        assert results.is_at_work("sub-2_T1w")
    # What a killed process leaves says nothing.
    lock.touch()
    assert not results.is_at_work("sub-2_T1w") and not lock.exists()
    assert run("predict", two_models, out, numbers=[0, 1]).exit_code == 0
    assert Record.from_json(record_of(out, 1).read_text()).ended
