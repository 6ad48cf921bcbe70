"""The scans of a command: each has a name of its own, and none stops the others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import click

import nobrainer as nb
from nobrainer.cli.options import Draws
from nobrainer.cli.outputs import echo, echo_error
from nobrainer.errors import InputError
from nobrainer.naming import repeats, scan_names
from nobrainer.processing.guard import Batch
from nobrainer.processing.progress import ProgressBar
from nobrainer.results import Method, make_method

T = TypeVar("T")


def name_scans(files: Sequence[Path]) -> dict[Path, str]:
    """Choose the name under which the results of each scan are written.

    Args:
        files: paths of the scans.

    Raises:
        InputError: a scan is given twice.
    """
    if twice := repeats(files):
        raise InputError("\n".join(twice))
    return dict(zip(files, scan_names([str(file) for file in files]), strict=True))


def each_scan(
    names: Mapping[Path, str], act: Callable[[Path, ProgressBar], T], batch: Batch
) -> Iterator[T]:
    """Act on every scan under one progress bar; yield the results as they come.

    Args:
        names: name of each scan, which the bar shows.
        act: called with each path and the bar; returns the result.
        batch: keeps what went wrong with scans that have no result.
    """
    with ProgressBar(verbose=True) as bar:
        bar.begin_scans(len(names))
        for file, name in names.items():
            results = []
            with bar.scan(name), batch.scan(file):
                results.append(act(file, bar))
            with bar.paused():
                yield from results


def judging_method(
    command: str,
    model_dir: Path,
    model: "nb.Segmentation",
    draws: Draws,
    threshold: float | None,
) -> Method:
    """Describe how a command judges scans; its options hold the threshold.

    Args:
        command: name of the command.
        model_dir: folder of the model.
        model: the model.
        draws: the draws of the weights.
        threshold: score, 0 to 1, below which a scan is flagged; None takes that of the
            model.

    Raises:
        InputError: the model's quality was learned with another number of draws, which
            would be an error of every scan.
    """
    model.check_quality(draws.n_samples)
    if threshold is None:
        threshold = nb.quality.usual_threshold(model.quality_)
    return make_method(
        command,
        model_dir,
        model,
        n_samples=draws.n_samples,
        seed=draws.seed,
        options={"threshold": threshold},
    )


def new_batch(ctx: click.Context) -> Batch:
    """A batch of scans; with `--debug` the first error ends it, with its traceback."""
    return Batch(stop_at_first=ctx.find_root().params.get("debug", False))


def tell_skipped(n_skipped: int, n_scans: int) -> None:
    """Say how many scans needed no work, if any.

    Args:
        n_skipped: number of scans that were done before.
        n_scans: number of all scans.
    """
    if n_skipped:
        echo(
            f"nobrainer: {n_skipped} of {n_scans} scans were done before and are not "
            "done again (--overwrite does)",
            err=True,
        )


def end(ctx: click.Context, problems: Sequence[str]) -> None:
    """Report the scans that could not be used; exit with 1 if there are any.

    Args:
        ctx: context of the command.
        problems: what is wrong with each of these scans.
    """
    for problem in problems:
        echo_error(problem)
    if problems:
        ctx.exit(1)
