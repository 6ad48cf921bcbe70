"""Viewers of maps over a scan."""

import re

import nibabel as nib
import numpy as np
import pytest

from nobrainer.data.labels import LabelTable
from nobrainer.report.viewer import Scan


def test_the_viewer_shows_a_map_of_ids_as_one_of_class_numbers() -> None:
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(rng.random((12, 12, 12), np.float32), np.eye(4))
    scan = Scan(image, (6.0, 6.0, 6.0))
    classes = rng.integers(0, 3, (12, 12, 12)).astype(np.uint8)
    table = LabelTable(("air", "a", "b"), ids=(0, 1035, 8))
    pages = []
    for one in (table, table.numbered()):
        label = nib.Nifti1Image(one.to_values(classes), np.eye(4))
        viewer = scan.show_labels(label, one)
        assert viewer is not None
        # nilearn gives the elements of a page a random name.
        pages.append(re.sub("[0-9a-f]{32}", "", viewer.html))
    assert pages[0] == pages[1]


@pytest.mark.filterwarnings("error:Threshold")
def test_a_map_without_a_dark_place_is_shown_without_a_warning() -> None:
    values = np.random.default_rng(0).uniform(0.5, 0.6, (20, 20, 20))
    image = nib.Nifti1Image(values.astype(np.float32), np.eye(4))
    scan = Scan(image, (10.0, 10.0, 10.0))
    assert scan.show_map("Entropy (nats)", image, "viridis", 0.6) is not None
