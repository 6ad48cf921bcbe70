"""`nobrainer demo`: train, predict and judge on synthetic heads."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import nobrainer as nb
from nobrainer.cli.outputs import (
    echo,
    figure_text,
    map_paths,
    refuse_taken,
    save_model,
    to_json,
)
from nobrainer.data.table import read_table
from nobrainer.glossary import OF_REGIONS
from nobrainer.io import write
from nobrainer.naming import stem
from nobrainer.results import make_directory

_CALIBRATION = ("nll", "brier", "ece")
_WIDTH = 30
_READING = """\
How to read the maps: label is the most frequent class of the draws. Variance says
where the draws disagree; entropy says where the mean probability is undecided, from 0
(certain) to ln 2 = 0.69 nats (even odds). Both are dark where the answer is clear and
bright along boundaries; a bright area elsewhere is a place to look at yourself."""


@click.command()
@click.option(
    "--output-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default="demo-output",
    show_default=True,
    help="Where the results go.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--n-samples",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Draws of the weights.",
)
@click.option("--overwrite", is_flag=True, help="Replace results that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo(
    output_dir: Path, epochs: int, n_samples: int, overwrite: bool, as_json: bool
) -> None:
    """Train on nine synthetic heads, segment the brain of a tenth, say how sure.

    Needs no network and no data; takes a few minutes.

    \b
    Examples:
      nobrainer demo
      nobrainer demo --output-dir trial --epochs 5 --json
    """
    refuse_taken(output_dir, overwrite=overwrite)
    make_directory(output_dir)
    nb.bundle.check_place(output_dir / "model", overwrite=overwrite)
    pairs = read_table(Path(nb.get_data(source="embedded")))
    image, truth = pairs[-1]["image"], pairs[-1]["label"]
    started = time.monotonic()
    echo(f"training on {len(pairs) - 1} heads, {epochs} epochs ...", err=True)
    segmentation = nb.Segmentation(
        "bayesian_vnet",
        {"base_filters": 8, "levels": 2, "prior_type": "standard_normal"},
    )
    segmentation.fit(_brains(pairs[:-1]), epochs=epochs)
    trained_s = time.monotonic() - started
    saved = save_model(segmentation, output_dir / "model", overwrite=overwrite)
    echo(f"predicting an unseen head, {n_samples} draws ...", err=True)
    prediction = segmentation.predict(image, n_samples=n_samples, seed=0)
    figures = nb.summarise(
        segmentation.evaluate(
            _brains(pairs[-1:]), n_samples=n_samples, seed=0, surfaces=False
        )
    )

    paths = map_paths(output_dir, stem(image), n_samples)
    for volume, path in zip(prediction, paths.values(), strict=True):
        write(volume, path, overwrite=overwrite)
    paths["model"], paths["figure"] = saved, output_dir / "figure.png"
    prediction.plot(
        truth,
        f"{stem(image)}, not seen in training: Dice of the brain "
        f"{figures['dice']:.3f}, {n_samples} draws",
    ).savefig(paths["figure"], dpi=100)

    (brain,) = prediction.structures
    mean_ml, sd_ml = brain.volume_mm3 / 1000, brain.volume_sd_mm3 / 1000
    story = {
        "input": str(image),
        "n_samples": n_samples,
        "training_s": round(trained_s, 1),
        "metrics": figures,
        "brain_ml": {"mean": mean_ml, "sd": sd_ml},
        "files": {name: str(path) for name, path in paths.items()},
    }
    if as_json:
        echo(to_json(story))
        return
    echo(f"trained in {trained_s:.0f} s on {len(pairs) - 1} heads")
    echo(f"brain of the unseen head {image}, {n_samples} draws:")
    echo(f"  {'Dice':<{_WIDTH}} {figures['dice']:.3f}")
    volume = f"{mean_ml:.1f} ml, standard deviation {figure_text(sd_ml, 1, ' ml')}"
    echo(f"  {'volume':<{_WIDTH}} {volume}")
    echo(f"  {'calibration':<{_WIDTH}} whole scan   near the brain")
    for name in _CALIBRATION:
        whole, near = figures[name], figures[f"{name}/foreground"]
        title = f"  {OF_REGIONS[name].line}"
        echo(f"  {title:<{_WIDTH}} {whole:<12.4f} {near:.4f}")
    echo("files:")
    for name, path in paths.items():
        echo(f"  {name:<{_WIDTH}} {path}")
    echo(_READING)


def _brains(pairs: Sequence[Mapping[str, Any]]) -> "nb.Dataset":
    return nb.Dataset.from_files(pairs).batch(2).binarize()
