"""The sections on what a model learned from, with which settings, and how well."""

from collections import Counter
from dataclasses import asdict

from nobrainer.data.labels import LabelTable
from nobrainer.glossary import OF_TRAINING
from nobrainer.model_card.markdown import flat, mark, show, table
from nobrainer.recipe import DataConfig, Recipe, Statement

# The card speaks of these in words, or `recipe.json` is the place to look.
_TOLD = ("data.n_classes", "data.relabel", "data.binarize", "model.args.n_classes")


def tell_data(recipe: Recipe, labels: LabelTable) -> str:
    """The section on the scans, and on how their labels became classes.

    Args:
        recipe: how the model was made.
        labels: its classes.
    """
    roles = Counter(record.role for record in recipe.provenance.files)
    files = (
        table(["files", "number"], roles.items())
        if roles
        else "No files are on record: the scans were given in memory."
    )
    return f"""\
It was trained on {trained_on(recipe)}. {_classes_made(recipe.data, labels)}\
{_synthesis(recipe)}{_folds(recipe)}

{files}

Names and checksums of the files are in `recipe.json`."""


def tell_sources(stated: Statement | None) -> str:
    """Where the data comes from, and what was held out, as far as that is stated."""
    if stated is None or not stated.sources:
        text = (
            "Where the scans come from, who the subjects are (age, sex, diagnosis) and "
            "who drew the labels is not on record: ask whoever shares the model."
        )
    else:
        rows = [(s.name, s.licence, s.attribution, s.url) for s in stated.sources]
        text = table(["source", "licence", "attribution", "address"], rows)
    held_out = f"\n\n{mark(stated.held_out)}" if stated and stated.held_out else ""
    return f"\n\n{text}{held_out}"


def _synthesis(recipe: Recipe) -> str:
    """How images were made of label maps, where there were any."""
    n_maps, share = recipe.provenance.n_maps, recipe.data.map_share
    if not n_maps:
        return ""
    part = "" if share is None else f" These are {share:.0%} of its patches."
    return (
        f"\n\nOf these, {n_maps} are label maps of heads without a scan: an image of "
        "random shape, contrast and quality was made from one for every patch "
        f"(`data.synthesis` in `recipe.json` has the ranges).{part}"
    )


def _folds(recipe: Recipe) -> str:
    """Whom each member of an ensemble left out, where they left out anybody."""
    folds = recipe.provenance.folds
    if not folds:
        return ""
    rows = [
        (number, fold.n_scans, ", ".join(fold.subjects))
        for number, fold in enumerate(folds)
    ]
    return (
        f"\n\nIt is an ensemble of {len(folds)} networks. The subjects were divided "
        "at random into as many folds, and each member learned from all scans but "
        "those of its own fold. Each scan is therefore new to one member, by which it "
        "was predicted *out of fold*.\n\n"
        + table(["fold and member", "scans", "subjects"], rows)
    )


def trained_on(recipe: Recipe) -> str:
    """How many scans of how many people the model was trained on, in words."""
    cohort = recipe.provenance.cohort
    if cohort is None:
        return "a number of scans that is not on record"
    return cohort.counted


def _classes_made(data: DataConfig, labels: LabelTable) -> str:
    """How the labels of the files became classes."""
    if data.binarize == "nonzero":
        return f"Every label of its files but 0 is {mark(labels.names[1])}."
    if data.binarize == "ids":
        ids = show(data.binarize_ids)
        return f"Of the labels of its files these are {mark(labels.names[1])}: {ids}."
    if data.binarize == "callable":
        name = mark(data.binarize_name)
        return f"A function ({name}), which is not stored, made its labels into two."
    if data.relabel is not None:
        return (
            f"{len(data.relabel)} labels of its files were mapped to the "
            f"{len(labels.names)} classes (`data.relabel` in `recipe.json`)."
        )
    return "The labels of its files are the classes."


def tell_training(recipe: Recipe, n_epochs: int) -> str:
    """The section on how long the model was trained, with a table of its settings.

    Args:
        recipe: how the model was made.
        n_epochs: number of epochs, summed over the members of an ensemble.
    """
    settings = {
        part: asdict(getattr(recipe, part))
        for part in ("model", "preprocess", "data", "training")
    }
    rows = [
        (name, value)
        for name, value in flat(settings)
        if not name.startswith(_TOLD) and value not in (None, (), "")
    ]
    seeds = recipe.provenance.member_seeds
    members = f", over its {len(seeds)} members" if seeds else ""
    stated = recipe.provenance.statement
    told = f"{mark(stated.training)}\n\n" if stated and stated.training else ""
    return (
        f"{told}Epochs trained: {n_epochs}{members}. The settings, by their names in "
        f"`recipe.json`:\n\n{table(['setting', 'value'], rows)}"
    )


_VALIDATED = {
    "out_of_fold_dice": "scans out of fold",
    "validation_dice": "validation scans",
    "synthetic_validation_dice": "images of validation label maps",
}


def tell_figures(recipe: Recipe) -> str:
    """The section on the figures of the training, those of the validation first."""
    metrics = recipe.provenance.metrics
    titles = {key: metric.name for key, metric in OF_TRAINING.items()}
    first: list[str] = []
    for whole, where in _VALIDATED.items():
        of_classes = [name for name in metrics if name.startswith(f"{whole}_")]
        first += [name for name in (whole, *of_classes) if name in metrics]
        titles |= {
            name: f"Dice on {where}, {name.removeprefix(f'{whole}_')}"
            for name in of_classes
        }
    rows = [
        (titles.get(name, name), metrics[name])
        for name in sorted(metrics, key=[*first, *metrics].index)
    ]
    figures = table(["figure", "value"], rows) if rows else "None were taken."
    if recipe.provenance.statement is not None:
        note = "What they were measured on, the training data above say."
    elif "out_of_fold_dice" in metrics:
        note = (
            "Out of fold, a whole scan is predicted with the mean of the weights of "
            "the one member that has not learned from it. No scan chose an epoch. They "
            "are figures of single members, each of which has seen fewer subjects than "
            "the ensemble: its own Dice on new scans like these is usually a little "
            "higher."
        )
    elif "validation_dice" in metrics:
        note = (
            "Validation is on whole scans, with the mean of the weights. The epoch was "
            f"chosen by its {titles['validation_dice']}, which flatters the model a "
            "little."
        )
    else:
        note = (
            "How good it is on scans that it was not trained on was not measured in "
            "training: do that first, with `nobrainer evaluate`."
        )
    return f"{figures}\n\n{note}"
