"""From a data set of label maps to a generator that makes images of them."""

from dataclasses import asdict

import numpy as np
import torch

from nobrainer.data.prepared import HeadMap
from nobrainer.data.synthesis import Anatomy
from nobrainer.errors import InputError
from nobrainer.generators import LabelMaps
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.progress import ProgressBar
from nobrainer.recipe import ImagesConfig


def read_maps(
    dataset: Dataset, bar: ProgressBar
) -> tuple[LabelMaps, dict[str, object], ImagesConfig]:
    """Keep the label maps of a data set.

    Args:
        dataset: label maps, see `Dataset.from_label_maps`.
        bar: shows how many are read.

    Returns: the generator, the arguments that it was built with, and what its images
        are.

    Raises: InputError where the data set has scans, or a map cannot be used.
    """
    synthesis = dataset.config.synthesis
    if synthesis is None or not all(scan.is_map for scan in dataset.data):
        raise InputError(
            "label_synthesis makes images of label maps alone: give "
            "Dataset.from_label_maps(...)"
        )
    heads: list[HeadMap] = []
    shapes: list[tuple[int, int, int]] = []
    bar.begin("reading", len(dataset))
    for number, scan in enumerate(dataset.iterate(), start=1):
        assert scan.head is not None
        heads.append(scan.head)
        shapes.append(scan.geometry.shape)
        bar.advance(number, len(dataset))
    classes = {
        value: class_
        for head in heads
        for value, class_ in zip(head.anatomy.values, head.anatomy.classes, strict=True)
    }
    values = sorted(classes)
    args: dict[str, object] = {
        "synthesis": asdict(synthesis),
        "values": values,
        "classes": [classes[value] for value in values],
        "shapes": [list(shape) for shape in shapes],
    }
    anatomy = Anatomy.of(values, classes, synthesis.pairs)
    made = LabelMaps(**args)  # type: ignore[arg-type]
    for number, head in enumerate(heads):
        where = torch.from_numpy(anatomy.positions(np.array(head.anatomy.values)))
        made.keep(number, where[torch.from_numpy(head.positions).long()])
    i, j, k = (max(sides) for sides in zip(*shapes, strict=True))
    assert dataset.preprocess.spacing_mm is not None
    config = ImagesConfig(
        *((i, j, k), dataset.preprocess.spacing_mm, 0.0, 1.0),
        *(dataset.n_classes, len(heads), dataset.preprocess),
    )
    return made, args, config
