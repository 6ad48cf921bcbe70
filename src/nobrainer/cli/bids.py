"""`nobrainer bids`: a BIDS data set, and its derivative."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import click

import nobrainer as nb
from nobrainer import bids as derivative
from nobrainer.cli.bids_group import gather_scans
from nobrainer.cli.bids_machine import Machine
from nobrainer.cli.options import JSON, MODEL, OVERWRITE, THRESHOLD, Draws, gather
from nobrainer.cli.outputs import echo, to_json
from nobrainer.cli.scans import end, judging_method
from nobrainer.processing.progress import ProgressBar

_SEVERAL = ("--participant-label", "--session-label", "--suffix")


class _Command(click.Command):
    """A command some of whose options take several values, as BIDS Apps have it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the name of such an option before each further value."""
        repeated: list[str] = []
        option = ""
        for number, arg in enumerate(args):
            if arg.startswith("-"):
                option = arg if arg in _SEVERAL else ""
            elif option and args[number - 1] != option:
                repeated.append(option)
            repeated.append(arg)
        return super().parse_args(ctx, repeated)


@dataclass(frozen=True)
class Selection:
    """Which scans of the data set are taken."""

    participants: Annotated[
        tuple[str, ...],
        click.option(
            "--participant-label",
            "participants",
            metavar="LABEL...",
            multiple=True,
            help="Only these participants, with or without sub-.",
        ),
    ]
    sessions: Annotated[
        tuple[str, ...],
        click.option(
            "--session-label",
            "sessions",
            metavar="LABEL...",
            multiple=True,
            help="Only these sessions, with or without ses-.",
        ),
    ]
    suffixes: Annotated[
        tuple[str, ...],
        click.option(
            "--suffix",
            "suffixes",
            metavar="SUFFIX...",
            multiple=True,
            default=("T1w",),
            show_default="T1w",
            help="Kinds of scans, such as T2w or FLAIR.",
        ),
    ]
    filter_file: Annotated[
        Path | None,
        click.option(
            "--bids-filter-file",
            "filter_file",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help='Only scans with these entities: JSON such as {"t1w": {"run": 1}}.',
        ),
    ]
    skip_validation: Annotated[
        bool,
        click.option(
            "--skip-bids-validation",
            "skip_validation",
            is_flag=True,
            help="Take a data set without dataset_description.json, and say nothing of "
            "scans whose names are none of BIDS.",
        ),
    ]

    def read(self, bids_dir: Path) -> "derivative.Layout":
        """The scans of a data set that are taken."""
        return derivative.read_layout(
            bids_dir,
            participants=self.participants,
            sessions=self.sessions,
            suffixes=self.suffixes,
            filters=derivative.Filters.read(self.filter_file)
            if self.filter_file
            else None,
            is_checked=not self.skip_validation,
        )


@click.command(cls=_Command)
@click.argument("bids_dir", metavar="BIDS_DIR", type=click.Path(path_type=Path))
@click.argument("out_dir", metavar="OUT_DIR", type=click.Path(path_type=Path))
@click.argument("level", metavar="LEVEL", type=click.Choice(["participant", "group"]))
@gather(selection=Selection)
@MODEL
@gather(draws=Draws)
@click.option(
    "--tissues",
    is_flag=True,
    help="Also write the probabilities of grey matter, white matter and fluid.",
)
@THRESHOLD
@gather(machine=Machine)
@OVERWRITE
@JSON
@click.pass_context
def bids(
    ctx: click.Context,
    bids_dir: Path,
    out_dir: Path,
    level: str,
    selection: Selection,
    model_dir: Path,
    draws: Draws,
    tissues: bool,
    threshold: float | None,
    machine: Machine,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Segment the scans of a BIDS data set; OUT_DIR becomes a BIDS derivative.

    With LEVEL participant, sub-*/[ses-*/]anat gets for every scan the label map with
    its table, the mask of the brain, maps of the uncertainty, the volumes of the
    structures with error bars and a judgement of the quality; sub-*.html are the pages
    to look at.
    With LEVEL group, the scans that are done are gathered into tables, group_*.tsv, and
    a page, group.html, and what is missing is listed.

    Scans that are done are not done again, so that after an interruption, or with new
    scans, the same command goes on. Results of another model, seed, number of draws or
    threshold are not mixed in. BIDS_DIR is never written to, unless OUT_DIR is a folder
    in its derivatives.

    A scan that cannot be used does not stop the others; it is reported at the end, and
    the exit code is 1.

    \b
    Examples:
      nobrainer bids data data/derivatives/nobrainer participant
      nobrainer bids data data/derivatives/nobrainer group
      nobrainer bids data out participant --participant-label 01 02 --n-cpus 2
      nobrainer bids data out participant --suffix FLAIR --bids-filter-file one.json
    """
    layout = selection.read(bids_dir)
    if level == "group":
        gather_scans(layout, out_dir, as_json=as_json)
        return
    machine.check()
    model = derivative.load_model(model_dir)
    method = judging_method("bids", model_dir, model, draws, threshold)
    if tissues:
        nb.tissues.Compartments.require(model.labels_)
    run = derivative.Run.plan(
        derivative.Settings(
            bids_dir.absolute(),
            out_dir.absolute(),
            model_dir.absolute(),
            method,
            model.device,
            threshold=method.options["threshold"],
            has_tissues=tissues,
            overwrite=overwrite,
        ),
        layout,
    )
    for line in run.missing:
        echo(f"nobrainer: {line}", err=True)
    machine.use_work_dir()
    outcomes: list[derivative.Outcome] = []
    try:
        _carry_out(run, machine.engine(run.settings), outcomes)
    except KeyboardInterrupt:
        n_done = sum(one.state == "done" for one in outcomes)
        raise KeyboardInterrupt(
            f"interrupted: {n_done} of {len(run.units)} scans are done; the same "
            "command goes on"
        ) from None
    if as_json:
        echo(to_json(_describe(run, outcomes)))
    else:
        _echo_summary(run, outcomes)
    problems = [*run.problems, *(one.reason for one in outcomes if one.reason)]
    end(ctx, problems)


def _carry_out(
    run: "derivative.Run",
    engine: "derivative.Engine",
    outcomes: "list[derivative.Outcome]",
) -> None:
    """Do the scans under a progress bar.

    Args:
        run: the scans.
        engine: does them.
        outcomes: gets how each has ended.
    """
    with ProgressBar(verbose=True) as bar:
        bar.begin_scans(len(run.units))
        for outcome in run.outcomes(engine):
            outcomes.append(outcome)
            if outcome.was_done:
                bar.pass_over()
            else:
                bar.end_scan(outcome.name, outcome.seconds)


def _describe(
    run: "derivative.Run", outcomes: "Sequence[derivative.Outcome]"
) -> dict[str, Any]:
    """What `--json` prints."""
    names = {unit.names.scan: unit.names for unit in run.units}
    out_dir = run.settings.out_dir
    scans = []
    for one in sorted(outcomes, key=lambda one: one.name):
        story = asdict(one)
        if one.state == "done":
            story |= {
                "labels": str(out_dir / names[one.name].labels()),
                "page": str(out_dir / names[one.name].page),
            }
        scans.append(story)
    return {
        "scans": scans,
        "problems": list(run.problems),
        "missing": list(run.missing),
        "output": str(out_dir),
    }


def _echo_summary(
    run: "derivative.Run", outcomes: "Sequence[derivative.Outcome]"
) -> None:
    """Print how many scans are done, and where to look."""
    n_before = sum(one.was_done for one in outcomes)
    n_done = sum(one.state == "done" for one in outcomes)
    n_running = sum(one.state == "running" for one in outcomes)
    n_failed = len(outcomes) - n_done - n_running + len(run.problems)
    before = f", {n_before} of them before" if n_before else ""
    echo(f"done     {n_done}{before}")
    if n_failed:
        echo(f"failed   {n_failed}, see below")
    if n_running:
        echo(f"running  {n_running}, in other processes: give the command again later")
    if run.missing:
        echo(f"missing  {len(run.missing)}, see above")
    echo(f"output   {run.settings.out_dir}")
    if n_done:
        echo(f"pages    {run.settings.out_dir / 'sub-*.html'}")
