"""Metadata of a trained model: its files, and the training that they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nobrainer.croissant.files import FileEntry, file_object, record_set
from nobrainer.croissant.vocabulary import describe, properties
from nobrainer.glossary import OF_GENERATORS, OF_TRAINING
from nobrainer.recipe import (
    FileRecord,
    GeneratorRecipe,
    Provenance,
    Recipe,
    SearchRecord,
    Statement,
)

_TITLES = {name: metric.title for name, metric in (OF_TRAINING | OF_GENERATORS).items()}
"""What the figures of a model are: a Dice of training patches does not say how good it
is on new scans."""


def model_metadata(recipe: Recipe, files: Sequence[FileEntry]) -> dict[str, Any]:
    """Describe a trained model: its files, its tables and how it came to be.

    Args:
        recipe: how the model was made.
        files: the files of the model; one with `fields` is described as a table too.

    Returns:
        A JSON-LD document (Croissant 1.1 with PROV-O) for `to_json`.
    """
    return _metadata(
        recipe.model.name,
        f"A {recipe.model.name} network that segments 3-D brain MRI into "
        f"{recipe.data.n_classes} classes: weights, recipe and training history.",
        recipe.provenance,
        _parameters(recipe),
        files,
    )


def generator_metadata(
    recipe: GeneratorRecipe, files: Sequence[FileEntry]
) -> dict[str, Any]:
    """Describe a generator of images as `model_metadata` does a model.

    Args:
        recipe: how the generator was made.
        files: its files.
    """
    name, images = recipe.generator.name, recipe.images
    sides = " x ".join(map(str, images.shape))
    labels = f" with labels of {images.n_classes} classes" if images.n_classes else ""
    described = asdict(recipe)
    return _metadata(
        name,
        f"A {name} generator of 3-D brain images of {sides} voxels{labels}: weights, "
        "recipe and training history.",
        recipe.provenance,
        {
            f"{part}.{key}": value
            for part in ("generator", "images", "training")
            for key, value in (described[part] or {}).items()
        },
        files,
    )


def _metadata(
    name: str,
    description: str,
    made: Provenance,
    parameters: Mapping[str, Any],
    files: Sequence[FileEntry],
) -> dict[str, Any]:
    """Describe what a training has made.

    Args:
        name: name of the network.
        description: what it is, in a sentence.
        made: when and on what it was trained.
        parameters: what was chosen for the training, by name.
        files: its files.
    """
    entities = [(r, _entity(i, r)) for i, r in enumerate(made.files)]
    learned_from = [e for r, e in entities if r.role.startswith("train-")]
    only_checked_on = [e for r, e in entities if not r.role.startswith("train-")]
    figures: dict[str, float] = made.metrics
    if made.search is not None:
        figures = figures | _search_figures(made.search)
    stated, statement = {}, made.statement
    if statement is not None:
        name = statement.name
        stated = {"license": statement.licence, "citation": statement.citation}
    return describe(
        **stated,
        name=name,
        description=description,
        date=made.ended,
        distribution=[file_object(f.name, f) for f in files],
        record_sets=[record_set(f) for f in files if f.fields],
    ) | {
        "additionalProperty": properties(figures, _TITLES),
        "prov:wasDerivedFrom": learned_from + _sources(statement),
        "prov:wasGeneratedBy": _training(
            made,
            parameters,
            [{"@id": e["@id"]} for e in learned_from] + only_checked_on,
        ),
    }


def _sources(statement: Statement | None) -> list[dict[str, Any]]:
    """The published data that the files of the training come from."""
    return [
        {
            "@id": source.url,
            "@type": "prov:Entity",
            "name": source.name,
            "license": source.licence,
            "creditText": source.attribution,
        }
        for source in (() if statement is None else statement.sources)
    ]


def _training(
    made: Provenance, parameters: Mapping[str, Any], used: list[dict[str, Any]]
) -> dict[str, Any]:
    """The training as an activity: when, after which search, from what, by what.

    Args:
        made: when, and with what software.
        parameters: what was chosen for it, by name.
        used: the files that the training read.
    """
    informed_by: dict[str, Any] = {}
    if made.search is not None:
        informed_by = {"prov:wasInformedBy": _describe_search(made.search)}
    return {
        "@id": "training",
        "@type": "prov:Activity",
        "name": "training",
        **_times(made.started, made.ended),
        **informed_by,
        "prov:used": used,
        "prov:wasAssociatedWith": [
            {
                "@id": f"software-{package}",
                "@type": "prov:SoftwareAgent",
                "name": package,
                "softwareVersion": version,
            }
            for package, version in sorted(made.versions.items())
        ],
        "additionalProperty": properties(parameters),
    }


def _parameters(recipe: Recipe) -> dict[str, Any]:
    """What was chosen for the training, by the place in the recipe."""
    described, made = asdict(recipe), recipe.provenance
    parameters = {
        f"{part}.{name}": value
        for part in ("model", "preprocess", "data", "training")
        for name, value in described[part].items()
    }
    parameters["provenance.member_seeds"] = made.member_seeds or None
    if made.folds:
        parameters["provenance.folds"] = [fold.subjects for fold in made.folds]
    if made.cohort is not None:
        parameters["provenance.trained_on"] = made.cohort.counted
    return parameters


def _entity(index: int, record: FileRecord) -> dict[str, Any]:
    """A file of the training; its number makes the identifier unique."""
    return {
        "@id": f"{record.role}-{index}",
        "@type": "prov:Entity",
        "name": record.name,
        "description": record.role,
        "contentSize": f"{record.size_bytes} B",
        "sha256": record.sha256,
    }


def _times(started: str, ended: str) -> dict[str, Any]:
    """When an activity began and ended, both ISO 8601."""
    return {
        "prov:startedAtTime": {"@type": "xsd:dateTime", "@value": started},
        "prov:endedAtTime": {"@type": "xsd:dateTime", "@value": ended},
    }


def _describe_search(search: SearchRecord) -> dict[str, Any]:
    """The study that the training was one run of."""
    parameters = {
        "family": search.family,
        "proposer": search.proposer,
        "objectives": search.objectives,
        "seed": search.seed,
        "run": search.run,
        "n_runs": search.n_runs,
        "n_failed": search.n_failed,
        "n_train": search.n_train,
        "n_validate": search.n_validate,
        "n_test": search.n_test,
        "n_train_scans": search.n_train_scans,
        "n_validate_scans": search.n_validate_scans,
        "n_test_scans": search.n_test_scans,
        **{f"space.{name}": limits for name, limits in search.space.items()},
        **{f"values.{name}": value for name, value in search.values.items()},
    }
    return {
        "@id": "search",
        "@type": "prov:Activity",
        "name": "search",
        **_times(search.started, search.ended),
        "additionalProperty": properties(
            {f"search.{name}": value for name, value in parameters.items()}
        ),
    }


def _search_figures(search: SearchRecord) -> dict[str, float]:
    """The figures of the model, those of the baseline, and their difference."""
    groups = {
        "validation": search.validation,
        "baseline_validation": search.baseline_validation,
        "spread": search.spread,
        "test": search.test or {},
        "baseline_test": search.baseline_test or {},
    }
    if search.test_difference is not None:
        ends = zip(("mean", "low", "high"), search.test_difference, strict=True)
        groups["test_difference"] = dict(ends)
    return {
        f"search.{group}.{name}": value
        for group, figures in groups.items()
        for name, value in figures.items()
    }
