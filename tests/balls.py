"""The smallest scans worth training on: a bright ball in a larger, dimmer one."""

import nibabel as nib
import numpy as np

SHAPE = (24, 24, 24)


def ball(number):
    """A bright ball in a larger, dimmer one, and the mask of the bright one."""
    rng = np.random.default_rng(number)
    centre = np.array(SHAPE) / 2 + rng.uniform(-2, 2, 3)
    gap = np.indices(SHAPE) - centre[:, None, None, None]
    distance = np.linalg.norm(gap, axis=0)
    mask = (distance < 7).astype(np.uint8)
    image = 60 * (distance < 10) + 60 * mask + rng.normal(20, 5, SHAPE)
    return image.astype(np.float32), mask


def write_ball(folder, number):
    """Write the ball `number`; returns the paths of its image and mask."""
    paths = folder / f"sub-{number}_T1w.nii", folder / f"sub-{number}_mask.nii"
    for data, path in zip(ball(number), paths, strict=True):
        nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return paths
