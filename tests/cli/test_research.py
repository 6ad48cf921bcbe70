"""`nobrainer research`: what it shows of a study, and how that reads elsewhere."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from balls import write_ball
from nobrainer.cli import main
from nobrainer.cli.research import describe_study
from nobrainer.cli.study_view import (
    Board,
    LiveTable,
    PlainLines,
    choose_view,
    count_tried,
    duration,
    summarise_study,
)
from nobrainer.research.journal import JOURNAL, STATES, Row, Size, append_rows
from nobrainer.research.judge import Difference, judge
from nobrainer.research.records import FinalResult, Settings, Snapshot
from nobrainer.research.space import family_space

SETTINGS = Settings(
    family="bayesian_vnet",
    space="",
    objectives=("dice",),
    proposer="tpe",
    pruner="asha",
    seed=0,
    train_minutes=20.0,
    epochs=100,
    n_draws=3,
    n_classes=2,
    binarize=True,
    relabel=None,
    n_train=6,
    n_validate=2,
    n_test=2,
    started="2026-01-01T20:00:00+00:00",
    versions={},
)
DEFAULTS = {"base_filters": 16, "learning_rate": 0.001, "block_shape": "32x32x32"}
CHAMPION, RUNNING = 3, 29
FAILED = [state for state in STATES if state not in ("running", "done")]
TEST = FinalResult(
    CHAMPION,
    0,
    "2026-01-02T04:00:00+00:00",
    {
        "champion": {"dice": 0.94, "nll": 0.03, "aurc": 0.008},
        "baseline": {"dice": 0.91, "nll": 0.05, "aurc": 0.012},
    },
    {"champion": {"a": 0.94, "b": 0.94}, "baseline": {"a": 0.90, "b": 0.92}},
    Difference(0.03, 0.02, 0.04, 2),
)


def row(number: int, dice: float | None = None, **others: object) -> Row:
    """A proposal that is done with this Dice, or as the others say."""
    values = DEFAULTS | {"base_filters": 32, "learning_rate": 0.0001 * number}
    plain = Row(number, "proposal", number, values, 0, "tpe", seconds=60.0 * number)
    if dice is not None:
        figures = {"dice": dice, "nll": 0.05 - dice / 100, "aurc": 0.01}
        plain = replace(
            plain, state="done", figures=figures, peak_memory_bytes=1_500_000_000
        )
    return replace(plain, **others)


def study_rows(n_rows: int = 30) -> list[Row]:
    """Baseline and repeat, a champion and its repeat, all ways to fail, one running."""
    rows = [
        row(0, 0.900, role="baseline", values=DEFAULTS, proposer="default"),
        row(1, 0.904, role="repeat", of=0, values=DEFAULTS, seed=1),
        row(2, 0.880),
        row(CHAMPION, 0.930, values=DEFAULTS | {"kl_weight": 1e-3}),
        row(4, 0.932, role="repeat", of=CHAMPION, seed=1),
        *(
            row(5 + i, state=state, reason=f"{state} is why\x1b[31m\nand more")
            for i, state in enumerate(FAILED)
        ),
    ]
    rows += [row(n, 0.8 + n / 10_000) for n in range(len(rows), n_rows - 1)]
    started = datetime.now(UTC) - timedelta(seconds=754)
    curve = ((0.1, 0.61), (0.45, 0.851))
    return [*rows, row(n_rows - 1, curve=curve, started=started.isoformat())]


def snapshot(n_rows: int = 30, **others: object) -> Snapshot:
    rows = tuple(study_rows(n_rows))
    whole = Snapshot(SETTINGS, rows, judge(rows, ("dice",)), 18732.0, n_rows + 5)
    return replace(whole, **others)


def draw(study: Snapshot, width: int, height: int) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=False
    )
    console.print(Board(study))
    lines = console.file.getvalue().splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    return [" ".join(line.split()) for line in lines]


def line_of(number: int, lines: list[str]) -> str:
    (line,) = [line for line in lines if line.startswith(f"{number} ")]
    return line


# --- the table


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_every_run(width: int) -> None:
    lines = draw(snapshot(), width, 100)
    assert lines[0] == "run recipe Dice verdict time memory"
    assert line_of(0, lines) == "0 baseline 0.900 beaten by 3 0:00 1.50 GB"
    assert line_of(1, lines) == "1 repeat of 0 0.904 done 1:00 1.50 GB"
    assert line_of(3, lines) == "3 kl=0.001 0.930 champion 3:00 1.50 GB"
    for number, state in enumerate(FAILED, 5):
        # The learning rate of run 10 is the default one.
        rate = "" if number == 10 else f" lr={0.0001 * number:.3g}"
        text = f"{number} filters=32{rate} - {state} {number}:00 -"
        assert line_of(number, lines) == text
    assert line_of(28, lines) == "28 filters=32 lr=0.0028 0.803 no gain 28:00 1.50 GB"
    running = line_of(RUNNING, lines)
    assert re.fullmatch(r"29 .* 0\.851 running, 45 % 12:3\d -", running)
    # 29 ended; two of them repeats, one lost, one skipped.
    assert (
        "bayesian_vnet, tpe: 25 of 35 recipes tried, 1 running, 5 h 12 min left"
        in lines
    )
    # Two pairs of seeds: the variances of (900, 904) and (930, 932) are 8 and 2.
    assert "champion: run 3, Dice 0.931; baseline: run 0, Dice 0.902" in lines
    assert "spread between seeds: Dice 0.0022" in lines
    assert lines[-1] == "test split: locked"


@pytest.mark.parametrize("width", [80, 120])
def test_of_many_runs_the_champion_and_the_last_are_shown(width: int) -> None:
    lines = draw(snapshot(200), width, 24)
    shown = [int(line.split()[0]) for line in lines if line[0].isdigit()][:-1]
    assert shown[0] == CHAMPION and shown[1:] == [*range(200 - len(shown) + 1, 200)]
    assert len(shown) >= 16
    assert f"{200 - len(shown)} of 200 runs are not shown" in lines


def test_a_wrapped_recipe_loses_nothing() -> None:
    values = {f"a_long_name_{letter}": 0.12345 for letter in "abcdefgh"}
    rows = [*study_rows(6)[:5], *(row(5 + n, 0.8, values=values) for n in range(9))]
    text = " ".join(draw(snapshot(rows=tuple(rows)), 80, 24))
    assert "13 " + " ".join(f"a_long_name_{letter}=0.123" for letter in "ab") in text
    assert line_of(CHAMPION, draw(snapshot(rows=tuple(rows)), 80, 24))
    assert "a_long_name_h=0.123" in text


def test_other_objectives_have_their_columns() -> None:
    names = ("nll", "dice")
    rows = study_rows()
    study = Snapshot(
        replace(SETTINGS, objectives=names), tuple(rows), judge(rows, names)
    )
    lines = draw(study, 80, 100)
    assert lines[0] == "run recipe Dice NLL verdict time memory"
    # 0.05 - 0.93 / 100 = 0.0407
    assert line_of(CHAMPION, lines).startswith("3 kl=0.001 0.930 0.041 champion")
    assert "champion: run 3, NLL 0.041, Dice 0.931; baseline" in " ".join(lines)


def test_a_study_without_a_baseline_or_rows_can_be_drawn() -> None:
    empty = Snapshot(SETTINGS, (), judge((), ("dice",)))
    assert "champion: none before the baseline is done" in draw(empty, 80, 24)
    assert "bayesian_vnet, tpe: 0 tried" in draw(empty, 80, 24)


def test_the_summary_ends_with_the_test() -> None:
    assert summarise_study(snapshot(test=TEST))[-1] == (
        "test split: Dice +0.030 against the baseline's, "
        "95 % interval +0.020 to +0.040 (subjects: 2)"
    )
    one = replace(TEST, difference=replace(TEST.difference, n_subjects=1))
    assert "interval" not in summarise_study(snapshot(test=one))[-1]
    alone = replace(TEST, champion=0, difference=Difference(0.0, 0.0, 0.0, 2))
    assert summarise_study(snapshot(test=alone))[-1] == (
        "test split: Dice 0.910, of the baseline alone"
    )


def test_a_baseline_that_was_lost_and_run_again_counts_once() -> None:
    first = row(0, role="baseline", state="lost")
    assert count_tried([first, row(1, 0.9, role="baseline"), row(2, 0.8)]) == 2
    assert count_tried([first]) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(28799, "7 h 59 min"), (3599, "59 min"), (59.9, "59 s")]
)
def test_durations_are_not_rounded_up(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- views


def test_the_live_table_leaves_the_last_state_and_the_cursor() -> None:
    console = Console(file=io.StringIO(), width=80, height=50, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), LiveTable(console) as view:
        view.say("resumed: [bold]\x1b]0;title\x07")
        view.show(snapshot(6))
        view.show(snapshot(30))
        raise KeyboardInterrupt
    text = console.file.getvalue()
    assert "resumed: [bold]\\x1b]0;title\\x07" in text
    # It is hidden while the table is drawn.
    assert text.rfind("\x1b[?25l") < text.rfind("\x1b[?25h")
    assert "25 of 35 recipes tried" in text.rpartition("\x1b[2K")[2]


def test_plain_lines_are_one_per_event(capsys: pytest.CaptureFixture[str]) -> None:
    rows = study_rows()
    before = [*rows[:6], replace(rows[6], state="running", curve=())]
    with PlainLines() as view:
        view.say("resumed: 6 runs\nare there")
        for _ in range(3):
            view.show(Snapshot(SETTINGS, tuple(before), judge(before, ("dice",))))
        view.tell(rows[6], judge(rows[:7], ("dice",)))
        view.tell(rows[2], judge(rows[:3], ("dice",)))
        view.show(snapshot())
        # Somebody else's run, of which nothing is told.
        ended = replace(rows[-1], state="timeout", reason="1 h")
        last = [*rows[:-1], ended]
        view.show(Snapshot(SETTINGS, tuple(last), judge(last, ("dice",))))
    out, text = capsys.readouterr()
    assert out == "" and "\x1b" not in text
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in text.splitlines()]
    assert lines == [
        "resumed: 6 runs are there",
        "run 6 started: filters=32 lr=0.0006",
        f"run 6 ended after 6:00: filters=32 lr=0.0006: {FAILED[1]}: "
        f"{FAILED[1]} is why\\x1b[31m and more",
        "run 2 ended after 2:00: filters=32 lr=0.0002: "
        "Dice 0.880, NLL 0.041, AURC 0.010: no gain",
        "run 29 started: filters=32 lr=0.0029",
        "run 29 ended after 29:00: filters=32 lr=0.0029: timeout: 1 h",
    ]


def test_without_a_terminal_there_is_no_live_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(choose_view(), PlainLines)


# --- the commands


def nobrainer_(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


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
