"""`nobrainer info`: how a model was made."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import nobrainer as nb


@click.command()
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(model_dir: Path, as_json: bool) -> None:
    """Show how a model was made, on what, and how good it was.

    \b
    Examples:
      nobrainer info model
      nobrainer info model --json
    """
    segmentation = nb.Segmentation.load(model_dir)
    recipe, names = asdict(segmentation.recipe_), segmentation.labels_.names
    if as_json:
        story = {"recipe": recipe, "labels": names, "history": segmentation.history_}
        click.echo(json.dumps(story, indent=2))
        return
    provenance = recipe.pop("provenance")
    recipe["model"] = {"name": recipe["model"]["name"], **recipe["model"]["args"]}
    roles = [file["role"] for file in provenance["files"]]
    _echo("model", recipe["model"])
    _echo("labels", dict(enumerate(names)))
    _echo("preprocess", recipe["preprocess"])
    _echo("data", recipe["data"])
    _echo("training", recipe["training"])
    _echo(
        "provenance",
        {
            "started": provenance["started"],
            "ended": provenance["ended"],
            "files": {role: roles.count(role) for role in dict.fromkeys(roles)},
            "versions": provenance["versions"],
        },
    )
    _echo("metrics", provenance["metrics"])


def _echo(title: str, values: dict[Any, Any]) -> None:
    """Print a section: a value a line, what was not set left out."""
    click.echo(click.style(title, bold=True))
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items())
        elif isinstance(value, float):
            value = f"{value:.4g}"
        elif isinstance(value, list | tuple):
            value = " ".join(map(str, value))
        if value not in (None, ""):
            click.echo(f"  {name!s:<20} {value}")
