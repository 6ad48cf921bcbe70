"""`nobrainer research`: search for a better recipe, and read what came of it."""

from dataclasses import asdict
from pathlib import Path

import click

import nobrainer as nb
from nobrainer.cli.options import JSON, THREADS, gather
from nobrainer.cli.outputs import echo, to_json
from nobrainer.cli.study_options import (
    Classes,
    EachRun,
    Judging,
    Search,
)
from nobrainer.cli.study_table import choose_format, tabulate_runs
from nobrainer.cli.study_text import (
    describe_rows,
    describe_study,
    echo_result,
    echo_run,
    echo_status,
)
from nobrainer.cli.study_view import choose_view
from nobrainer.errors import InputError
from nobrainer.io import write_text
from nobrainer.results import make_directory, refuse_existing

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
@gather(search=Search, classes=Classes, judging=Judging, each_run=EachRun)
@STORAGE
@click.option(
    "--seed",
    metavar="S",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the split, the proposals and the trainings.",
)
@THREADS
@JSON
def run(
    working_dir: Path,
    search: Search,
    classes: Classes,
    judging: Judging,
    each_run: EachRun,
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
                search.model_family,
                data=search.table,
                max_experiments=search.max_experiments,
                budget_hours=search.budget_hours,
                proposer=judging.proposer,
                objectives=judging.objectives,
                space=judging.space,
                storage=storage,
                seed=seed,
                view=view,
                n_classes=classes.n_classes,
                binarize=classes.binarize or None,
                relabel=classes.relabel,
                pruner=judging.pruner,
                **asdict(each_run),
            )
    except KeyboardInterrupt as interrupt:
        # Once more, in words, where it came before there was a run to speak of.
        why = str(interrupt) or "interrupted: the same command goes on"
        raise KeyboardInterrupt(why) from interrupt
    if as_json:
        echo(to_json(describe_study(snapshot, working_dir)))
    else:
        echo_result(snapshot, working_dir)


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
        echo(to_json(story | {"rows": describe_rows(snapshot)}))
        return
    echo_status(snapshot, working_dir)


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
    echo_run(rows[number], snapshot, working_dir)


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
    write = choose_format(output)
    if output is not None:
        refuse_existing([output], overwrite=overwrite)
    text = write(tabulate_runs(nb.research.read(working_dir, storage)))
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
