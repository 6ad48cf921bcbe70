"""The images and networks that are measured.

The networks are untrained: neither time nor memory depends on what they learned.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import nn

from nobrainer import models
from nobrainer.inference import predict as inference
from nobrainer.inference.predict import Sampling, TileResult

SMALL = {"base_filters": 8, "levels": 2}
MAPS = ("label", "variance", "entropy", "mutual_information")


def inside(size: int) -> np.ndarray:
    """An ellipsoid as large as a head: 150 × 190 × 160 of 256 voxels."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 3, indexing="ij")
    radii = (150 / 256, 190 / 256, 160 / 256)
    return np.asarray(sum((x / r) ** 2 for x, r in zip(axes, radii, strict=True))) < 1


def noise(size: int) -> np.ndarray:
    """A volume with no empty field."""
    return np.random.default_rng(0).normal(size=(size,) * 3).astype(np.float32)


def head(size: int) -> np.ndarray:
    """Noise in an ellipsoid, zeros around it: a conformed, skull-stripped scan."""
    return np.where(inside(size), noise(size), np.float32(0))


def write_heads(folder: Path, size: int, n: int) -> list[tuple[str, str]]:
    """Write `n` heads and their labels as .nii.gz, int16 and uint8."""
    label = inside(size).astype(np.uint8)
    pairs = []
    for number in range(n):
        rng = np.random.default_rng(number)
        image = (label * rng.normal(1000, 50, label.shape)).astype(np.int16)
        paths = (
            str(folder / f"{number}_T1w.nii.gz"),
            str(folder / f"{number}_seg.nii.gz"),
        )
        for path, data in zip(paths, (image, label), strict=True):
            nib.save(nib.Nifti1Image(data, np.eye(4)), path)
        pairs.append(paths)
    return pairs


def network(name: str = "bayesian_vnet", /, **args: int) -> nn.Module:
    """A network of the registry, in eval mode."""
    torch.manual_seed(0)
    return models.build(name, **args).eval()


def predict(
    model: nn.Module,
    image: np.ndarray,
    n_samples: int,
    n_classes: int,
    device: torch.device,
    dtype: torch.dtype,
    **limits: int,
) -> dict[str, np.ndarray]:
    """The maps of our prediction; limits are those of `Sampling`, by name."""
    maps = {name: np.zeros(image.shape, np.float32) for name in MAPS}

    def keep(tile: TileResult) -> None:
        for name, values in maps.items():
            values[tile.where] = getattr(tile, name)

    # Seed and draws by place: builds from before `Predictor` name the draws otherwise.
    sampling = Sampling(0, n_samples, **limits)
    name = "nobrainer.inference.predictor"
    if find_spec(name):
        predictor = import_module(name).Predictor
        predictor(model, n_classes, sampling, device, dtype)(image, 0.0, keep)
        return maps
    how: dict[str, Any] = {"n_classes": n_classes, "device": device, "dtype": dtype}
    earlier = vars(inference)["predict_volume"]
    earlier(model, image, sampling, background=0.0, on_tile=keep, **how)
    return maps


def content_share(image: np.ndarray, margin: int) -> float:
    """Share of the volume in the bounding box of its content, `margin` wider."""
    share = 1.0
    for axis, n in enumerate(image.shape):
        others = tuple(a for a in range(3) if a != axis)
        (found,) = np.nonzero((image != 0).any(axis=others))
        first, last = max(0, found[0] - margin), min(n, found[-1] + 1 + margin)
        share *= (last - first) / n
    return float(share)
