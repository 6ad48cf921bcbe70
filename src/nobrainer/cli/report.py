"""`nobrainer report`: a page per scan, and one that lists them."""

from pathlib import Path

import click

from nobrainer.cli.assessment import assess_scans
from nobrainer.cli.options import (
    DRAWS,
    FILES,
    JSON,
    MODEL,
    OUTPUT_DIR,
    OVERWRITE,
    SEED,
    THRESHOLD,
)


@click.command()
@FILES
@MODEL
@OUTPUT_DIR
@DRAWS
@SEED
@THRESHOLD
@OVERWRITE
@JSON
@click.pass_context
def report(
    ctx: click.Context,
    files: tuple[Path, ...],
    model_dir: Path,
    output_dir: Path,
    n_samples: int,
    seed: int,
    threshold: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Segment scans and write pages to look at in a browser.

    For a scan STEM.nii.gz, DIR gets STEM.html: slices, volumes with error bars, and
    why to look closer, if there is a reason. index.html lists all scans and leads to
    their pages. The tables of `nobrainer qc` are written, too. A page is one file
    of a few MB that loads nothing: it can be sent to somebody.

    A scan that cannot be predicted does not stop the others; it is reported at the
    end, and the exit code is 1.

    \b
    Examples:
      nobrainer report sub-01_T1w.nii.gz --model model --output-dir pages
      nobrainer report sub-*_T1w.nii.gz --model model --output-dir pages
    """
    assess_scans(
        ctx,
        files,
        model_dir,
        output_dir,
        n_samples=n_samples,
        seed=seed,
        threshold=threshold,
        overwrite=overwrite,
        as_json=as_json,
        with_pages=True,
    )
