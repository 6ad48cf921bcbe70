"""`nobrainer models`: the models that come with the program."""

from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

import nobrainer as nb
from nobrainer.cli.options import JSON
from nobrainer.cli.outputs import echo, to_json
from nobrainer.errors import printable

_DIGEST = 12
"""Digits of a SHA-256 that are printed; they tell any few models apart."""


@click.command()
@JSON
def models(as_json: bool) -> None:
    """List the models that come with nobrainer.

    For each: the day on which its training ended (version), how many structures it
    segments and which, the Dice to expect, measured on scans that did not teach its
    weights, its size, and the beginning of the SHA-256 that results name it by.
    `nobrainer info NAME` shows how it was made.

    \b
    Examples:
      nobrainer models
      nobrainer models --json
    """
    found = [nb.shipped.describe(name) for name in nb.shipped.names()]
    if as_json:
        echo(to_json([asdict(one) | {"folder": str(one.folder)} for one in found]))
        return
    if not found:
        echo("no model comes with this nobrainer")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("name", "version", "structures", "Dice", "size", "SHA-256"):
        is_text = title in ("name", "version", "SHA-256")
        table.add_column(title, justify="left" if is_text else "right", no_wrap=True)
    for one in found:
        dice = "-" if one.expected_dice is None else f"{one.expected_dice:.3f}"
        table.add_row(
            one.name,
            one.version,
            str(len(one.classes)),
            dice,
            f"{one.size_bytes / 1e6:.1f} MB",
            one.digest[:_DIGEST],
        )
    console = Console(highlight=False)
    console.print(table)
    for one in found:
        console.print(Text(printable(f"\n{one.name}: {', '.join(one.classes)}")))
