"""A study in words: what the commands of `nobrainer research` print of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import fsum
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from nobrainer.cli.outputs import echo, echo_columns, figure_text
from nobrainer.cli.study_view import (
    clock,
    count_tried,
    default_values,
    draw_runs,
    elapsed_s,
    memory_text,
    summarise_study,
    verdict_of,
)
from nobrainer.errors import in_one_line
from nobrainer.glossary import OF_RUNS
from nobrainer.research.folder import StudyFolder
from nobrainer.research.journal import STATES, Row
from nobrainer.research.judge import OBJECTIVES
from nobrainer.research.records import Snapshot
from nobrainer.research.report.words import summarise_findings

_LOG_LINES = 10
"""Lines of the end of a log that are printed."""
_CURVE_LINES = 20
"""Points of a curve that are printed."""
_MOST_DRAWN = 1000
"""Rows of a table that are printed; laying out more would take long."""
_BAR = 40
"""Letters of a bar that stands for a Dice of 1."""


def describe_study(snapshot: Snapshot, working_dir: Path) -> dict[str, Any]:
    """What `--json` prints about a study: the best run, by how much, and where it lies.

    Args:
        snapshot: the study as it stands.
        working_dir: folder of the study.
    """
    standing, test = snapshot.standing, snapshot.test
    return {
        "family": snapshot.settings.family,
        "proposer": snapshot.settings.proposer,
        "objectives": snapshot.settings.objectives,
        "n_runs": sum(row.state != "running" for row in snapshot.rows),
        "n_running": sum(row.state == "running" for row in snapshot.rows),
        "n_tried": count_tried(snapshot.rows),
        "champion": _describe_run(snapshot, standing.champion),
        "baseline": _describe_run(snapshot, standing.baseline),
        "spread": standing.spread,
        "waiting": standing.waiting,
        "test": None if test is None else asdict(test),
        "files": {
            name: str(path)
            for name, path in StudyFolder(working_dir).find_results().items()
        },
    }


def describe_rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What `--json` prints about the runs of a study: rows with their verdicts."""
    return [
        asdict(row) | {"verdict": verdict_of(row, snapshot.standing)}
        for row in snapshot.rows
    ]


def echo_status(snapshot: Snapshot, working_dir: Path) -> None:
    """Print a row for each run, the summary, the findings and where results lie.

    Args:
        snapshot: the study as it stands.
        working_dir: folder of the study.
    """
    console = Console(highlight=False)
    if snapshot.rows:
        console.print(draw_runs(snapshot, snapshot.rows[-_MOST_DRAWN:]))
    if len(snapshot.rows) > _MOST_DRAWN:
        n_hidden = len(snapshot.rows) - _MOST_DRAWN
        echo(f"{n_hidden} earlier runs are not shown: see `research export`")
    for line in summarise_study(snapshot):
        echo(line)
    _echo_findings(snapshot)
    _echo_files(working_dir)


def _describe_run(snapshot: Snapshot, number: int | None) -> dict[str, Any] | None:
    """Describe a judged run: its values and its figures, averaged over its seeds."""
    if number is None:
        return None
    (row,) = [row for row in snapshot.rows if row.number == number]
    seeds = _seeds(snapshot, number)
    return {
        "run": number,
        "values": row.values,
        "n_seeds": len(seeds),
        "validation": {
            name: fsum(seed[name] for seed in seeds) / len(seeds)
            for name in row.figures
            if all(name in seed for seed in seeds)
        },
    }


def _seeds(snapshot: Snapshot, number: int) -> list[dict[str, float]]:
    """The figures of a run and of its repeats."""
    return [
        row.figures for row in snapshot.rows if row.of == number and row.state == "done"
    ]


def _echo_files(working_dir: Path) -> None:
    for name, path in StudyFolder(working_dir).find_results().items():
        echo(f"{name}: {path}")


def _echo_findings(snapshot: Snapshot) -> None:
    """Print the sentences of the report: what was found, and what is still open."""
    echo()
    for paragraph in summarise_findings(snapshot):
        echo(click.wrap_text(paragraph, 80) + "\n")


def echo_result(snapshot: Snapshot, working_dir: Path) -> None:
    """Print champion and baseline side by side, and where the best model lies.

    Args:
        snapshot: the study as it stands.
        working_dir: folder of the study.
    """
    champion = _describe_run(snapshot, snapshot.standing.champion)
    baseline = _describe_run(snapshot, snapshot.standing.baseline)
    if champion is None or baseline is None:
        echo("no champion: the baseline is not done")
        _echo_files(working_dir)
        return
    pairs = {"validation": (champion["validation"], baseline["validation"])}
    test = snapshot.test
    if test is not None:
        pairs["test"] = (test.figures["champion"], test.figures["baseline"])
    lines = [
        [
            f"{part} {OF_RUNS[name].brief}",
            figure_text(best.get(name, float("nan")), 4),
            figure_text(first.get(name, float("nan")), 4),
        ]
        for part, (best, first) in pairs.items()
        for name in OBJECTIVES
    ]
    header = [f"champion, run {champion['run']}", f"baseline, run {baseline['run']}"]
    echo_columns(["", *header], lines)
    for line in summarise_study(replace(snapshot, remaining_s=None)):
        echo(line)
    _echo_findings(snapshot)
    _echo_files(working_dir)


def echo_run(row: Row, snapshot: Snapshot, working_dir: Path) -> None:
    """Print all that is known about a run, section by section.

    Args:
        row: row of the run.
        snapshot: the study as it stands.
        working_dir: folder of the study, which has the run's log.
    """
    _echo_facts(row, snapshot)
    _echo_values(row, default_values(snapshot.rows))
    if row.figures:
        _echo_figures(row, snapshot)
    if row.curve:
        _echo_curve(row)
    log = StudyFolder(working_dir).log(row.number)
    if log.is_file():
        _echo_title(f"log, its end: {log}")
        text = log.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines()[-_LOG_LINES:]:
            echo(f"  {line}")


def _echo_facts(row: Row, snapshot: Snapshot) -> None:
    facts = {
        "role": f"repeat of {row.of}" if row.role == "repeat" else row.role,
        "state": f"{row.state}: {STATES[row.state]}",
        "verdict": verdict_of(row, snapshot.standing),
        "reason": row.reason,
        "proposed by": row.proposer,
        "note": row.note,
        "seed": str(row.seed),
        "started": row.started,
        "time": clock(elapsed_s(row)),
        "peak memory": memory_text(row.peak_memory_bytes),
        "worker": row.worker,
    }
    if row.size is not None:
        facts["parameters"] = f"{row.size.parameters:,}"
    _echo_title(f"run {row.number}")
    for name, value in facts.items():
        if value:
            echo(f"  {name:<14} {in_one_line(str(value))}")


def _echo_values(row: Row, defaults: Mapping[str, Any]) -> None:
    _echo_title("values")
    names = dict.fromkeys((*row.values, *defaults))
    lines = [
        [f"  {name}", *(_value_text(of.get(name)) for of in (row.values, defaults))]
        for name in names
    ]
    echo_columns(["", f"run {row.number}", "default"], lines)


def _echo_figures(row: Row, snapshot: Snapshot) -> None:
    _echo_title("figures on the validation scans")
    columns = {f"run {row.number}": row.figures}
    for other in snapshot.rows:
        if other.number == snapshot.standing.baseline != row.number:
            columns["baseline"] = other.figures
    lines = [
        [
            f"  {OF_RUNS[name].brief if name in OF_RUNS else name}",
            *(figure_text(of.get(name, float("nan")), 4) for of in columns.values()),
        ]
        for name in row.figures
    ]
    echo_columns(["", *columns], lines)


def _echo_curve(row: Row) -> None:
    _echo_title("validation Dice while it trained")
    last = len(row.curve) - 1
    n_lines = min(_CURVE_LINES, len(row.curve))
    picks = {round(i * last / max(n_lines - 1, 1)) for i in range(n_lines)}
    for share, dice in (row.curve[i] for i in sorted(picks)):
        bar = "#" * round(_BAR * min(max(dice, 0), 1))
        echo(f"  {100 * share:3.0f} %  {dice:.3f}  {bar}")


def _echo_title(text: str) -> None:
    echo(text, bold=True)


def _value_text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')
