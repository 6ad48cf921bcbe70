"""`nobrainer data`: ten subjects for a first run."""

import json
from pathlib import Path

import click

import nobrainer as nb
from nobrainer.cli.outputs import echo


@click.command()
@click.option(
    "--source",
    type=click.Choice(["auto", "remote", "embedded"]),
    default="auto",
    show_default=True,
    help="remote: a public sample (1 mm, FreeSurfer labels); embedded: synthetic "
    "heads made on this machine; auto: the first that can be had.",
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help="Where the files are kept.  [default: $NOBRAINER_CACHE or the user's cache]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def data(source: str, cache_dir: Path | None, as_json: bool) -> None:
    """Provide ten subjects; print the path of their CSV table.

    \b
    Examples:
      nobrainer data
      nobrainer data --source embedded --cache-dir heads
    """
    path = nb.get_data(cache_dir, source)
    echo(json.dumps({"csv": path}) if as_json else path)
