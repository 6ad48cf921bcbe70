"""A model of FreeSurfer's ids with random weights, and a scan, to look at outputs."""

import nibabel as nib
import numpy as np
import torch

from nobrainer import models
from nobrainer.data.labels import LabelTable
from nobrainer.processing.learned import Learned
from nobrainer.processing.segmentation import Segmentation
from recipes import make_recipe

IDS = (0, 2, 3, 4, 24, 41, 42)
LABELS = LabelTable(("air", "wm", "ctx", "ventricle", "csf", "wm R", "ctx R"), ids=IDS)
GM, WM, CSF = (2, 6), (1, 5), (3, 4)
"""Numbers of the classes of each tissue."""


def model_of_brains(labels: LabelTable = LABELS, **learned) -> Segmentation:
    """A network that finds some of every class in noise, and says so of `labels`."""
    n_classes = len(labels.names)
    args = {"n_classes": n_classes, "base_filters": 4, "levels": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.build("bayesian_vnet", **args).eval()
    recipe = make_recipe(model={"args": args}, data={"n_classes": n_classes})
    model = Segmentation("bayesian_vnet", args)
    model.learned_ = Learned(network, recipe, labels, ({"epoch": 1},), **learned)
    return model


def noise(shape=(20, 22, 24), spacing_mm=(1.0, 1.0, 1.0)) -> nib.Nifti1Image:
    data = np.random.default_rng(0).random(shape, np.float32)
    return nib.Nifti1Image(data, np.diag([*spacing_mm, 1.0]))
