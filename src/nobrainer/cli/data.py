"""`nobrainer data`: ten subjects for a first run; scans into a store."""

import json
from pathlib import Path

import click

import nobrainer as nb
from nobrainer.bids import pair_with_labels
from nobrainer.cli.outputs import echo
from nobrainer.data import zarr_store
from nobrainer.data.table import read_table
from nobrainer.errors import InputError
from nobrainer.processing.progress import ProgressBar


@click.group(invoke_without_command=True)
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
@click.pass_context
def data(
    ctx: click.Context, source: str, cache_dir: Path | None, as_json: bool
) -> None:
    """Provide ten subjects; print the path of their CSV table.

    \b
    Examples:
      nobrainer data
      nobrainer data --source embedded --cache-dir heads
      nobrainer data convert scans.csv heads.zarr --workers 4
      nobrainer data verify heads.zarr
      nobrainer data export heads.zarr files
    """
    if ctx.invoked_subcommand is None:
        path = nb.get_data(cache_dir, source)
        echo(json.dumps({"csv": path}) if as_json else path)


@data.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where SOURCE is a BIDS data set: the one with its label maps, such as a "
    "derivative.",
)
@click.option(
    "--spacing",
    "spacing_mm",
    metavar="R A S",
    nargs=3,
    type=float,
    help="Voxel size in mm of the stored scans.  [default: that of the store, else "
    "the median of the scans]",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    help="Processes that read and prepare scans.",
)
def convert(
    source: Path,
    store: Path,
    labels: Path | None,
    spacing_mm: tuple[float, float, float] | None,
    workers: int,
) -> None:
    """Prepare scans once and write them into a Zarr store; print its path.

    SOURCE is a table with the columns features,labels and, if wanted, subject, session
    and split, or the folder of a BIDS data set. Scans that STORE has are kept: repeat
    the command after an interruption, or with scans that have come since.

    \b
    Examples:
      nobrainer data convert scans.csv heads.zarr --workers 4
      nobrainer data convert bids heads.zarr --labels bids/derivatives/manual
    """
    if source.is_dir():
        if labels is None:
            raise InputError(f"{source}: is a folder: give --labels, its label maps")
        entries = pair_with_labels(source, labels)
    elif labels is not None:
        raise InputError("--labels is for a BIDS data set: the table lists the labels")
    else:
        entries = read_table(source)
    dataset = nb.Dataset.from_files(entries)
    if spacing_mm is not None:
        dataset = dataset.spacing(spacing_mm)
    with ProgressBar(verbose=True) as bar:
        bar.begin("converting", len(dataset))
        echo(dataset.to_zarr(store, workers=workers, progress=bar.advance))


@data.command()
@click.argument("store", type=click.Path(path_type=Path))
def verify(store: Path) -> None:
    """Check that the files of a Zarr store are those that were written.

    Reads every file of every scan and compares its SHA-256 with the one in the table
    of the store. Files that are missing or damaged get a line each.

    \b
    Examples:
      nobrainer data verify heads.zarr
    """
    with ProgressBar(verbose=True) as bar:
        bar.begin("verifying", 1)
        n_files = zarr_store.verify(store, bar.advance)
    echo(f"{store}: all {n_files} files are as they were written")


@data.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--split",
    metavar="NAME",
    help="Write the scans of this part of the data alone.",
)
def export(store: Path, directory: Path, split: str | None) -> None:
    """Write the scans of a Zarr store as NIfTI files; print the path of their table.

    The files hold what the store holds: images as the network sees them, and label
    values, on the grid of the store, under the headers that the scans came with.

    \b
    Examples:
      nobrainer data export heads.zarr files
      nobrainer data export heads.zarr test-files --split test
    """
    with ProgressBar(verbose=True) as bar:
        bar.begin("writing", 1)
        echo(zarr_store.export(store, directory, split, bar.advance))
