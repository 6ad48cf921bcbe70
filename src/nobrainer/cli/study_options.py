"""What `nobrainer research run` is told: its options, gathered into records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click

from nobrainer.cli.options import N_CLASSES


@dataclass(frozen=True)
class Search:
    """What is searched for, on which scans, and for how long."""

    model_family: Annotated[
        str,
        click.option(
            "--model-family",
            metavar="NAME",
            default="bayesian_vnet",
            show_default=True,
            help="Model whose recipe is searched for.",
        ),
    ]
    max_experiments: Annotated[
        int,
        click.option(
            "--max-experiments",
            metavar="N",
            type=click.IntRange(min=1),
            default=15,
            show_default=True,
            help="Recipes to try, the default one among them; repeats do not count.",
        ),
    ]
    budget_hours: Annotated[
        float,
        click.option(
            "--budget-hours",
            metavar="H",
            type=click.FloatRange(min=0, min_open=True),
            default=8.0,
            show_default=True,
            help="End within a minute of this time, whatever a run does.",
        ),
    ]
    table: Annotated[
        Path | None,
        click.option(
            "--data",
            "table",
            metavar="CSV|STORE",
            type=click.Path(path_type=Path),
            help="Table with the columns features,labels: a scan and its labels per "
            "row; or a store, see `nobrainer data convert`.  [default: the sample "
            "data]",
        ),
    ]


@dataclass(frozen=True)
class Classes:
    """How the values of the label files become classes."""

    n_classes: Annotated[int | None, N_CLASSES]
    binarize: Annotated[
        bool,
        click.option(
            "--binarize",
            is_flag=True,
            help="Every label but 0 is foreground; so it is, too, without --relabel.",
        ),
    ]
    relabel: Annotated[
        str | None,
        click.option(
            "--relabel",
            metavar="NAME|FILE",
            help="Classes from label values, as in `nobrainer train`.",
        ),
    ]


@dataclass(frozen=True)
class Judging:
    """Who proposes values, by what runs are compared, and what may change."""

    proposer: Annotated[
        str,
        click.option(
            "--proposer",
            metavar="NAME",
            default="tpe",
            show_default=True,
            help="random, grid, tpe, llm or mixed, see above.",
        ),
    ]
    objectives: Annotated[
        tuple[str, ...],
        click.option(
            "--objective",
            "objectives",
            metavar="NAME",
            multiple=True,
            default=("dice",),
            show_default=True,
            help="dice, nll or aurc on the validation scans; may be repeated.",
        ),
    ]
    pruner: Annotated[
        str,
        click.option(
            "--pruner",
            metavar="NAME",
            default="asha",
            show_default=True,
            help="What ends hopeless runs early: asha, hyperband or none.",
        ),
    ]
    space: Annotated[
        Path | None,
        click.option(
            "--space",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Ranges to search, as `nobrainer research space` prints them.",
        ),
    ]


@dataclass(frozen=True)
class EachRun:
    """How long each run trains, by how much it is judged, and what ends it."""

    train_minutes: Annotated[
        float | None,
        click.option(
            "--train-minutes",
            metavar="M",
            type=click.FloatRange(min=0, min_open=True),
            help="Training time of each run.  [default: a share of the budget]",
        ),
    ]
    epochs: Annotated[
        int | None,
        click.option(
            "--epochs",
            metavar="N",
            type=click.IntRange(min=1),
            help="Epochs of each run, at most.",
        ),
    ]
    n_draws: Annotated[
        int,
        click.option(
            "--n-samples",
            "n_draws",
            metavar="N",
            type=click.IntRange(min=1),
            default=3,
            show_default=True,
            help="Draws of the weights that a run is judged by, fewer where its model "
            "cannot make as many.",
        ),
    ]
    run_minutes: Annotated[
        float | None,
        click.option(
            "--run-minutes",
            metavar="M",
            type=click.FloatRange(min=0, min_open=True),
            help="End a run that takes longer, judging included.",
        ),
    ]
    memory_gb: Annotated[
        float | None,
        click.option(
            "--memory-gb",
            metavar="GB",
            type=click.FloatRange(min=0, min_open=True),
            help="End a run that uses more memory.  [default: what is free]",
        ),
    ]
