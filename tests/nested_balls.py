"""Scans of a bright ball in a dimmer one, and small models to learn them."""

import nibabel as nib
import numpy as np

from nobrainer.processing.dataset import Dataset
from small_models import MONAI, SHAPES

SHAPE, BLOCK = (24, 26, 28), (16, 16, 16)
RADIUS_MM = 7
CENTRE_MM = np.array([-3.0, 4.0, 5.0])
TINY = {
    "unet": {"base_filters": 2, "levels": 2, "norm": "instance"},
    "vnet": {"base_filters": 2, "levels": 2},
    "meshnet": {"base_filters": 2, "dilations": [1, 2]},
    "bayesian_vnet": {"base_filters": 2, "levels": 2},
    "bayesian_meshnet": {"base_filters": 2, "dilations": [1, 2]},
    "kwyk": {"base_filters": 3, "dilations": [1, 2]},
    "ensemble": {
        "members": [
            ["vnet", {"base_filters": 2, "levels": 2}],
            ["bayesian_meshnet", {"base_filters": 2, "dilations": [1, 2]}],
        ]
    },
}
TINY |= MONAI
# Patches of networks that do not take any.
BLOCKS = SHAPES
STOCHASTIC = {"bayesian_vnet", "bayesian_meshnet", "kwyk", "ensemble"}
MAPS = ("label", "variance", "entropy", "mutual_information")


def grid(shape=SHAPE, spacing=(1, 1, 1)):
    """A RAS affine whose grid has `CENTRE_MM` in its middle."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = CENTRE_MM - (np.array(shape) - 1) / 2 * spacing
    return affine


def ball(number, shape=SHAPE, affine=None):
    """A bright ball in a larger, dimmer one near `CENTRE_MM`, int16, and its mask."""
    affine = grid(shape) if affine is None else affine
    rng = np.random.default_rng(number)
    centre = CENTRE_MM + rng.uniform(-2, 2, 3)
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    gap = nib.affines.apply_affine(affine, voxels) - centre
    distance = np.linalg.norm(gap, axis=-1)
    mask = (distance < RADIUS_MM).astype(np.uint8)
    image = 20 + 60 * (distance < RADIUS_MM + 3) + 60 * mask + rng.normal(0, 5, shape)
    return np.round(image).astype(np.int16), mask


def write_ball(folder, number, spacing=(1, 1, 1)):
    affine = grid(spacing=spacing)
    paths = folder / f"sub-{number}_T1w.nii.gz", folder / f"sub-{number}_mask.nii.gz"
    for data, path in zip(ball(number, affine=affine), paths, strict=True):
        nib.save(nib.Nifti1Image(data, affine), path)
    return paths


def write_nested(folder, number):
    """Paths of a scan and of labels: 2 in the bright ball, 1 in the dimmer one."""
    image, core = ball(number)
    labels = (core + (image > 50)).astype(np.uint8)
    paths = folder / f"sub-{number}_T1w.nii", folder / f"sub-{number}_seg.nii"
    for data, path in zip((image, labels), paths, strict=True):
        nib.save(nib.Nifti1Image(data, grid()), path)
    return paths


def build(pairs, block=BLOCK, **patches):
    data = Dataset.from_files(pairs, block).batch(2).binarize()
    return data.patches(**({"per_volume": 8} | patches))


def values(image):
    return np.asarray(image.dataobj)


def dice(a, b):
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


def same(first, second, names=MAPS):
    return all(
        np.array_equal(values(getattr(first, n)), values(getattr(second, n)))
        for n in names
    )
