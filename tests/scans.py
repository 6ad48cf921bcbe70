"""Small scans with FreeSurfer's label values, and what their loaders give."""

import nibabel as nib
import numpy as np
import torch

SHAPE = (18, 16, 20)
BLOCK = (8, 8, 8)
IDS = (0, 2, 3, 17, 41, 9999)


def write_scan(folder, name, *, spacing=1.0, offset=0):
    """A scan of stripes with FreeSurfer ids, and its label map."""
    labels = np.zeros(SHAPE, np.int16)
    for number, value in enumerate(IDS):
        labels[3 * number : 3 * number + 3, 4:12] = value
    noise = np.random.default_rng(len(name) + offset).normal(0, 3, SHAPE)
    image = (60 + 40 * (labels > 0) + noise).astype(np.float32)
    affine = np.diag([-spacing, spacing, spacing, 1])
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}_T1w.nii.gz", folder / f"{name}_dseg.nii.gz"
    for data, path in zip((image, labels), paths, strict=True):
        nib.save(nib.Nifti1Image(data, affine), path)
    return paths


def batches(loader, epoch=0):
    loader.dataset.set_epoch(epoch)
    return list(loader)


def images(loader, epoch=0):
    return torch.cat([batch["image"] for batch in batches(loader, epoch)])
