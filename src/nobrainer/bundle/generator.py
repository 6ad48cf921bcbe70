"""A generator on disk: the files of a model, with another recipe and card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nobrainer.bundle.contents import (
    CARD,
    CROISSANT,
    HISTORY,
    LABELS,
    RECIPE,
    SUMS,
    WEIGHTS,
    describe_files,
    list_checksums,
    pack_history,
    pack_weights,
    parse_file,
    read_history,
    unpack_weights,
)
from nobrainer.croissant import generator_metadata, to_json
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.model_card import generator_card
from nobrainer.recipe import GeneratorRecipe


@dataclass(frozen=True)
class GeneratorBundle:
    """A generator: how it was made, its weights, its classes, its training.

    `weights` is the state of the generator alone, or the label maps that it keeps;
    `labels` is None where its images have none; a row of `history` is one pass over the
    images.
    """

    recipe: GeneratorRecipe
    weights: dict[str, torch.Tensor]
    labels: LabelTable | None
    history: tuple[dict[str, Any], ...]


def pack_generator(bundle: GeneratorBundle) -> dict[str, bytes]:
    """All files of a generator, the list of checksums last."""
    recipe = bundle.recipe
    contents = {
        WEIGHTS: pack_weights(bundle.weights, recipe.generator.weights),
        RECIPE: recipe.to_json().encode(),
    }
    if bundle.labels is not None:
        contents[LABELS] = bundle.labels.to_tsv().encode()
    contents[HISTORY] = pack_history(bundle.history)
    contents[CARD] = generator_card(recipe, bundle.labels, bundle.history).encode()
    metadata = generator_metadata(recipe, describe_files(contents))
    contents[CROISSANT] = to_json(metadata).encode()
    contents[SUMS] = list_checksums(contents)
    return contents


def unpack_generator(directory: Path, contents: Mapping[str, bytes]) -> GeneratorBundle:
    """The generator whose files these are.

    Args:
        directory: where they come from, for messages.
        contents: the files by name, without the list of checksums.

    Raises:
        InputError: a file is not what it should be, or does not fit the others.
    """
    recipe = parse_file(
        directory / RECIPE,
        lambda data: GeneratorRecipe.from_json(data.decode()),
        contents[RECIPE],
    )
    labels = None
    if LABELS in contents:
        labels = parse_file(
            directory / LABELS,
            lambda data: LabelTable.from_tsv(data.decode()),
            contents[LABELS],
        )
    n_classes = 0 if labels is None else len(labels.names)
    if n_classes != recipe.images.n_classes:
        raise InputError(
            f"{directory}: its labels are {n_classes}, the classes "
            f"{recipe.images.n_classes}"
        )
    kept = recipe.generator.weights
    return GeneratorBundle(
        recipe=recipe,
        weights=parse_file(
            directory / WEIGHTS,
            lambda data: unpack_weights(data, kept),
            contents[WEIGHTS],
        ),
        labels=labels,
        history=parse_file(directory / HISTORY, read_history, contents[HISTORY]),
    )
