"""`nobrainer research`: search for a better recipe, and read what came of it."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from math import fsum
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import nobrainer as nb
from nobrainer.cli.options import JSON
from nobrainer.cli.outputs import (
    echo,
    echo_columns,
    figure_text,
    make_directory,
    refuse_existing,
    to_json,
)
from nobrainer.cli.study_view import (
    choose_view,
    clock,
    count_tried,
    default_values,
    draw_runs,
    elapsed_s,
    memory_text,
    summarise_study,
    verdict_of,
)
from nobrainer.errors import InputError, in_one_line, printable
from nobrainer.glossary import OF_RUNS
from nobrainer.io import write_text
from nobrainer.research.journal import JOURNAL, STATES, Row
from nobrainer.research.judge import OBJECTIVES
from nobrainer.research.records import Snapshot
from nobrainer.research.report.words import summarise_findings

WORKING_DIR = click.option(
    "--working-dir",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the study.",
)
STORAGE = click.option(
    "--storage",
    metavar="URL",
    help="Database that the workers share.  [default: a file in the study's folder]",
)
_LOG_LINES = 10
_CURVE_LINES = 20
_MOST_DRAWN = 1000
"""Rows of a table, which takes its time to be laid out."""
_BAR = 40


@click.group()
def research() -> None:
    """Search for a better recipe overnight, and read what came of it.

    \b
    Examples:
      nobrainer research run --working-dir ./research/bayesian_vnet \\
          --model-family bayesian_vnet --max-experiments 15 --budget-hours 8
      nobrainer research status --working-dir ./research/bayesian_vnet
      nobrainer research show 3 --working-dir ./research/bayesian_vnet
      nobrainer research export --working-dir ./research/bayesian_vnet
      nobrainer research space bayesian_vnet
    """


@research.command()
@WORKING_DIR
@click.option(
    "--model-family",
    metavar="NAME",
    default="bayesian_vnet",
    show_default=True,
    help="Model whose recipe is searched for.",
)
@click.option(
    "--max-experiments",
    metavar="N",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Recipes to try, the default one among them; repeats do not count.",
)
@click.option(
    "--budget-hours",
    metavar="H",
    type=click.FloatRange(min=0, min_open=True),
    default=8.0,
    show_default=True,
    help="End within a minute of this time, whatever a run does.",
)
@click.option(
    "--data",
    "table",
    metavar="CSV",
    type=click.Path(path_type=Path),
    help="Table with the columns features,labels: a scan and its labels per row.  "
    "[default: the sample data]",
)
@click.option(
    "--n-classes",
    metavar="N",
    type=int,
    help="Classes, with background.  [default: those of --relabel, else 2]",
)
@click.option(
    "--binarize",
    is_flag=True,
    help="Every label but 0 is foreground; so it is, too, without --relabel.",
)
@click.option(
    "--relabel",
    metavar="NAME|FILE",
    help="Classes from label values, as in `nobrainer train`.",
)
@click.option(
    "--proposer",
    metavar="NAME",
    default="tpe",
    show_default=True,
    help="random, grid, tpe, llm or mixed, see above.",
)
@click.option(
    "--objective",
    "objectives",
    metavar="NAME",
    multiple=True,
    default=("dice",),
    show_default=True,
    help="dice, nll or aurc on the validation scans; may be repeated.",
)
@click.option(
    "--pruner",
    metavar="NAME",
    default="asha",
    show_default=True,
    help="What ends hopeless runs early: asha, hyperband or none.",
)
@click.option(
    "--space",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Ranges to search, as `nobrainer research space` prints them.",
)
@click.option(
    "--train-minutes",
    metavar="M",
    type=click.FloatRange(min=0, min_open=True),
    help="Training time of each run.  [default: a share of the budget]",
)
@click.option(
    "--epochs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Epochs of each run, at most.",
)
@click.option(
    "--n-samples",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Draws of the weights that a run is judged by.",
)
@click.option(
    "--run-minutes",
    metavar="M",
    type=click.FloatRange(min=0, min_open=True),
    help="End a run that takes longer, judging included.",
)
@click.option(
    "--memory-gb",
    metavar="GB",
    type=click.FloatRange(min=0, min_open=True),
    help="End a run that uses more memory.  [default: what is free]",
)
@STORAGE
@click.option(
    "--seed",
    metavar="S",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the split, the proposals and the trainings.",
)
@JSON
def run(
    working_dir: Path,
    model_family: str,
    max_experiments: int,
    budget_hours: float,
    table: Path | None,
    n_classes: int | None,
    binarize: bool,
    relabel: str | None,
    proposer: str,
    objectives: tuple[str, ...],
    pruner: str,
    space: Path | None,
    train_minutes: float | None,
    epochs: int | None,
    n_samples: int,
    run_minutes: float | None,
    memory_gb: float | None,
    storage: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Search for a better recipe until the budget or the experiments are used up.

    The subjects are split into training, validation and a locked test part. Run 0 is
    the default recipe. Each further run trains on what a proposer proposes and is
    judged on the validation scans; it becomes the champion when it beats the last
    one, trained with a second seed, too, by more than the spread between seeds. At
    the end champion and baseline are scored on the test part, once.

    Ctrl-C, or a crash, costs the run that is under way: the same command goes on.
    Started several times at once, it shares the work.

    Proposers: tpe (learns from the runs so far), random, grid, llm (a language model,
    chosen by environment variables), mixed (tpe and llm).

    \b
    Written to DIR:
      best/          the best model, for `nobrainer predict --model DIR/best`
      report.html    a page on what was tried and why the best is the best
      journal.jsonl  a line for each run
      runs/          a log of each run, and the last few models
      study.json, split.json   what was fixed before run 0
      test.json      the scores on the test part

    \b
    Examples:
      nobrainer research run --working-dir ./research/bayesian_vnet \\
          --model-family bayesian_vnet --max-experiments 15 --budget-hours 8
      nobrainer research run --working-dir brains --data scans.csv --binarize
      nobrainer research run --working-dir tissues --data scans.csv \\
          --relabel 6-class --objective dice --objective nll
    """
    try:
        with choose_view() as view:
            snapshot = nb.research.run(
                working_dir,
                model_family,
                data=table,
                max_experiments=max_experiments,
                budget_hours=budget_hours,
                proposer=proposer,
                pruner=pruner,
                objectives=objectives,
                space=space,
                n_classes=n_classes,
                binarize=binarize or None,
                relabel=relabel,
                train_minutes=train_minutes,
                epochs=epochs,
                n_draws=n_samples,
                run_minutes=run_minutes,
                memory_gb=memory_gb,
                storage=storage,
                seed=seed,
                view=view,
            )
    except KeyboardInterrupt as interrupt:
        # Once more, in words, where it came before there was a run to speak of.
        why = str(interrupt) or "interrupted: the same command goes on"
        raise KeyboardInterrupt(why) from interrupt
    if as_json:
        echo(to_json(describe_study(snapshot, working_dir)))
    else:
        _echo_result(snapshot, working_dir)


@research.command()
@WORKING_DIR
@STORAGE
@JSON
def status(working_dir: Path, storage: str | None, as_json: bool) -> None:
    """Show how a study stands: its runs, the champion, the test. Changes nothing.

    \b
    Examples:
      nobrainer research status --working-dir ./research/bayesian_vnet
      nobrainer research status --working-dir ./research/bayesian_vnet --json
    """
    snapshot = nb.research.read(working_dir, storage)
    if as_json:
        story = describe_study(snapshot, working_dir)
        story["rows"] = [
            asdict(row) | {"verdict": verdict_of(row, snapshot.standing)}
            for row in snapshot.rows
        ]
        echo(to_json(story))
        return
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


@research.command()
@click.argument("number", metavar="RUN", type=int)
@WORKING_DIR
@STORAGE
def show(number: int, working_dir: Path, storage: str | None) -> None:
    """Show all there is to know of one run of a study.

    \b
    Examples:
      nobrainer research show 3 --working-dir ./research/bayesian_vnet
    """
    snapshot = nb.research.read(working_dir, storage)
    rows = {row.number: row for row in snapshot.rows}
    if number not in rows:
        there = f"{min(rows)} to {max(rows)}" if rows else "none yet"
        raise InputError(f"{working_dir}: has no run {number}: its runs are {there}")
    _echo_run(rows[number], snapshot, working_dir)


@research.command()
@WORKING_DIR
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A .csv, .tsv or .json file.  [default: print TSV]",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@STORAGE
def export(
    working_dir: Path, output: Path | None, overwrite: bool, storage: str | None
) -> None:
    """Make a table of a study's runs, a row each.

    Values are in columns `value.NAME`, figures on the validation scans in columns
    `figure.NAME`. The curves are in journal.jsonl alone.

    \b
    Examples:
      nobrainer research export --working-dir ./research/bayesian_vnet
      nobrainer research export --working-dir ./research/bayesian_vnet \\
          --output runs.csv
    """
    suffix = ".tsv" if output is None else output.suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"{output}: unknown suffix {suffix!r}: give a name that ends in "
            f"{', '.join(_FORMATS)}"
        )
    if output is not None:
        refuse_existing([output], overwrite=overwrite)
    text = _FORMATS[suffix](tabulate_runs(nb.research.read(working_dir, storage)))
    if output is None:
        echo(text, nl=False)
    else:
        make_directory(output.parent)
        echo(write_text(text, output, overwrite=overwrite))


@research.command()
@click.argument("family")
def space(family: str) -> None:
    """Print the ranges that are searched for a model, as a file to edit (TOML).

    \b
    Examples:
      nobrainer research space bayesian_vnet
      nobrainer research space bayesian_vnet > space.toml
    """
    echo(nb.research.family_space(family).to_toml().rstrip("\n"))


def describe_study(snapshot: Snapshot, working_dir: Path) -> dict[str, Any]:
    """What `--json` prints of a study: who is best, by how much, and where it lies."""
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
        "files": {name: str(path) for name, path in _files(working_dir).items()},
    }


def tabulate_runs(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The runs of a study as rows with the same columns; None for what is not there."""
    rows = snapshot.rows
    values = dict.fromkeys(name for row in rows for name in row.values)
    figures = dict.fromkeys(name for row in rows for name in row.figures)
    return [
        {
            "run": row.number,
            "role": row.role,
            "of": row.of,
            "state": row.state,
            "verdict": verdict_of(row, snapshot.standing),
            "reason": printable(in_one_line(row.reason)),
            "proposer": row.proposer,
            "note": printable(in_one_line(row.note)),
            "seed": row.seed,
            "started": row.started,
            "seconds": row.seconds,
            "peak_memory_bytes": row.peak_memory_bytes,
            "worker": row.worker,
        }
        | {f"value.{name}": row.values.get(name) for name in values}
        | {f"figure.{name}": row.figures.get(name) for name in figures}
        for row in rows
    ]


def _separate(delimiter: str) -> Callable[[Sequence[Mapping[str, Any]]], str]:
    """A writer of delimited text; what is None is left empty."""

    def write(rows: Sequence[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        columns = list(rows[0]) if rows else []
        writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    return write


_FORMATS: dict[str, Callable[[Sequence[Mapping[str, Any]]], str]] = {
    ".csv": _separate(","),
    ".tsv": _separate("\t"),
    ".json": lambda rows: f"{to_json(rows)}\n",
}


def _describe_run(snapshot: Snapshot, number: int | None) -> dict[str, Any] | None:
    """A judged run: its values and its figures, averaged over its seeds."""
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


def _files(working_dir: Path) -> dict[str, Path]:
    """What a study has to show, as far as it is there."""
    places = {"best model": "best", "report": "report.html", "journal": JOURNAL}
    paths = {name: working_dir / place for name, place in places.items()}
    return {name: path for name, path in paths.items() if path.exists()}


def _echo_files(working_dir: Path) -> None:
    for name, path in _files(working_dir).items():
        echo(f"{name}: {path}")


def _echo_findings(snapshot: Snapshot) -> None:
    """Print the sentences of the report: what was found and what cannot be said."""
    echo()
    for paragraph in summarise_findings(snapshot):
        echo(click.wrap_text(paragraph, 80) + "\n")


def _echo_result(snapshot: Snapshot, working_dir: Path) -> None:
    """Print champion and baseline side by side, and where the best model lies."""
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


def _echo_run(row: Row, snapshot: Snapshot, working_dir: Path) -> None:
    """Print a run, section by section."""
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

    defaults = default_values(snapshot.rows)
    _echo_title("values")
    names = dict.fromkeys((*row.values, *defaults))
    lines = [
        [f"  {name}", *(_value_text(of.get(name)) for of in (row.values, defaults))]
        for name in names
    ]
    echo_columns(["", f"run {row.number}", "default"], lines)

    if row.figures:
        _echo_title("figures on the validation scans")
        columns = {f"run {row.number}": row.figures}
        for other in snapshot.rows:
            if other.number == snapshot.standing.baseline != row.number:
                columns["baseline"] = other.figures
        lines = [
            [
                f"  {OF_RUNS[name].brief if name in OF_RUNS else name}",
                *(
                    figure_text(of.get(name, float("nan")), 4)
                    for of in columns.values()
                ),
            ]
            for name in row.figures
        ]
        echo_columns(["", *columns], lines)

    if row.curve:
        _echo_title("validation Dice while it trained")
        last = len(row.curve) - 1
        n_lines = min(_CURVE_LINES, len(row.curve))
        picks = {round(i * last / max(n_lines - 1, 1)) for i in range(n_lines)}
        for share, dice in (row.curve[i] for i in sorted(picks)):
            bar = "#" * round(_BAR * min(max(dice, 0), 1))
            echo(f"  {100 * share:3.0f} %  {dice:.3f}  {bar}")

    log = working_dir / "runs" / f"{row.number:04d}" / "log.txt"
    if log.is_file():
        _echo_title(f"log, its end: {log}")
        text = log.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines()[-_LOG_LINES:]:
            echo(f"  {line}")


def _echo_title(text: str) -> None:
    echo(text, bold=True)


def _value_text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')
