"""`nobrainer info`: how a model was made."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import nobrainer as nb
from nobrainer.cli.options import JSON, find_model
from nobrainer.cli.outputs import echo, echo_columns, to_json


@click.command()
@click.argument(
    "model_dir",
    metavar="[MODEL]",
    required=False,
    type=click.Path(),
    callback=find_model,
)
@JSON
def info(model_dir: Path, as_json: bool) -> None:
    """Show how a model was made, on what, and how good it was.

    MODEL is the directory of a model, a checkpoint, or a name that `nobrainer models`
    lists; without it, it is the model `brain`, which comes with nobrainer.

    \b
    Examples:
      nobrainer info
      nobrainer info model
      nobrainer info model --json
    """
    segmentation = nb.Segmentation.load(model_dir)
    recipe, labels = asdict(segmentation.recipe_), segmentation.labels_
    calibration, quality = segmentation.calibration_, segmentation.quality_
    if as_json:
        story = {
            "recipe": recipe,
            "labels": labels.names,
            "label_values": labels.values,
            "history": segmentation.history_,
            "calibration": None if calibration is None else asdict(calibration),
            "quality": None if quality is None else asdict(quality),
        }
        echo(to_json(story))
        return
    provenance = recipe.pop("provenance")
    args = recipe["model"].pop("args")
    members = args.pop("members", [])
    recipe["model"] |= args
    for number, (member, its_args) in enumerate(members):
        recipe["model"][f"member {number}"] = {"name": member, **its_args}
    cohort = segmentation.recipe_.provenance.cohort
    roles = [file["role"] for file in provenance["files"]]
    caution = segmentation.recipe_.provenance.caution
    if caution:
        echo(f"{caution}\n")
    _echo("model", recipe["model"])
    cohort = segmentation.recipe_.provenance.cohort
    never_seen = () if cohort is None else cohort.never_seen
    names = [
        f"{name} (not in training)" if index in never_seen else name
        for index, name in enumerate(labels.names)
    ]
    _echo("labels", dict(zip(labels.values, names, strict=True)))
    _echo("preprocess", recipe["preprocess"])
    _echo("data", recipe["data"])
    _echo("training", recipe["training"])
    _echo(
        "provenance",
        {
            "started": provenance["started"],
            "ended": provenance["ended"],
            "trained on": "" if cohort is None else cohort.counted,
            "files": {role: roles.count(role) for role in dict.fromkeys(roles)},
            "versions": provenance["versions"],
            "member_seeds": provenance["member_seeds"],
            "n_synthetic": provenance["n_synthetic"],
            "n_maps": provenance["n_maps"],
            **{
                f"fold {number}": fold["subjects"]
                for number, fold in enumerate(provenance["folds"])
            },
        },
    )
    _echo("metrics", provenance["metrics"])
    echo_fitted(segmentation)


def echo_fitted(segmentation: "nb.Segmentation") -> None:
    """Print what was fitted to a model on held-out scans, if anything was."""
    calibration, quality = segmentation.calibration_, segmentation.quality_
    if calibration is not None:
        before, after = calibration.nll_before, calibration.nll_after
        values: dict[str, Any] = {
            "method": f"{calibration.method}, fitted on {calibration.counted}",
            "nll near foreground": f"{before:.4f} before, {after:.4f} after (nats)",
        }
        columns: dict[str, tuple[float | None, ...]] = {}
        if calibration.method == "temperature":
            values["temperature"] = 1 / calibration.weight[0]
        else:
            columns |= {"weight": calibration.weight, "bias": calibration.bias}
        if calibration.intensity_weight:
            values["weight of the scan's intensities"] = calibration.intensity_weight
        intervals = calibration.intervals
        if intervals is not None:
            values["intervals"] = (
                f"{100 * intervals.coverage:g} % of true volumes, fitted on "
                f"{intervals.counted}"
            )
            columns["interval factor"] = intervals.factors
        _echo("calibration", values)
        if columns:
            rows = [
                [f"  {name}", *("-" if v is None else f"{v:.3f}" for v in of_class)]
                for name, *of_class in zip(
                    segmentation.labels_.names, *columns.values(), strict=True
                )
            ]
            echo_columns(["  class", *columns], rows)
    if quality is not None:
        _echo(
            "quality model",
            {
                "fitted on": quality.counted,
                "error of Dice": f"{quality.error:.3f}, mean over subjects left out",
            },
        )


def _echo(title: str, values: dict[Any, Any]) -> None:
    """Print a section, one value on each line, without those that are not set."""
    echo(title, bold=True)
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items())
        elif isinstance(value, float):
            value = f"{value:.4g}"
        elif isinstance(value, list | tuple):
            value = " ".join(map(str, value))
        if value not in (None, ""):
            echo(f"  {name!s:<20} {value}")
