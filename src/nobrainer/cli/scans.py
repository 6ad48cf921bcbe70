"""Scans given to a command: each has a name of its own, and none stops the others."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import click

from nobrainer.cli.outputs import echo_error
from nobrainer.errors import InputError
from nobrainer.io import strip_suffix
from nobrainer.processing.display import ProgressBar
from nobrainer.processing.guard import Batch

T = TypeVar("T")


def name_scans(files: Sequence[Path]) -> dict[Path, str]:
    """What the results of each scan are called; a file that is no scan has no name.

    Raises:
        InputError: two scans would have results of the same name.
    """
    names = {}
    for file in files:
        # Whoever reads the file says what is wrong with it.
        with suppress(InputError):
            names[file] = strip_suffix(file)
    counts = Counter(names[file] for file in files if file in names)
    for name, count in counts.items():
        if count > 1:
            same = [str(file) for file in files if names.get(file) == name]
            raise InputError(
                f"{', '.join(same)}: would have results of the same name {name}: do "
                "them one by one, into different directories"
            )
    return names


def each_scan(
    files: Sequence[Path], act: Callable[[Path, ProgressBar], T], batch: Batch
) -> Iterator[T]:
    """Act on every scan under one bar; yield the results of those that have one.

    What goes wrong with the others is kept in `batch`, for `end`.
    """
    with ProgressBar(verbose=True) as bar:
        bar.begin_scans(len(files))
        for file in files:
            results = []
            with bar.scan(file.name), batch.scan(file):
                results.append(act(file, bar))
            with bar.paused():
                yield from results


def new_batch(ctx: click.Context) -> Batch:
    """A batch that ends with the first error where the traceback is wanted."""
    return Batch(stop_at_first=ctx.find_root().params.get("debug", False))


def end(ctx: click.Context, problems: Sequence[str]) -> None:
    """Report the scans that could not be used; exit with 1 if there are any."""
    for problem in problems:
        echo_error(problem)
    if problems:
        ctx.exit(1)
