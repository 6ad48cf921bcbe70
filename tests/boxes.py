"""A box of models as nobrainer brings it: the real one, or one made for tests."""

from dataclasses import replace
from pathlib import Path

import pytest

import nobrainer as nb
from balls import write_ball
from nobrainer.shipped import registry

REAL = registry.FOLDER


def make_model(folder: Path, dice: float = 0.75) -> Path:
    """A model of balls that has learned next to nothing, in half precision.

    Args:
        folder: where its scan, its labels and, as `brain`, the model go.
        dice: the Dice that its recipe says it has on validation scans.
    """
    pair = write_ball(folder, 0)
    data = nb.Dataset.from_files([pair], (16, 16, 16)).batch(2).patches(per_volume=2)
    model = nb.Segmentation("bayesian_vnet", {"base_filters": 1, "levels": 1})
    model.fit(data, verbose=False)
    recipe = model.recipe_
    made = replace(recipe.provenance, metrics={"validation_dice": dice})
    model.learned_ = replace(
        model.learned_, recipe=replace(recipe, provenance=made), history=()
    )
    return model.save(folder / "brain", weights="float16")


def use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let a folder be the one whose models come with nobrainer."""
    monkeypatch.setattr(registry, "FOLDER", folder)


def box_of(folder: Path) -> Path:
    """The box of nobrainer if `brain` is in it, else one that is made in a folder."""
    if "brain" in nb.shipped.names():
        return REAL
    make_model(folder)
    return folder


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all that lies in a folder, and of the folder."""
    paths = [folder, *folder.rglob("*")]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in paths}
