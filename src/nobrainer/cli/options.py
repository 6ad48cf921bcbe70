"""Options that several commands share, and how options are gathered into records.

An option that stands alone decorates its command. Options that belong together are the
fields of a frozen record, each annotated with its option, and the command gets the
record:

    @dataclass(frozen=True)
    class Draws:
        n_samples: Annotated[int, click.option("--n-samples", default=10)]
        seed: Annotated[int, click.option("--seed", default=0)]

    @click.command()
    @gather(draws=Draws)
    def calibrate(draws: Draws) -> None: ...
"""

import gc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import click

import nobrainer as nb
from nobrainer.errors import FewerDrawsWarning
from nobrainer.posthoc import DEFAULT_DRAWS, usual_draws

Command = Callable[..., Any]


def gather(**records: type) -> Callable[[Command], Command]:
    """Make a decorator that gives a command the options of records, and fills these.

    Args:
        records: class of each record, a dataclass, by the parameter of the command
            that gets it. The help lists the options in the order of the fields.
    """
    options = {name: _options(record) for name, record in records.items()}

    def decorate(command: Command) -> Command:
        @wraps(command)
        def gathered(**values: Any) -> Any:
            for name, record in records.items():
                values[name] = record(**{one: values.pop(one) for one in options[name]})
            return command(**values)

        # The decorator that is applied last is listed first.
        for of_record in reversed(options.values()):
            for option in reversed(of_record.values()):
                option(gathered)
        return gathered

    return decorate


def _options(record: type) -> dict[str, Callable[[Command], Command]]:
    """The option of each field of a record."""
    hints = get_type_hints(record, include_extras=True)
    return {one.name: hints[one.name].__metadata__[0] for one in fields(record)}


FILES = click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)


def find_model(
    ctx: click.Context, _parameter: click.Parameter, given: str | None
) -> Path | None:
    """The place of the model that a command is given, or of the one in the box.

    Args:
        ctx: the command; one that the shell only completes needs no model, nor does the
            group level of `bids`.
        given: a name, a directory or a file; None takes the model in the box.

    Raises:
        InputError: there is no such model.
    """
    is_group = given is None and ctx.params.get("level") == "group"
    if ctx.resilient_parsing or is_group:
        return None
    # This loads PyTorch. Packages leave no garbage as they are loaded, and to look for
    # it was measured to take an eighth of the time.
    gc.disable()
    try:
        shipped = nb.shipped
    finally:
        gc.enable()
    return shipped.folder_of(shipped.DEFAULT) if given is None else shipped.find(given)


def find_draws(
    ctx: click.Context, _parameter: click.Parameter, given: int | None
) -> int | None:
    """The number of draws that a command is given, or that suits its model.

    Args:
        ctx: the command, whose model is found by now, since `MODEL` stands before.
        given: the number; None takes that with which the model was calibrated.
    """
    place = ctx.params.get("model_dir")
    if given is not None or place is None:
        return given
    # Nobody asked for a number, so that there is nothing to be told; running a command
    # puts back the filters that were there before it.
    warnings.simplefilter("ignore", FewerDrawsWarning)
    if not nb.bundle.is_model(place) or place.is_file():
        # A checkpoint has nothing fitted, and loading will say that there is no model.
        return DEFAULT_DRAWS
    model = nb.bundle.load(place)
    return usual_draws(model.calibration, model.quality)


MODEL = click.option(
    "--model",
    "model_dir",
    metavar="MODEL",
    type=click.Path(),
    callback=find_model,
    help="Directory of a trained model, a checkpoint, or a name that `nobrainer "
    "models` lists.  [default: brain]",
)
LABELLED = click.option(
    "--data",
    "table",
    metavar="CSV",
    required=True,
    type=click.Path(path_type=Path),
    help="Table with the columns features,labels: scans that training has not seen. "
    "Relative paths start from the table's directory.",
)
N_CLASSES = click.option(
    "--n-classes",
    metavar="N",
    type=int,
    help="Classes, with background.  [default: those of --relabel, else 2]",
)
OUTPUT_DIR = click.option(
    "--output-dir",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the results go; made if missing.",
)
THRESHOLD = click.option(
    "--threshold",
    metavar="SCORE",
    type=click.FloatRange(0, 1),
    help="Flag a scan whose score is below it.  [default: what the model's quality "
    "was fitted to, at most 0.8]",
)


def set_threads(
    ctx: click.Context, _parameter: click.Parameter, given: int | None
) -> None:
    """Use the number of threads that a command is given, before PyTorch is loaded."""
    if given is not None and not ctx.resilient_parsing:
        nb.use_threads(given)


THREADS = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    callback=set_threads,
    is_eager=True,
    expose_value=False,
    help="Threads of the processor.  [default: OMP_NUM_THREADS, else one for each core "
    "that the process may use]",
)
OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="Replace results that are there."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True)
class Draws:
    """The draws of the weights behind a result: how many, and the seed of them all."""

    n_samples: Annotated[
        int,
        click.option(
            "--n-samples",
            metavar="N",
            type=click.IntRange(min=1),
            callback=find_draws,
            help="Draws of the weights, fewer where the model cannot make as many.  "
            "[default: as many as the model was calibrated with, else 10]",
        ),
    ]
    seed: Annotated[
        int,
        click.option(
            "--seed",
            metavar="S",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Seed of the draws.",
        ),
    ]
