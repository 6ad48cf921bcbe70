"""Datasets whose scans are prepared as those that a model learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from nobrainer.data.entries import Entry
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.io import ImageSource
from nobrainer.naming import repeats
from nobrainer.processing.dataset import Dataset
from nobrainer.recipe import Recipe


def dataset_alike(
    recipe: Recipe,
    labels: LabelTable,
    files: Sequence[Entry],
    label_maps: Sequence[ImageSource | Mapping[str, Any]],
    n_images: int,
    store: str | PathLike[str] | None,
    split: str | None,
) -> Dataset:
    """Make a dataset of scans, and of label maps of which images are made.

    Args:
        recipe: how the model was made.
        labels: its classes.
        files: scans, as for `Dataset.from_files`.
        label_maps: as for `Dataset.from_label_maps`; they come after the scans.
        n_images: number of images of each label map.
        store, split: as for `Dataset.from_zarr`; its scans come first.

    Raises:
        InputError: files that cannot be used; a model whose labels were binarized by a
            function; or label maps for a model that has not learned from any.
    """
    data = recipe.data
    if data.binarize == "callable":
        raise InputError(
            f"the model's labels were binarized by {data.binarize_name}, which is "
            "not kept with it: use Dataset.from_files(...).binarize(function)"
        )
    parts = []
    if store is not None:
        parts.append(Dataset.from_zarr(store, split, n_classes=data.n_classes))
    if files or not (parts or label_maps):
        parts.append(Dataset.from_files(files, n_classes=data.n_classes))
    if label_maps:
        if data.synthesis is None:
            raise InputError(
                "the model has not learned from label maps, so that there is no "
                "record of how images are made of them: give scans with labels"
            )
        parts.append(Dataset.from_label_maps(label_maps, n_images=n_images))
    scans = tuple(scan for part in parts for scan in part.data)
    if twice := repeats(scan.shown for scan in scans):
        raise InputError("\n".join(twice))
    return replace(
        parts[0], data=scans, config=data, labels=labels, reading=recipe.preprocess
    )
