"""How a study looks while it runs, and in a table of its runs."""

import io
import re
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from nobrainer.cli.study_view import (
    Board,
    LiveTable,
    PlainLines,
    choose_view,
    count_tried,
    duration,
    summarise_study,
)
from nobrainer.research.judge import Difference, judge
from nobrainer.research.records import Snapshot
from study_rows import (
    CHAMPION,
    FAILED,
    RUNNING,
    SETTINGS,
    TEST,
    row,
    snapshot,
    study_rows,
)


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
