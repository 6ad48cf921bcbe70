"""Predictions by a network of one's own, which no `Segmentation` has trained.

The network gets the intensities as they are, in the voxel order of the file: what was
done to the images of its training must be done here, too, by a `normalizer`. The tiles
and the draws are those of `Segmentation.predict`, so no seams show.
"""

from collections.abc import Callable, Sequence

import nibabel as nib
import numpy as np
import torch
from torch import nn

from nobrainer import models
from nobrainer.bayes.draws import is_stochastic
from nobrainer.checks import check_count
from nobrainer.data.patches import check_block_shape
from nobrainer.data.preprocess import background_value
from nobrainer.errors import InputError
from nobrainer.inference.moments import MOST_DRAWS
from nobrainer.inference.predict import Sampling, TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.io import ImageSource, read_image, to_nibabel
from nobrainer.memory import require_memory
from nobrainer.models.check import BLENDED_SIDE, blended_window, check_reach
from nobrainer.training.engine import default_device

Normalizer = Callable[[np.ndarray], np.ndarray]
Source = ImageSource | np.ndarray
MAPS = ("label", "variance", "entropy")
_N_MAPS = 4
"""Volumes of float32 that are held at once: the intensities and the maps."""


def predict(
    inputs: Source | list[Source],
    model: nn.Module,
    block_shape: Sequence[int] | None = None,
    batch_size: int = 1,
    normalizer: Normalizer | None = None,
) -> nib.Nifti1Image | list[nib.Nifti1Image]:
    """Segment a scan, or several, by a network of your own.

    Args:
        inputs: a path, a nibabel image, an array (I, J, K), which gets voxels of 1 mm,
            or an (array, affine) tuple; or a list of them.
        model: maps images (B, 1, I, J, K) to logits (B, C, I, J, K). Of a Bayesian
            network the posterior mean is taken.
        block_shape: voxels of a tile along each axis; it changes no result of a network
            with a `halo`. Without one it is the size of the windows that are blended,
            96 voxels if None.
        batch_size: number of slabs, or windows, in one pass.
        normalizer: function of the intensities (I, J, K), as in the training of the
            network; None leaves them as they are.

    Returns: the numbers of the classes as an image on the grid of the scan, or a list
        of such images.

    Raises:
        InputError: a scan, a network or an argument that cannot be used.
    """
    predictor = _predictor(model, block_shape, batch_size)
    if isinstance(inputs, list):
        return [_apply(predictor, one, normalizer)[0] for one in inputs]
    return _apply(predictor, inputs, normalizer)[0]


def predict_with_uncertainty(
    inputs: Source,
    model: nn.Module,
    n_samples: int = 10,
    block_shape: Sequence[int] | None = None,
    batch_size: int = 1,
    normalizer: Normalizer | None = None,
    seed: int = 0,
) -> tuple[nib.Nifti1Image, nib.Nifti1Image, nib.Nifti1Image]:
    """Segment a scan by draws of a Bayesian network of your own.

    Args:
        inputs, block_shape, batch_size, normalizer: as in `predict`.
        model: a network whose weights are drawn, or with dropout of whole channels.
        n_samples: number of draws; an ensemble of networks that cannot draw makes no
            more than one for each.
        seed: seed of the draws.

    Returns: label, variance and entropy, as `nobrainer.Prediction` has them.

    Raises:
        InputError: a scan, a network or an argument that cannot be used.
    """
    check_count("n_samples", n_samples, 1, MOST_DRAWS)
    if not is_stochastic(model):
        raise InputError("the network has nothing to draw: use predict")
    predictor = _predictor(model, block_shape, batch_size, n_samples, seed)
    return _apply(predictor, inputs, normalizer)


def _predictor(
    model: nn.Module,
    block_shape: Sequence[int] | None,
    batch_size: int,
    n_draws: int = 0,
    seed: int = 0,
) -> Predictor:
    """The network, after checks of it, and how it is applied."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model must be a torch.nn.Module, got {type(model).__name__}: read a "
            "saved model with Segmentation.load, which has a predict of its own"
        )
    check_count("batch_size", batch_size, 1)
    block = None if block_shape is None else check_block_shape(block_shape)
    network = models.build(model)
    if not type(model).__module__.startswith("nobrainer."):
        check_reach(network)
    shape = blended_window(network, (BLENDED_SIDE,) * 3, block)
    n_classes = models.count_channels(network, torch.zeros(1, 1, *shape))
    if n_classes < 2:
        raise InputError(
            "the network has one channel of output, and must have one for each class, "
            "background included: build it with n_classes=2"
        )
    sampling = Sampling(seed, n_draws, block, batch_size)
    return Predictor(network, n_classes, sampling, default_device())


def _apply(
    predictor: Predictor, source: Source, normalizer: Normalizer | None
) -> tuple[nib.Nifti1Image, nib.Nifti1Image, nib.Nifti1Image]:
    """Label, variance and entropy of one scan."""
    volume = read_image(
        (source, np.eye(4)) if isinstance(source, np.ndarray) else source
    )
    require_memory(volume.source, _N_MAPS * volume.data.nbytes, "predict it")
    image = volume.data if normalizer is None else normalizer(volume.data.copy())
    image = np.asarray(image, np.float32)
    if image.shape != volume.data.shape or not np.isfinite(image).all():
        raise InputError(
            f"{volume.source}: normalizer must give finite numbers of the shape "
            f"{volume.data.shape}"
        )
    maps = {kind: np.zeros(image.shape, np.float32) for kind in MAPS}
    maps["label"] = maps["label"].astype(np.uint16)

    def keep(tile: TileResult) -> None:
        for kind, values in maps.items():
            values[tile.where] = getattr(tile, kind)

    predictor(image, background_value(image), keep)
    label, variance, entropy = (to_nibabel(values, volume) for values in maps.values())
    return label, variance, entropy
