"""`nobrainer evaluate`: how good a model is, and whether its uncertainty is right."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import nobrainer as nb
from nobrainer.cli.options import (
    DRAWS,
    JSON,
    LABELLED,
    MODEL,
    OUTPUT_DIR,
    OVERWRITE,
    SEED,
)
from nobrainer.cli.outputs import (
    echo,
    echo_columns,
    figure_text,
    to_json,
)
from nobrainer.cli.results import Results, make_method
from nobrainer.cli.scans import end
from nobrainer.data.table import read_table
from nobrainer.errors import InputError
from nobrainer.formats import require_file
from nobrainer.io import write_text
from nobrainer.naming import count_scans

_REGIONS = {
    "nll": "neg. log-likelihood (nats)",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "mce": "maximum calibration error",
    "ace": "adaptive calibration error",
    "auroc_entropy": "errors found by entropy, AUROC",
    "auroc_variance": "errors found by variance, AUROC",
    "auroc_mutual_information": "errors found by mutual inf., AUROC",
}
_COVERED = {
    "covered": "true volumes inside the interval of the draws",
    "conformal_covered": "true volumes inside the calibrated interval",
}


@click.command()
@LABELLED
@MODEL
@OUTPUT_DIR
@DRAWS
@SEED
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
@OVERWRITE
@JSON
@click.pass_context
def evaluate(
    ctx: click.Context,
    table: Path,
    model_dir: Path,
    output_dir: Path,
    n_samples: int,
    seed: int,
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
        n_samples=n_samples,
        seed=seed,
        options={"surfaces": not no_surfaces},
    )
    results = Results(output_dir, method, segmentation.device, overwrite=overwrite)
    results.open(["evaluation"], paths.values())
    inputs = [row[kind] for row in pairs for kind in ("image", "label")]
    files = {name: str(path) for name, path in paths.items()}
    earlier = results.records().get("evaluation")
    if earlier is not None and not earlier.data["problems"]:
        earlier = results.find_done("evaluation", inputs, paths.values())
        if earlier is not None:
            story = earlier.data["story"] | {"files": files}
            _echo_story(story, segmentation.labels_.names, as_json=as_json)
            echo(
                "nobrainer: the evaluation was done before and is not done again "
                "(--overwrite does)",
                err=True,
            )
            return
    problems = list(absent)
    with results.work("evaluation", inputs, paths.values()) as work:
        try:
            evaluation = segmentation.evaluate(
                dataset,
                n_samples=n_samples,
                seed=seed,
                surfaces=not no_surfaces,
                allow_seen=allow_seen,
            )
        except nb.BatchError as error:
            evaluation, problems = error.results, [*absent, *error.problems]
        if not evaluation:
            end(ctx, problems)
        work.begin()
        write_text(evaluation.to_tsv(), paths["metrics"], overwrite=True)
        nb.report.write_evaluation(
            evaluation,
            paths["report"],
            labels=segmentation.labels_,
            model=segmentation.recipe_,
            title=f"{model_dir.resolve().name} on {table.name}",
            calibration=segmentation.calibration_,
            overwrite=True,
        )
        story = {
            "n_scans": evaluation.n_scans,
            "n_subjects": evaluation.n_subjects,
            "warning": evaluation.warning or None,
            "seen": {row.subject: row.seen for row in evaluation if row.seen},
            "n_samples": n_samples,
            "metrics": nb.summarise(evaluation),
            "files": files,
        }
        work.data = {"problems": problems, "story": story}
    _echo_story(story, segmentation.labels_.names, as_json=as_json)
    end(ctx, problems)


def _echo_story(
    story: Mapping[str, Any], names: Sequence[str], *, as_json: bool
) -> None:
    """Print what an evaluation found; `names` of the classes, background first."""
    if as_json:
        echo(to_json(story))
        return
    if story["warning"]:
        echo(textwrap.fill(f"WARNING: {story['warning']}", 80) + "\n")
    echo(f"means over {count_scans(story['n_scans'], story['n_subjects'])}\n")
    # A record has null for what is not defined.
    figures = {k: math.nan if v is None else v for k, v in story["metrics"].items()}
    _echo_structures(figures, names[1:])
    _echo_regions(figures)
    echo("files")
    for name, path in story["files"].items():
        echo(f"  {name:<10} {path}")


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
    if len(rows) > 1:
        rows.append(("mean of structures", ""))
    cells = [
        [
            name,
            figure_text(figures.get(f"dice{part}", math.nan)),
            figure_text(figures.get(f"hd95_mm{part}", math.nan), 2),
            figure_text(figures.get(f"surface_dice{part}", math.nan)),
            figure_text(100 * figures.get(f"volume_error{part}", math.nan), 1, " %"),
        ]
        for name, part in rows
    ]
    header = ["structure", "Dice", "HD95 (mm)", "surface Dice", "volume error"]
    echo_columns(header, cells)
    for metric, words in _COVERED.items():
        if metric in figures:
            echo(f"{words}: {figure_text(100 * figures[metric], 0, ' %')}")
    echo()


def _echo_regions(figures: Mapping[str, float]) -> None:
    rows = [
        [
            words,
            figure_text(figures[metric], 4),
            figure_text(figures.get(f"{metric}/foreground", math.nan), 4),
        ]
        for metric, words in _REGIONS.items()
        if metric in figures
    ]
    echo_columns(["probabilities", "whole scan", "near the foreground"], rows)
    echo()
