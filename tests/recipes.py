"""A recipe and a search as training writes them; tests change what they look at."""

from dataclasses import replace
from typing import Any

from nobrainer.recipe import (
    DataConfig,
    ModelConfig,
    PreprocessConfig,
    Provenance,
    Recipe,
    SearchRecord,
    TrainingConfig,
)

RECIPE = Recipe(
    model=ModelConfig("bayesian_vnet", {"n_classes": 2}),
    preprocess=PreprocessConfig(),
    data=DataConfig(
        n_classes=2,
        block_shape=(32, 32, 32),
        batch_size=2,
        patches_per_volume=8,
        foreground=0.5,
        shuffle=True,
    ),
    training=TrainingConfig(
        epochs=3,
        optimizer="Adam",
        opt_args={"lr": 1e-3, "betas": (0.9, 0.99)},
        loss="cross_entropy",
        class_weights=None,
        schedule="constant",
        seed=7,
        precision="32",
        gradient_clip=None,
        accumulate=1,
        patience=None,
        max_minutes=None,
    ),
    provenance=Provenance(
        started="2025-01-02T03:04:05+00:00",
        ended="2025-01-02T03:05:05+00:00",
        versions={"nobrainer": "0.1.0"},
        files=(),
        metrics={"validation_dice": 0.5},
    ),
)
SEARCH = SearchRecord(
    family="bayesian_vnet",
    proposer="tpe",
    objectives=("dice", "nll"),
    seed=3,
    run=7,
    n_runs=15,
    n_failed=2,
    n_train=6,
    n_validate=2,
    n_test=2,
    started="2025-01-01T20:00:00+00:00",
    ended="2025-01-02T04:00:00+00:00",
    space={"base_filters": {"values": [8, 16]}, "levels": {"low": 2, "high": 4}},
    values={"base_filters": 16, "levels": 3},
    validation={"dice": 0.91, "nll": 0.2},
    baseline_validation={"dice": 0.88, "nll": 0.25},
    spread={"dice": 0.004, "nll": 0.01},
    test={"dice": 0.9},
    baseline_test={"dice": 0.87},
    test_difference=(0.03, 0.01, 0.05),
)


def make_recipe(**parts: dict[str, Any]) -> Recipe:
    """The recipe with other fields, such as `make_recipe(training={"seed": 3})`."""
    changed = {
        part: replace(getattr(RECIPE, part), **fields) for part, fields in parts.items()
    }
    return replace(RECIPE, **changed)
