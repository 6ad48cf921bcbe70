"""`nobrainer demo`: a brain through the model in the box, then a model of one's own."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import nobrainer as nb
from nobrainer.cli.options import THREADS
from nobrainer.cli.outputs import (
    echo,
    echo_columns,
    figure_text,
    map_paths,
    refuse_taken,
    save_model,
    to_json,
)
from nobrainer.data.table import read_table
from nobrainer.glossary import OF_REGIONS
from nobrainer.io import write, write_text
from nobrainer.naming import stem
from nobrainer.results import make_directory

_CALIBRATION = ("nll", "brier", "ece")
_WIDTH = 30
_TEMPLATE = "mni152_T1w"
_ABOUT_TEMPLATE = """\
The MNI152 template is the mean of 152 people and nobody's brain: it shows how the
program works, not how well. Source: Fonov et al. 2011, NeuroImage 54:313. Copyright
(C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological
Institute, McGill University."""
_N_LARGEST, _N_UNSURE = 5, 3
"""Structures that are printed: the largest ones, and those that are least sure."""
_READING = """\
How to read the maps: label is the most frequent class of the draws. Variance says
where the draws disagree; entropy says where the mean probability is undecided, from 0
(certain) to ln C nats (all C classes even; ln 2 = 0.69 for brain or not). Both are
dark where the answer is clear and bright along boundaries; a bright area elsewhere is
a place to look at yourself."""


@click.command()
@click.option(
    "--output-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default="demo-output",
    show_default=True,
    help="Where the results go.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Passes over the training patches.",
)
@click.option(
    "--n-samples",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Draws of the weights of the model that is trained.",
)
@THREADS
@click.option("--overwrite", is_flag=True, help="Replace results that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo(
    output_dir: Path, epochs: int, n_samples: int, overwrite: bool, as_json: bool
) -> None:
    """Segment an average brain with the model in the box, and train a model.

    First the model that comes with nobrainer segments the MNI152 template, the mean of
    152 people. Then a small network trains on nine synthetic heads, segments the brain
    of a tenth, and is judged: how good it is, and how well it knows.

    Needs no network and no data; takes a few minutes.

    \b
    Examples:
      nobrainer demo
      nobrainer demo --output-dir trial --epochs 5 --json
    """
    refuse_taken(output_dir, overwrite=overwrite)
    make_directory(output_dir)
    nb.bundle.check_place(output_dir / "model", overwrite=overwrite)
    template = _segment_template(output_dir, overwrite)
    if not as_json:
        _tell_template(template)
    trained = _train(output_dir, epochs, n_samples, overwrite)
    if as_json:
        echo(to_json(trained | {"template": template}))
        return
    _tell_trained(trained)
    echo(_READING)


def _segment_template(output_dir: Path, overwrite: bool) -> dict[str, Any]:
    """Segment the MNI152 template with the model in the box and write what it says.

    Args:
        output_dir: folder of the results.
        overwrite: whether files that are there are replaced.

    Returns: what there is to tell, with the paths of the files.
    """
    segmentation = nb.Segmentation.load(nb.shipped.DEFAULT)
    n_samples = segmentation.n_draws()
    echo(f"predicting the MNI152 template, {n_samples} draws ...", err=True)
    scan = output_dir / f"{_TEMPLATE}.nii.gz"
    write(nb.get_template(), scan, overwrite=overwrite)
    started = time.monotonic()
    prediction = segmentation.predict(scan, n_samples=n_samples, seed=0)
    predicted_s = time.monotonic() - started
    paths = {"scan": scan} | _write(prediction, output_dir, n_samples, overwrite)
    found = [one for one in prediction.structures if one.status == "found"]
    largest = sorted(found, key=lambda one: -one.volume_mm3)[:_N_LARGEST]
    unsure = sorted(found, key=lambda one: -one.entropy)[:_N_UNSURE]
    return {
        "input": str(scan),
        "model": nb.shipped.DEFAULT,
        "n_samples": n_samples,
        "prediction_s": round(predicted_s, 1),
        "coverage": segmentation.coverage(n_samples),
        "volumes_ml": {
            part.name: {
                "mean": part.volume_mm3 / 1000,
                "sd": part.volume_sd_mm3 / 1000,
                "low": part.conformal_low_mm3 / 1000,
                "high": part.conformal_high_mm3 / 1000,
            }
            for part in (*prediction.totals, *largest)
        },
        "least_sure_nats": {one.name: one.entropy for one in unsure},
        "flags": prediction.flags,
        "files": {name: str(path) for name, path in paths.items()},
    }


def _write(
    prediction: "nb.Prediction", output_dir: Path, n_samples: int, overwrite: bool
) -> dict[str, Path]:
    """Write maps, tables and the picture of the template; return their paths."""
    paths = map_paths(output_dir, _TEMPLATE, n_samples)
    for name, path in paths.items():
        write(prediction.to_file(name), path, overwrite=overwrite)
    texts = {
        "label": prediction.labels.to_dseg(),
        "structures": nb.structures.to_tsv(
            {_TEMPLATE: (*prediction.structures, *prediction.totals)}
        ),
    }
    for name, text in texts.items():
        path = output_dir / f"{_TEMPLATE}_{name}.tsv"
        paths[f"{name} table"] = write_text(text, path, overwrite=overwrite)
    paths["figure"] = output_dir / f"{_TEMPLATE}.png"
    prediction.plot(
        title=f"The MNI152 template, the mean of 152 people: {n_samples} draws of the "
        f"model {nb.shipped.DEFAULT!r}"
    ).savefig(paths["figure"], dpi=100)
    return paths


def _tell_template(story: Mapping[str, Any]) -> None:
    """Print what `_segment_template` found."""
    echo(f"{story['input']}, {story['n_samples']} draws of {story['model']!r}:")
    titles = ["  volumes in ml", "mean", "sd of draws"]
    figures = ["mean", "sd"]
    if story["coverage"] is not None:
        titles += [f"{100 * story['coverage']:g} % from", "to"]
        figures += ["low", "high"]
    rows = [
        (f"  {name}", *(figure_text(volume[figure], 1) for figure in figures))
        for name, volume in story["volumes_ml"].items()
    ]
    echo_columns(titles, rows)
    unsure = (f"{name} ({nats:.2f})" for name, nats in story["least_sure_nats"].items())
    echo("least sure, by mean entropy in nats:")
    for line in unsure:
        echo(f"  {line}")
    _tell_files(story)
    echo(_ABOUT_TEMPLATE)
    echo()


def _train(
    output_dir: Path, epochs: int, n_samples: int, overwrite: bool
) -> dict[str, Any]:
    """Train on nine synthetic heads, write what the model says of a tenth, judge it.

    Args:
        output_dir: folder of the results.
        epochs: passes over the training patches.
        n_samples: number of draws of the weights.
        overwrite: whether files that are there are replaced.

    Returns: what there is to tell, with the paths of the files.
    """
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
    for name, path in paths.items():
        write(prediction.to_file(name), path, overwrite=overwrite)
    paths["model"], paths["figure"] = saved, output_dir / "figure.png"
    prediction.plot(
        truth,
        f"{stem(image)}, not seen in training: Dice of the brain "
        f"{figures['dice']:.3f}, {n_samples} draws",
    ).savefig(paths["figure"], dpi=100)

    (brain,) = prediction.structures
    mean_ml, sd_ml = brain.volume_mm3 / 1000, brain.volume_sd_mm3 / 1000
    return {
        "input": str(image),
        "n_samples": n_samples,
        "n_heads": len(pairs) - 1,
        "training_s": round(trained_s, 1),
        "metrics": figures,
        "brain_ml": {"mean": mean_ml, "sd": sd_ml},
        "files": {name: str(path) for name, path in paths.items()},
    }


def _tell_trained(story: Mapping[str, Any]) -> None:
    """Print what `_train` found."""
    figures, brain_ml = story["metrics"], story["brain_ml"]
    echo(f"trained in {story['training_s']:.0f} s on {story['n_heads']} heads")
    echo(f"brain of the unseen head {story['input']}, {story['n_samples']} draws:")
    echo(f"  {'Dice':<{_WIDTH}} {figures['dice']:.3f}")
    sd = figure_text(brain_ml["sd"], 1, " ml")
    volume = f"{brain_ml['mean']:.1f} ml, standard deviation {sd}"
    echo(f"  {'volume':<{_WIDTH}} {volume}")
    echo(f"  {'calibration':<{_WIDTH}} whole scan   near the brain")
    for name in _CALIBRATION:
        whole, near = figures[name], figures[f"{name}/foreground"]
        title = f"  {OF_REGIONS[name].line}"
        echo(f"  {title:<{_WIDTH}} {whole:<12.4f} {near:.4f}")
    _tell_files(story)


def _tell_files(story: Mapping[str, Any]) -> None:
    echo("files:")
    for name, path in story["files"].items():
        echo(f"  {name:<{_WIDTH}} {path}")


def _brains(pairs: Sequence[Mapping[str, Any]]) -> "nb.Dataset":
    return nb.Dataset.from_files(pairs).batch(2).binarize()
