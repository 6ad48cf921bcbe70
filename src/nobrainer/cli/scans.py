"""Scans given to a command: each has a name of its own, and none stops the others."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import click

from nobrainer.errors import InputError
from nobrainer.io import strip_suffix

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
    files: Sequence[Path], act: Callable[[Path], T]
) -> tuple[list[T], list[str]]:
    """Act on every scan; return the results, and the errors of those without one."""
    results: list[T] = []
    problems: list[str] = []
    for file in files:
        try:
            results.append(act(file))
        except InputError as error:
            problems.append(str(error))
    return results, problems


def end(ctx: click.Context, problems: Sequence[str]) -> None:
    """Report the scans that could not be used; exit with 1 if there are any."""
    for problem in problems:
        click.echo(f"nobrainer: error: {problem}", err=True)
    if problems:
        ctx.exit(1)
