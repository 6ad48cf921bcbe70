"""Folders of results: what made them, runs that were interrupted, and runs again."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

import nobrainer as nb
from balls import write_ball
from nobrainer.cli import main
from nobrainer.cli.results import Results
from nobrainer.errors import InputError
from nobrainer.provenance import Method
from nobrainer.provenance import Result as Record

SCANS = range(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Balls with labels, `scans.csv`, and two models: `model` and `other`."""
    folder = tmp_path_factory.mktemp("results")
    pairs = [write_ball(folder, number) for number in SCANS]
    with (folder / "scans.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("features", "labels"), *pairs])
    dataset = nb.Dataset.from_files(pairs, (16, 16, 16)).batch(2).patches(per_volume=2)
    for seed, name in enumerate(("model", "other")):
        model = nb.Segmentation("bayesian_vnet", {"base_filters": 1, "levels": 1})
        model.fit(dataset, seed=seed, verbose=False).save(folder / name)
    return folder


def nobrainer_(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def scan(folder: Path, number: int) -> Path:
    return folder / f"sub-{number}_T1w.nii"


def run(
    command: str, folder: Path, out: Path, *options: object, numbers=SCANS, n_samples=2
) -> Result:
    files = [scan(folder, number) for number in numbers]
    model = () if "--model" in options else ("--model", folder / "model")
    return nobrainer_(
        *(command, *files, *model, "--output-dir", out, "--n-samples", n_samples),
        *options,
    )


def said(result: Result) -> list[str]:
    """What is said on standard error besides the progress and how scans look."""
    lines = [line.removeprefix("nobrainer: ") for line in result.stderr.splitlines()]
    return [line for line in lines if line.startswith("error: ") or "done" in line]


def contents(out: Path) -> dict[str, bytes]:
    """The results in a folder, without the records, in which times stand."""
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


def stamps(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


def record_of(out: Path, number: int) -> Path:
    return out / "provenance" / f"sub-{number}_T1w.json"


def unfinish(path: Path) -> None:
    """Make a record that of work which was killed."""
    record = Record.from_json(path.read_text())
    assert record.ended
    path.write_text(replace(record, ended="", data={}).to_json())


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of commands that nothing has disturbed."""
    folders = {}
    for command in ("predict", "qc"):
        folders[command] = tmp_path_factory.mktemp("whole") / command
        result = run(command, folder, folders[command])
        assert result.exit_code == 0, result.stderr
    return folders


# --- what made it


def test_a_folder_says_which_model_made_it_and_from_which_files(
    folder: Path, whole: dict[str, Path]
) -> None:
    out = whole["predict"]
    method = json.loads((out / "provenance.json").read_text())
    sums = (folder / "model" / "SHA256SUMS").read_bytes()
    assert method == {
        "command": "predict",
        "version": nb.__version__,
        "model": "model",
        "model_sha256": hashlib.sha256(sums).hexdigest(),
        "network": "bayesian_vnet",
        "n_samples": 2,
        "seed": 0,
        "precision": "float32",
        "coverage": None,
        "options": {"class_numbers": False},
        "format_version": 1,
    }
    record = Record.from_json(record_of(out, 1).read_text())
    data = scan(folder, 1).read_bytes()
    (of_input,) = record.inputs
    assert of_input.name == "sub-1_T1w.nii"
    assert of_input.sha256 == hashlib.sha256(data).hexdigest()
    assert of_input.size_bytes == len(data)
    assert record.method.to_json() == (out / "provenance.json").read_text()
    assert record.started <= record.ended and record.device
    written = {f"sub-1_T1w_{kind}" for kind in ("label.nii.gz", "entropy.nii.gz")}
    assert written < set(record.files) and len(record.files) == 5
    assert not [p for p in out.rglob(".*") if p.is_file()]


def test_the_coverage_of_the_intervals_is_said(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "held-out.csv"
    pairs = [write_ball(tmp_path, number) for number in range(4, 8)]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("features", "labels"), *pairs])
    calibrated = tmp_path / "calibrated"
    done = nobrainer_(
        *("calibrate", "--data", table, "--model", folder / "model", "--n-samples", 2),
        *("--output-dir", calibrated, "--coverage", 0.75),
    )
    assert done.exit_code == 0, done.stderr
    out = tmp_path / "out"
    assert run("qc", folder, out, "--model", calibrated, numbers=[0]).exit_code == 0
    method = Method.from_json((out / "provenance.json").read_text())
    assert method.coverage == 0.75
    columns = json.loads((out / "structures.json").read_text())
    for end in ("low", "high"):
        words = columns[f"conformal_{end}_mm3"]["Description"]
        assert "at least 75 % have their true volume inside" in words
    # Intervals are for the number of draws that they were fitted with.
    few = tmp_path / "few"
    run("predict", folder, few, "--model", calibrated, numbers=[0], n_samples=3)
    assert Method.from_json((few / "provenance.json").read_text()).coverage is None


@pytest.mark.parametrize("command", ["predict", "qc"])
@pytest.mark.parametrize(
    ("options", "n_samples", "words"),
    [
        (("--seed", 7), 2, "seed 0 there, 7 now"),
        ((), 3, "--n-samples 2 there, 3 now"),
        (("--model", "other"), 2, "model model (sha256 "),
    ],
)
def test_results_of_another_method_are_not_mixed_in(
    command: str,
    options: tuple[object, ...],
    n_samples: int,
    words: str,
    folder: Path,
    whole: dict[str, Path],
) -> None:
    out, before = whole[command], stamps(whole[command])
    options = tuple(folder / o if o == "other" else o for o in options)
    refused = run(command, folder, out, *options, n_samples=n_samples)
    assert refused.exit_code == 2 and refused.stdout == ""
    (line,) = said(refused)
    assert f"{out}: holds results of another method" in line and words in line
    assert "give another --output-dir, or --overwrite" in line
    # To replace a part would leave a mixture.
    part = run(
        *(command, folder, out, *options, "--overwrite"),
        numbers=[0, 1],
        n_samples=n_samples,
    )
    assert part.exit_code == 2
    assert "for 2 scans that are not given" in part.stderr
    assert stamps(out) == before


def test_another_command_another_folder(folder: Path, whole: dict[str, Path]) -> None:
    refused = run("qc", folder, whole["predict"])
    assert (
        refused.exit_code == 2 and "(command predict there, qc now)" in refused.stderr
    )


def test_a_method_that_began_meanwhile_is_not_mixed_with(
    folder: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    method = Method.from_json((whole["predict"] / "provenance.json").read_text())
    image = scan(folder, 0)
    both = [
        Results(tmp_path, one, "cpu", overwrite=False)
        for one in (method, replace(method, seed=7))
    ]
    for results in both:
        results.open(["a"], [])
    with both[0].work("a", [image], []):
        pass
    with (
        pytest.raises(InputError, match="seed 0 there, 7 now"),
        both[1].work("b", [image], []) as work,
    ):
        work.begin()
    assert [path.name for path in (tmp_path / "provenance").glob("*.json")] == [
        "a.json"
    ]
    assert (tmp_path / "provenance.json").read_text() == method.to_json()


def test_another_version_is_another_method(
    folder: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole["qc"], out)
    method = Method.from_json((out / "provenance.json").read_text())
    older = replace(method, version="0.0.1", model="renamed")
    assert method.unlike(replace(method, model="renamed")) == []
    (out / "provenance.json").write_text(older.to_json())
    refused = run("qc", folder, out)
    assert refused.exit_code == 2
    assert f"version 0.0.1 there, {nb.__version__} now" in refused.stderr
    assert run("qc", folder, out, "--overwrite").exit_code == 0
    assert contents(out) == contents(whole["qc"])


def test_a_record_is_read_strictly(whole: dict[str, Path]) -> None:
    text = (whole["qc"] / "provenance.json").read_text()
    with pytest.raises(InputError, match="did you mean 'seed'"):
        Method.from_json(text.replace('"seed"', '"sed"'))
    with pytest.raises(InputError, match=r"provenance\.seed must be int"):
        Method.from_json(text.replace('"seed": 0', '"seed": "0"'))


def test_a_damaged_method_names_its_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text("{")
    refused = run("predict", folder, tmp_path)
    assert refused.exit_code == 2
    assert f"{tmp_path / 'provenance.json'}: " in refused.stderr


def test_rank_and_evaluate_say_it_too(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "next.tsv"
    args = ("--model", folder / "model", "--n-samples", 2)
    files = [scan(folder, number) for number in (2, 0)]
    assert nobrainer_("rank", *files, *args, "--output", table).exit_code == 0
    record = Record.from_json((tmp_path / "next_provenance.json").read_text())
    assert record.method.options == {"strategy": "entropy"}
    assert [one.name for one in record.inputs] == [file.name for file in files]

    out = tmp_path / "test"
    args = ("evaluate", "--data", folder / "scans.csv", *args, "--output-dir", out)
    args = (*args, "--allow-seen")
    first = nobrainer_(*args)
    assert first.exit_code == 0
    path = out / "provenance" / "evaluation.json"
    record = Record.from_json(path.read_text())
    assert [one.name for one in record.inputs][:2] == [
        "sub-0_T1w.nii",
        "sub-0_mask.nii",
    ]
    assert len(record.inputs) == 2 * len(SCANS)
    before = stamps(out)
    again = nobrainer_(*args)
    assert again.exit_code == 0 and again.stdout == first.stdout
    assert said(again) == [
        "the evaluation was done before and is not done again (--overwrite does)"
    ]
    assert stamps(out) == before
    fewer = tmp_path / "fewer.csv"
    rows = (folder / "scans.csv").read_text().splitlines(keepends=True)
    fewer.write_text("".join(rows[:-1]))
    other = nobrainer_(*args, "--data", fewer)
    assert other.exit_code == 2 and "made from 8 files, not from 6" in other.stderr
    mixed = nobrainer_(*args, "--seed", 1)
    assert mixed.exit_code == 2 and "seed 0 there, 1 now" in mixed.stderr
    # One that was killed while it wrote is done again.
    before = (out / "metrics.tsv").read_bytes()
    unfinish(path)
    (out / "metrics.tsv").write_text("half")
    assert nobrainer_(*args).exit_code == 0
    assert (out / "metrics.tsv").read_bytes() == before


# --- again


@pytest.mark.parametrize("command", ["predict", "qc"])
def test_a_scan_keeps_its_name_whatever_it_is_given_with(
    command: str, folder: Path, tmp_path: Path
) -> None:
    files = []
    for number, site in enumerate(("A", "B", "C")):
        (tmp_path / site).mkdir()
        files.append(
            shutil.copy(scan(folder, number), tmp_path / site / "sub-1_T1w.nii")
        )
    out = tmp_path / "out"

    def give(*given: Path) -> list[str]:
        result = nobrainer_(
            *(command, *given, "--model", folder / "model", "--n-samples", 2),
            *("--output-dir", out),
        )
        return [str(result.exit_code), *said(result)]

    def names() -> set[str]:
        return {path.stem for path in (out / "provenance").glob("*.json")}

    assert give(files[0]) == ["0"]
    code, line = give(files[1])
    assert code == "1" and "if it is another scan, give both in one command" in line
    assert give(*files[:2])[0] == "0" and names() == {"sub-1_T1w", "B_sub-1_T1w"}
    code, line = give(files[1])
    assert code == "0" and line.startswith("1 of 1 scans were done before")
    assert give(*files)[0] == "0"
    assert names() == {"sub-1_T1w", "B_sub-1_T1w", "C_sub-1_T1w"}
    if command == "qc":
        assert len((out / "qc.tsv").read_text().splitlines()) == 1 + 3


@pytest.mark.parametrize("command", ["predict", "qc"])
def test_what_is_done_is_skipped_and_what_is_new_is_added(
    command: str, folder: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    first = run(command, folder, out, numbers=[0, 2])
    assert first.exit_code == 0 and said(first) == []
    maps = {n: s for n, s in stamps(out).items() if n.startswith("sub-")}
    again = run(command, folder, out, numbers=[0, 2])
    assert again.exit_code == 0 and again.stdout == first.stdout
    (line,) = said(again)
    assert line.startswith("2 of 2 scans were done before")
    added = run(command, folder, out, numbers=SCANS)
    assert added.exit_code == 0
    assert "2 of 4 scans were done before" in said(added)[0]
    after = stamps(out)
    assert maps == {name: after[name] for name in maps}
    # As if all had been done at once.
    assert contents(out) == contents(whole[command])


def test_a_half_done_scan_is_done_again(
    folder: Path, tmp_path: Path, whole: dict[str, Path]
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
    again = run("predict", folder, out)
    assert again.exit_code == 0, again.stderr
    assert "3 of 4 scans were done before" in said(again)[0]
    assert contents(out) == contents(whole["predict"])


def test_a_record_that_lacks_a_part_is_not_taken_for_done(
    folder: Path, tmp_path: Path
) -> None:
    assert run("qc", folder, tmp_path, numbers=[0]).exit_code == 0
    tables, path = contents(tmp_path), record_of(tmp_path, 0)
    record = json.loads(path.read_text())
    del record["data"]["case"]
    path.write_text(json.dumps(record))
    again = run("qc", folder, tmp_path, numbers=[0])
    assert again.exit_code == 0, again.stderr
    assert "done before" not in again.stderr
    assert contents(tmp_path)["qc.tsv"] == tables["qc.tsv"]
    assert "case" in json.loads(path.read_text())["data"]


def test_a_report_goes_on_too(folder: Path, tmp_path: Path) -> None:
    assert run("report", folder, tmp_path, numbers=[0]).exit_code == 0
    page = tmp_path / "sub-0_T1w.html"
    made, tables = page.stat().st_mtime_ns, contents(tmp_path)
    assert run("report", folder, tmp_path, numbers=[0]).exit_code == 0
    assert page.stat().st_mtime_ns == made
    assert contents(tmp_path)["qc.tsv"] == tables["qc.tsv"]
    unfinish(record_of(tmp_path, 0))
    page.write_text("half")
    added = run("report", folder, tmp_path, numbers=[0, 1])
    assert added.exit_code == 0, added.stderr
    assert page.read_text().startswith("<!DOCTYPE html>")
    index = (tmp_path / "index.html").read_text()
    assert "sub-0_T1w.html" in index and "sub-1_T1w.html" in index
    assert contents(tmp_path)["structures.tsv"].count(b"sub-0_T1w") == 1


def test_of_a_done_scan_only_what_is_missing_is_written(
    folder: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole["predict"], out)
    (out / "sub-1_T1w_label.nii.gz").write_bytes(b"corrected by hand")
    (out / "sub-1_T1w_entropy.nii.gz").unlink()
    assert run("predict", folder, out).exit_code == 0
    assert (out / "sub-1_T1w_label.nii.gz").read_bytes() == b"corrected by hand"
    entropy = contents(whole["predict"])["sub-1_T1w_entropy.nii.gz"]
    assert (out / "sub-1_T1w_entropy.nii.gz").read_bytes() == entropy


def test_a_file_that_is_not_ours_is_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sub-1_T1w_label.nii.gz").write_bytes(b"precious")
    result = run("predict", folder, tmp_path)
    assert result.exit_code == 1
    (line,) = said(result)
    assert "sub-1_T1w_label.nii.gz: exists already" in line
    assert (tmp_path / "sub-1_T1w_label.nii.gz").read_bytes() == b"precious"
    assert (tmp_path / "sub-3_T1w_label.nii.gz").exists()
    assert not (tmp_path / "sub-1_T1w_entropy.nii.gz").exists()
    assert run("predict", folder, tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "sub-1_T1w_label.nii.gz").read_bytes() != b"precious"


@pytest.mark.parametrize("command", ["predict", "qc"])
def test_a_scan_that_has_changed_is_not_taken_for_the_one_done(
    command: str, folder: Path, tmp_path: Path
) -> None:
    copies, out = tmp_path / "copies", tmp_path / "out"
    copies.mkdir()
    for number in (0, 1):
        shutil.copy(scan(folder, number), copies)
    assert run(command, folder, out, numbers=[0, 1]).exit_code == 0
    before = contents(out)
    shutil.copy(scan(folder, 2), scan(copies, 1))
    model = ("--model", folder / "model")
    changed = run(command, copies, out, *model, numbers=[0, 1])
    assert changed.exit_code == 1
    (line,) = [line for line in said(changed) if "error" in line]
    assert f"{scan(copies, 1)}: is not the file that the results" in line
    assert contents(out) == before
    redone = run(command, copies, out, *model, "--overwrite", numbers=[0, 1])
    assert redone.exit_code == 0
    (of_input,) = Record.from_json(record_of(out, 1).read_text()).inputs
    data = scan(folder, 2).read_bytes()
    assert of_input.sha256 == hashlib.sha256(data).hexdigest()


def test_a_scan_that_another_process_is_at_is_left_to_it(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "provenance").mkdir()
    with FileLock(tmp_path / "provenance" / ".sub-1_T1w.lock"):
        result = run("qc", folder, tmp_path)
    assert result.exit_code == 1
    (line,) = said(result)
    assert "another process is at work on sub-1_T1w" in line
    subjects = [row.split("\t")[0] for row in (tmp_path / "qc.tsv").open()]
    assert set(subjects) == {"subject", *(f"sub-{n}_T1w" for n in (0, 2, 3))}
    assert run("qc", folder, tmp_path).exit_code == 0


def test_overwriting_some_rows_keeps_the_others(
    folder: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole["qc"], out)
    assert run("qc", folder, out, "--overwrite", numbers=[1]).exit_code == 0
    assert contents(out) == contents(whole["qc"])


# --- killed

PROGRAM = "from nobrainer.cli import main; main()"
KILLED = """
import os, signal, sys
from nobrainer.io import writing
from nobrainer.cli import main

replace, left = os.replace, int(sys.argv.pop(1))

def replace_or_die(source, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

writing.os.replace = replace_or_die
main()
"""


def test_after_kill_9_the_same_command_ends_as_if_undisturbed(
    folder: Path, tmp_path: Path, whole: dict[str, Path]
) -> None:
    """Killed when it has written eleven files whole and one in part."""
    out = tmp_path / "out"
    files = [scan(folder, number) for number in SCANS]
    args = ("predict", *files, "--model", folder / "model", "--n-samples", 2)
    args = (*args, "--output-dir", out)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "11", *map(str, args)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    assert [p for p in out.rglob(".*.????????*") if p.is_file()]
    again = run("predict", folder, out)
    assert again.exit_code == 0, again.stderr
    assert "1 of 4 scans were done before" in said(again)[0]
    assert contents(out) == contents(whole["predict"])
    assert not [p for p in out.rglob(".*") if p.is_file()]


# --- the machine says no


def test_a_full_device_is_one_line(folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, "info", str(folder / "model")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("nobrainer: error: ") and "No space left" in line


def test_a_name_that_is_too_long_is_one_line(folder: Path, tmp_path: Path) -> None:
    long = tmp_path / f"{'x' * 240}.nii"
    shutil.copy(scan(folder, 0), long)
    result = nobrainer_(
        *("predict", long, scan(folder, 1), "--model", folder / "model"),
        *("--output-dir", tmp_path / "out", "--n-samples", 2),
    )
    assert result.exit_code == 1
    (line,) = said(result)
    assert "File name too long" in line and str(long) in line
    assert (tmp_path / "out" / "sub-1_T1w_label.nii.gz").exists()
