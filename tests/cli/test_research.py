"""`nobrainer research`: what its commands print, and how that reads elsewhere."""

import csv
import io
import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest

from balls import write_ball
from commands import nobrainer_
from nobrainer.cli.study_text import describe_study
from nobrainer.research.folder import JOURNAL
from nobrainer.research.journal import Size, append_rows
from nobrainer.research.space import family_space
from study_rows import (
    CHAMPION,
    DEFAULTS,
    FAILED,
    SETTINGS,
    TEST,
    snapshot,
    study_rows,
)

pytestmark = pytest.mark.slow(seconds=80)


def line_of(number: int, lines: list[str]) -> str:
    (line,) = [line for line in lines if line.startswith(f"{number} ")]
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study's folder with 29 ended runs and a test that was scored."""
    folder = tmp_path / "study"
    (folder / "best").mkdir(parents=True)
    (folder / "report.html").touch()
    space = family_space("bayesian_vnet").to_toml()
    settings = json.dumps(asdict(replace(SETTINGS, space=space)))
    (folder / "study.json").write_text(settings)
    split = {"train": [], "validate": [], "test": []}
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "test.json").write_text(json.dumps(asdict(TEST)))
    rows = study_rows()[:-1]
    size = Size(123456, 1000, 1e9, 1e10)
    curve = tuple((n / 100, n / 125) for n in range(1, 101))
    rows[CHAMPION] = replace(rows[CHAMPION], size=size, curve=curve, note="a, \t\x1b!")
    append_rows(folder / JOURNAL, rows)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_status_prints_all_runs_and_changes_nothing(folder: Path) -> None:
    before = contents(folder)
    result = nobrainer_("research", "status", "--working-dir", folder)
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.stdout
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    table = lines[: lines.index("")]
    numbers = [int(line.split()[0]) for line in table if line[0].isdigit()]
    assert numbers == [*range(29)]
    assert line_of(CHAMPION, lines) == "3 kl=0.001 0.930 champion 3:00 1.50 GB"
    assert f"best model: {folder / 'best'}" in lines
    # The sentences of the page.
    said = " ".join(lines)
    assert "It was chosen by these figures, which therefore flatter it" in said
    assert "From so few subjects the interval is rough, and rather too short." in said
    assert contents(folder) == before

    as_json = nobrainer_("research", "status", "--working-dir", folder, "--json")
    story = json.loads(as_json.stdout)
    assert story["champion"]["run"] == CHAMPION
    assert story["champion"]["n_seeds"] == 2
    assert story["champion"]["validation"]["dice"] == pytest.approx(0.931)
    assert story["baseline"]["validation"]["dice"] == pytest.approx(0.902)
    assert story["spread"]["dice"] == pytest.approx(5e-6**0.5)
    assert story["test"]["difference"]["low"] == 0.02
    assert story["n_runs"] == 29 and story["n_running"] == 0 and story["n_tried"] == 25
    assert [row["verdict"] for row in story["rows"]][:2] == ["beaten by 3", "done"]


def test_running_runs_are_counted_apart(folder: Path) -> None:
    story = describe_study(snapshot(), folder)
    assert (story["n_runs"], story["n_running"]) == (29, 1)
    assert story["test"] is None
    assert set(story["files"]) == {"best model", "report", "journal"}


def test_show_has_the_defaults_beside_the_values(folder: Path) -> None:
    log = folder / "runs" / "0003" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {n}\x1b[2J\n" for n in range(40)))
    result = nobrainer_("research", "show", CHAMPION, "--working-dir", folder)
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.stdout
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for line in (
        "state done: trained and judged",
        "verdict champion",
        "parameters 123,456",
        "run 3 default",
        "base_filters 16 16",
        "kl_weight 0.001 -",
        "Dice 0.9300 0.9000",
        "1 % 0.008",
        "100 % 0.800 " + 32 * "#",
        "line 39\\x1b[2J",
    ):
        assert line in lines
    assert sum(" % 0." in line for line in lines) == 20
    assert "line 29\\x1b[2J" not in lines and "line 30\\x1b[2J" in lines

    failed = nobrainer_("research", "show", 5, "--working-dir", folder).stdout
    assert f"{FAILED[0]} is why\\x1b[31m and more" in failed
    unknown = nobrainer_("research", "show", 29, "--working-dir", folder)
    assert unknown.exit_code == 2
    assert unknown.stderr == (
        f"nobrainer: error: {folder}: has no run 29: its runs are 0 to 28\n"
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json"])
def test_export_round_trips(folder: Path, suffix: str) -> None:
    output = folder.parent / "new" / f"runs{suffix}"
    args = ("research", "export", "--working-dir", folder)
    result = nobrainer_(*args, "--output", output)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{output}\n"
    text = output.read_text()
    if suffix == ".json":
        found = json.loads(text)
    else:
        delimiter = "," if suffix == ".csv" else "\t"
        found = list(csv.DictReader(io.StringIO(text), delimiter=delimiter))
    rows = study_rows()[:-1]
    assert len(found) == len(rows)
    for line, one in zip(found, rows, strict=True):
        assert int(line["run"]) == one.number
        why = "" if one.state == "done" else f"{one.state} is why\\x1b[31m and more"
        assert line["state"] == one.state and line["reason"] == why
        for name in (*DEFAULTS, "kl_weight"):
            value = one.values.get(name)
            there = line[f"value.{name}"]
            assert there == value or there == ("" if value is None else str(value))
        for name in ("dice", "nll", "aurc"):
            there = line[f"figure.{name}"]
            value = float(there) if there not in ("", None) else None
            assert value == one.figures.get(name)
    assert found[CHAMPION]["note"] == "a, \\x1b!"
    if suffix == ".tsv":
        assert nobrainer_(*args).stdout == text

    again = nobrainer_(*args, "--output", output)
    assert again.exit_code == 2 and "exists already" in again.stderr
    assert nobrainer_(*args, "--output", output, "--overwrite").exit_code == 0


def test_export_refuses_other_suffixes(folder: Path) -> None:
    output = folder / "runs.xlsx"
    result = nobrainer_(
        "research", "export", "--working-dir", folder, "--output", output
    )
    assert result.exit_code == 2
    assert "unknown suffix '.xlsx'" in result.stderr and not output.exists()


@pytest.mark.parametrize("command", [("status",), ("show", 0), ("export",)])
def test_a_folder_without_a_study_is_one_line(
    tmp_path: Path, command: tuple[object, ...]
) -> None:
    result = nobrainer_("research", *command, "--working-dir", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"nobrainer: error: {tmp_path}: ")
    assert result.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_run_of_a_finished_study_prints_its_result_again(folder: Path) -> None:
    before = contents(folder)
    args = ("research", "run", "--working-dir", folder, "--epochs", 100)
    result = nobrainer_(*args, "--train-minutes", 20)
    assert result.exit_code == 0, result.stderr
    assert "finished" in result.stderr and result.stderr.count("\n") == 1
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "champion, run 3 baseline, run 0"
    # Over both seeds: (0.930 + 0.932) / 2 and (0.900 + 0.904) / 2.
    assert "validation Dice 0.9310 0.9020" in lines
    assert "test Dice 0.9400 0.9100" in lines
    assert f"report: {folder / 'report.html'}" in lines
    journal = folder / JOURNAL
    assert contents(folder)[journal] == before[journal]
    as_json = json.loads(nobrainer_(*args, "--train-minutes", 20, "--json").stdout)
    assert as_json["test"]["figures"]["champion"]["dice"] == 0.94

    other = nobrainer_(*args, "--train-minutes", 20, "--n-samples", 7)
    assert other.exit_code == 2
    assert (
        "--n-samples=3, now it is 7" in other.stderr and other.stderr.count("\n") == 1
    )


def test_interrupt_is_one_line_and_loses_one_run(tmp_path: Path) -> None:
    pairs = [write_ball(tmp_path, number) for number in range(4)]
    table = tmp_path / "scans.csv"
    lines = [f"{image},{label}\n" for image, label in pairs]
    table.write_text("features,labels\n" + "".join(lines))
    study = tmp_path / "study"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from nobrainer.cli import main; main()"),
            *("research", "run", "--working-dir", study, "--data", table),
            *("--epochs", "100000"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite run in the background of a shell ignores it, and its children do.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    shown = ""
    while "run 0 started: baseline" not in shown:
        line = process.stderr.readline()
        assert line, shown
        shown += line
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert out == "" and "\x1b" not in shown + rest and "Traceback" not in rest
    assert rest.endswith(
        "nobrainer: interrupted in run 0, which is lost: the same command goes on\n"
    )
    args = ("research", "status", "--working-dir", study, "--json")
    story = json.loads(nobrainer_(*args).stdout)
    assert [row["state"] for row in story["rows"]] == ["lost"]
    assert story["n_running"] == 0 and story["champion"] is None


def test_space_prints_a_file_that_run_reads(tmp_path: Path) -> None:
    result = nobrainer_("research", "space", "bayesian_vnet")
    assert result.exit_code == 0, result.stderr
    for name in ("base_filters", "kl_weight", "prior_type", "block_shape"):
        assert name in result.stdout
    near = nobrainer_("research", "space", "bayesian_vent")
    assert near.exit_code == 2 and "did you mean 'bayesian_vnet'" in near.stderr


@pytest.mark.parametrize("option", ["--budget-hours", "--max-experiments"])
def test_nothing_is_no_budget(tmp_path: Path, option: str) -> None:
    args = ("research", "run", "--working-dir", tmp_path / "new", option, 0)
    assert nobrainer_(*args).exit_code == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["run", "status", "show", "export", "space"])
def test_every_help_has_an_example(command: str) -> None:
    result = nobrainer_("research", command, "--help")
    assert f"Examples:\n    nobrainer research {command}" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
