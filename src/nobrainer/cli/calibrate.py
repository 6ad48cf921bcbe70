"""`nobrainer calibrate`: make probabilities and intervals mean what they say."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

import nobrainer as nb
from nobrainer.cli.info import echo_fitted
from nobrainer.cli.options import JSON, LABELLED, MODEL, Draws, gather
from nobrainer.cli.outputs import echo, save_model, to_json
from nobrainer.data.table import read_table


@click.command()
@LABELLED
@MODEL
@click.option(
    "--output-dir",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the calibrated copy of the model goes.",
)
@click.option(
    "--method",
    type=click.Choice(["temperature", "vector"]),
    default="temperature",
    show_default=True,
    help="temperature: one number, changes no label by itself; vector: a weight and a "
    "bias for each class.",
)
@click.option(
    "--coverage",
    metavar="SHARE",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Also fit intervals that hold the true volume in this share of subjects; 0.9 "
    "needs 9 subjects or more.  [default: no intervals]",
)
@click.option(
    "--quality",
    is_flag=True,
    help="Also learn to predict the Dice of a scan without labels, from these scans "
    "as they are and degraded in many ways; takes by far the longest.",
)
@gather(draws=Draws)
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
@JSON
def calibrate(
    table: Path,
    model_dir: Path,
    output_dir: Path,
    method: Literal["temperature", "vector"],
    coverage: float | None,
    quality: bool,
    draws: Draws,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Copy a model, its uncertainty made honest on held-out scans.

    The copy scales its probabilities so that they are right as often as they say,
    and gives intervals of volumes with --coverage. Scans that the model was trained
    on are refused.

    \b
    Examples:
      nobrainer calibrate --data held-out.csv --model model --output-dir calibrated
      nobrainer calibrate --data held-out.csv --model model --output-dir calibrated \\
          --coverage 0.9 --quality
    """
    nb.bundle.check_place(output_dir, overwrite=overwrite)
    pairs = read_table(table)
    segmentation = nb.Segmentation.load(model_dir)
    dataset = segmentation.dataset(pairs)
    if quality:
        # Before the work of calibrating, which an error afterwards would lose.
        nb.quality.check_enough(dataset.subjects)
    started = time.monotonic()
    segmentation.calibrate(
        dataset,
        method=method,
        coverage=coverage,
        n_samples=draws.n_samples,
        seed=draws.seed,
    )
    if quality:
        scan_s = (time.monotonic() - started) / len(pairs)
        echo(
            "fitting the quality model: each of the scans is predicted as it is and "
            f"under every simulated shift ({scan_s:.1f} s a time) ...",
            err=True,
        )
        segmentation.fit_quality(dataset, n_samples=draws.n_samples, seed=draws.seed)
    saved = save_model(segmentation, output_dir, overwrite=overwrite)
    if as_json:
        assert segmentation.calibration_ is not None
        fitted = segmentation.quality_
        story = {
            "model": str(saved),
            "calibration": asdict(segmentation.calibration_),
            "quality": None if fitted is None else asdict(fitted),
        }
        echo(to_json(story))
        return
    echo_fitted(segmentation)
    echo(f"model: {saved}")
