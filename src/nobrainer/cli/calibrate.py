"""`nobrainer calibrate`: make probabilities and intervals mean what they say."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import click

import nobrainer as nb
from nobrainer.cli.info import echo_fitted
from nobrainer.cli.options import JSON, MODEL, THREADS, Draws, gather
from nobrainer.cli.outputs import echo, save_model, to_json
from nobrainer.data.table import read_split, read_table
from nobrainer.errors import InputError


@dataclass(frozen=True)
class HeldOut:
    """What a model is calibrated on: scans with labels, label maps, or both."""

    table: Annotated[
        Path | None,
        click.option(
            "--data",
            "table",
            metavar="CSV|STORE",
            type=click.Path(path_type=Path),
            help="Table with the columns features,labels: scans that training has not "
            "seen; with --out-of-fold those that it has. Relative paths start from the "
            "table's directory. Or a store, see `nobrainer data convert`.",
        ),
    ]
    split: Annotated[
        str | None,
        click.option(
            "--split",
            metavar="NAME",
            help="Take the scans of --data that its column split calls so.",
        ),
    ]
    label_maps: Annotated[
        Path | None,
        click.option(
            "--label-maps",
            metavar="CSV",
            type=click.Path(path_type=Path),
            help="Table with the column labels: label maps that training has not seen, "
            "of which images are made as in the training. Alone or beside --data.",
        ),
    ]
    n_images: Annotated[
        int,
        click.option(
            "--n-images",
            metavar="N",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Images of each label map.",
        ),
    ]

    def read(self, segmentation: "nb.Segmentation") -> "nb.Dataset":
        """The scans and images, prepared as those that the model learned from.

        Raises:
            InputError: nothing is given, or files that cannot be used.
        """
        if self.table is None and self.label_maps is None:
            raise InputError(
                "nothing to calibrate on: give --data, --label-maps or both"
            )
        if self.table is None and self.split is not None:
            raise InputError("--split is for --data: give it, too")
        maps = []
        if self.label_maps is not None:
            maps = read_table(self.label_maps, ["labels"])
        if self.table is not None and self.table.is_dir():
            return segmentation.dataset(
                (), maps, self.n_images, store=self.table, split=self.split
            )
        pairs = [] if self.table is None else read_split(self.table, self.split)
        return segmentation.dataset(pairs, maps, self.n_images)


@click.command()
@gather(held_out=HeldOut)
@MODEL
@click.option(
    "--output-dir",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the calibrated copy of the model goes.",
)
@click.option(
    "--out-of-fold",
    is_flag=True,
    help="The scans are those that a model of `train --folds` was trained on: each is "
    "predicted by the member that has not seen it.",
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
    "needs 9 subjects, or images of label maps, or more.  [default: no intervals]",
)
@click.option(
    "--intensity-weight",
    metavar="WEIGHT",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="How much the intensities of a scan itself count beside the network in "
    "predictions of the copy; 0 is not at all.",
)
@click.option(
    "--quality",
    is_flag=True,
    help="Also learn to predict the Dice of a scan without labels, from these scans "
    "as they are and degraded in many ways; takes by far the longest.",
)
@gather(draws=Draws)
@THREADS
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
@JSON
def calibrate(
    held_out: HeldOut,
    model_dir: Path,
    output_dir: Path,
    out_of_fold: bool,
    method: Literal["temperature", "vector"],
    coverage: float | None,
    intensity_weight: float,
    quality: bool,
    draws: Draws,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Copy a model, its uncertainty made honest on held-out scans.

    The copy scales its probabilities so that they are right as often as they say,
    and gives intervals of volumes with --coverage. Scans that the model was trained
    on are refused. With --label-maps, what is fitted holds for images like those that
    are made of the maps.

    \b
    Examples:
      nobrainer calibrate --data held-out.csv --model model --output-dir calibrated
      nobrainer calibrate --data held-out.csv --model model --output-dir calibrated \\
          --coverage 0.9 --quality
      nobrainer calibrate --label-maps maps.csv --n-images 8 --model model \\
          --output-dir calibrated --coverage 0.9
    """
    nb.bundle.check_place(output_dir, overwrite=overwrite)
    segmentation = nb.Segmentation.load(model_dir)
    dataset = held_out.read(segmentation)
    if quality and held_out.table is not None and held_out.table.is_dir():
        raise InputError(
            f"{held_out.table}: is a store, whose scans are no longer as they came, "
            "and --quality degrades such scans: give a table of their files, or leave "
            "out --quality"
        )
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
        intensity_weight=intensity_weight,
        out_of_fold=out_of_fold,
    )
    if quality:
        scan_s = (time.monotonic() - started) / len(dataset)
        echo(
            "fitting the quality model: each of the scans is predicted as it is and "
            f"under every simulated shift ({scan_s:.1f} s a time) ...",
            err=True,
        )
        segmentation.fit_quality(
            dataset,
            n_samples=draws.n_samples,
            seed=draws.seed,
            out_of_fold=out_of_fold,
        )
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
