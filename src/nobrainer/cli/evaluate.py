"""`nobrainer evaluate`: how good a model is, and whether its uncertainty is right."""

import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import nobrainer as nb
from nobrainer.cli.options import (
    JSON,
    LABELLED,
    MODEL,
    OUTPUT_DIR,
    OVERWRITE,
    THREADS,
    Draws,
    gather,
)
from nobrainer.cli.outputs import (
    echo,
    echo_columns,
    echo_files,
    figure_text,
    to_json,
)
from nobrainer.cli.scans import end
from nobrainer.data.freesurfer import OUTER_FLUID
from nobrainer.data.table import read_table
from nobrainer.errors import InputError
from nobrainer.formats import require_file
from nobrainer.glossary import OF_REGIONS, OF_STRUCTURES
from nobrainer.io import write_text
from nobrainer.naming import count_scans
from nobrainer.provenance import Method, Result
from nobrainer.results import Results, make_method

if TYPE_CHECKING:
    from nobrainer.data.labels import LabelTable
    from nobrainer.evaluation import Evaluation

_FARTHEST = 1.0
"""Relative error of a volume from which labels and model mean different things."""
_STRUCTURES = ("dice", "hd95_mm", "surface_dice", "volume_error")
_IN_PERCENT = ("volume_error", "covered", "conformal_covered")


@click.command()
@LABELLED
@MODEL
@OUTPUT_DIR
@gather(draws=Draws)
@click.option(
    "--no-surfaces",
    is_flag=True,
    help="Leave out distances between surfaces, which take long for many structures.",
)
@click.option(
    "--allow-seen",
    is_flag=True,
    help="Take scans, too, that the model was trained, validated or calibrated on; all "
    "results then say so.",
)
@THREADS
@OVERWRITE
@JSON
@click.pass_context
def evaluate(
    ctx: click.Context,
    table: Path,
    model_dir: Path,
    output_dir: Path,
    draws: Draws,
    no_surfaces: bool,
    allow_seen: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Compare predictions, and their uncertainty, with labels.

    Labels are made into classes as in the training of the model. DIR gets
    metrics.tsv, a figure per row, and evaluation.html, a page that explains them;
    provenance.json and the folder provenance say which model was evaluated, and how.
    Means over the scans are printed: of each structure, and of the probabilities
    in the whole scan and near the foreground, where errors are.

    Where the same evaluation was done before, its figures are printed once more.

    Scans that the model was trained, validated or calibrated on are refused, because
    figures on them are too good; --allow-seen takes them.

    A scan that cannot be used does not stop the others; it is reported at the end,
    and the exit code is 1.

    \b
    Examples:
      nobrainer evaluate --data test.csv --model model --output-dir test
      nobrainer evaluate --data test.csv --model model --output-dir test --json
    """
    paths = {
        "metrics": output_dir / "metrics.tsv",
        "report": output_dir / "evaluation.html",
    }
    pairs, absent = _split_absent(read_table(table))
    if not pairs:
        end(ctx, absent)
    segmentation = nb.Segmentation.load(model_dir)
    dataset = segmentation.dataset(pairs)
    if not allow_seen:
        # Before anything is written.
        segmentation.check_unused(dataset)
    method = make_method(
        "evaluate",
        model_dir,
        segmentation,
        n_samples=draws.n_samples,
        seed=draws.seed,
        options={"surfaces": not no_surfaces},
    )
    device, keeps = segmentation.device, ("problems", "story")
    results = Results(output_dir, method, device, overwrite=overwrite, keeps=keeps)
    results.open(["evaluation"], paths.values())
    inputs = [row[kind] for row in pairs for kind in ("image", "label")]
    files = {name: str(path) for name, path in paths.items()}
    earlier = _find_earlier(results, inputs, paths.values())
    if earlier is not None:
        story = earlier.data["story"] | {"files": files}
        _echo_story(story, segmentation.labels_, as_json=as_json)
        echo(
            "nobrainer: the evaluation was done before and is not done again "
            "(--overwrite does)",
            err=True,
        )
        return
    settings = {**asdict(draws), **method.options, "allow_seen": allow_seen}
    with results.work("evaluation", inputs, paths.values()) as work:
        evaluation, problems = _evaluate(segmentation, dataset, settings)
        problems = [*absent, *problems]
        if not evaluation:
            end(ctx, problems)
        work.begin()
        title = f"{model_dir.resolve().name} on {table.name}"
        _write(evaluation, paths, segmentation, title)
        story = _tell(evaluation, method) | {"files": files}
        work.data = {"problems": problems, "story": story}
    _echo_story(story, segmentation.labels_, as_json=as_json)
    end(ctx, problems)


def _evaluate(
    segmentation: "nb.Segmentation", dataset: "nb.Dataset", settings: dict[str, Any]
) -> tuple["Evaluation", list[str]]:
    """The figures of the scans that can be used, and what is wrong with the others."""
    try:
        return segmentation.evaluate(dataset, **settings), []
    except nb.BatchError as error:
        return error.results, error.problems


def _write(
    evaluation: "Evaluation",
    paths: Mapping[str, Path],
    segmentation: "nb.Segmentation",
    title: str,
) -> None:
    """Write the table of all figures, and the page that explains them."""
    write_text(evaluation.to_tsv(), paths["metrics"], overwrite=True)
    nb.report.write_evaluation(
        evaluation,
        paths["report"],
        labels=segmentation.labels_,
        model=segmentation.recipe_,
        title=title,
        calibration=segmentation.calibration_,
        overwrite=True,
    )


def _tell(evaluation: "Evaluation", method: Method) -> dict[str, Any]:
    """What is printed about an evaluation, and kept in its record."""
    return {
        "n_scans": evaluation.n_scans,
        "n_subjects": evaluation.n_subjects,
        "warning": evaluation.warning or None,
        "seen": {row.subject: row.seen for row in evaluation if row.seen},
        "n_samples": method.n_samples,
        "n_passes": method.n_passes,
        "metrics": nb.summarise(evaluation),
    }


def _find_earlier(
    results: Results, inputs: Sequence[Path], files: Collection[Path]
) -> Result | None:
    """The record of the same evaluation, if it was done before without a problem."""
    earlier = results.records().get("evaluation")
    if earlier is None or earlier.data["problems"]:
        return None
    return results.find_done("evaluation", inputs, files)


def _echo_story(
    story: Mapping[str, Any], labels: "LabelTable", *, as_json: bool
) -> None:
    """Print what an evaluation found; `labels` are the classes of the model."""
    if as_json:
        echo(to_json(story))
        return
    if story["warning"]:
        echo(textwrap.fill(f"WARNING: {story['warning']}", 80) + "\n")
    echo(f"means over {count_scans(story['n_scans'], story['n_subjects'])}\n")
    # A record has null for figures that are not defined.
    figures = {k: math.nan if v is None else v for k, v in story["metrics"].items()}
    _echo_structures(figures, labels.names[1:])
    _echo_outer_fluid(figures, labels)
    _echo_regions(figures)
    echo_files(story["files"])


def _split_absent(
    pairs: Iterable[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows whose two files are there, and what is wrong with the others."""
    present, problems = [], []
    for row in pairs:
        try:
            require_file(row["image"])
            require_file(row["label"])
        except InputError as error:
            problems.append(str(error))
        else:
            present.append(row)
    return present, problems


def _echo_structures(figures: Mapping[str, float], names: Sequence[str]) -> None:
    rows = [(name, f"/{name}") for name in names if f"dice/{name}" in figures]
    cells = [
        [name, *(_text(m, figures.get(f"{m}{part}", math.nan)) for m in _STRUCTURES)]
        for name, part in rows
    ]
    if len(rows) > 1:
        # What has a sign has a line of its own below.
        means = [
            math.nan if OF_STRUCTURES[m].is_signed else figures.get(m, math.nan)
            for m in _STRUCTURES
        ]
        means_text = map(_text, _STRUCTURES, means)
        cells.append(["mean of structures", *means_text])
    echo_columns(["structure", *(OF_STRUCTURES[m].heading for m in _STRUCTURES)], cells)
    for name, metric in OF_STRUCTURES.items():
        if metric.line and name in figures:
            echo(f"{metric.line}: {_text(name, figures[name])}")
    echo()


def _echo_outer_fluid(figures: Mapping[str, float], labels: "LabelTable") -> None:
    """Say that FreeSurfer's label of the fluid is not that around the brain."""
    for name, value in zip(labels.names, labels.ids, strict=True):
        error = figures.get(f"volume_error/{name}", 0.0)
        if value == OUTER_FLUID and error > _FARTHEST:
            note = (
                f"{name}: label {value} of FreeSurfer's aseg is not the fluid around "
                "the brain, which this model gives that label: where the labels are "
                "FreeSurfer's, its figures say nothing"
            )
            echo(textwrap.fill(note, 80) + "\n")


def _text(name: str, value: float) -> str:
    """A figure of a structure with its decimals, some as a percentage."""
    digits = OF_STRUCTURES[name].digits
    if name in _IN_PERCENT:
        return figure_text(100 * value, digits - 2, " %")
    return figure_text(value, digits)


def _echo_regions(figures: Mapping[str, float]) -> None:
    rows = [
        [
            metric.line,
            figure_text(figures[name], metric.digits),
            figure_text(figures.get(f"{name}/foreground", math.nan), metric.digits),
        ]
        for name, metric in OF_REGIONS.items()
        if metric.line and name in figures
    ]
    echo_columns(["probabilities", "whole scan", "near the foreground"], rows)
    echo()
