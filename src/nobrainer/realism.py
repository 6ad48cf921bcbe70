"""How good generated images are: four figures, each beside that of real images.

Their names and meanings stand in `nobrainer.glossary.OF_GENERATORS`. All compare images
of one size: those of `Generation.generate` and `Generation.real_images`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.metrics.regression import MultiScaleSSIMMetric
from torch import Tensor, nn

from nobrainer.bayes.draws import realise
from nobrainer.checks import check_count
from nobrainer.data.preprocess import preprocess_image
from nobrainer.errors import InputError
from nobrainer.evaluation import summarise
from nobrainer.io import read_image
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.generation import Generation
from nobrainer.processing.segmentation import Segmentation
from nobrainer.rounding import float32_products
from nobrainer.training.engine import default_device

Pair = tuple[nib.Nifti1Image, nib.Nifti1Image]
# The weights of five scales; fewer ones are used, and scaled to the sum 1, where images
# are too small. Source: Wang et al. 2003, doi:10.1109/ACSSC.2003.1292216.
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_KERNEL = 5
_LARGEST_GAP = 1e-6
"""Share of the largest eigenvalue by which rounding may make one negative."""


@dataclass(frozen=True)
class Comparison:
    """What generated images are compared with.

    seen: real images, with labels, that the generator has learned from.
    new: real images, with labels, that it has not; they should be of other people.
    """

    seen: Sequence[Pair]
    new: Sequence[Pair]

    def __post_init__(self) -> None:
        if min(len(self.seen), len(self.new)) < 2:
            raise InputError("seen and new need two images or more each")


def measure(
    generator: Generation,
    real: Comparison,
    model: Segmentation | None,
    *,
    n_generated: int = 100,
    n_pairs: int = 200,
    steps: int = 300,
    seed: int = 0,
) -> dict[str, float]:
    """The figures of a generator, for `Generation.state_figures`.

    Args:
        generator: a fitted generator.
        real: real images.
        model: the network whose features count, such as
            `Segmentation.load("brain")`; None leaves the Fréchet distance out. As many
            generated as new images are compared.
        n_generated: how many images are generated.
        n_pairs: number of pairs of images whose similarity is measured.
        steps: number of steps of each network that learns to segment; 0 leaves these
            out, as does a generator without labels.
        seed: seed of images, pairs and trainings.

    Returns: figures by name.
    """
    check_count("n_generated", n_generated, 2)
    has_labels = generator.labels_ is not None
    made: list[Pair] = []
    if has_labels:
        made = generator.generate(n_generated, seed, labels=True)
        images = [image for image, _ in made]
    else:
        images = generator.generate(n_generated, seed)
    seen, new = ([image for image, _ in part] for part in (real.seen, real.new))
    figures = {
        "ms_ssim_generated": similarity(stack(images), n_pairs, seed),
        "ms_ssim_real": similarity(stack(seen), n_pairs, seed),
        "nearest_generated": float(np.median(nearest(stack(images), stack(seen)))),
        "nearest_real": float(np.median(nearest(stack(new), stack(seen)))),
    }
    if model is not None:
        n = min(len(new), len(seen), len(images))
        of_new, of_seen, of_made = (
            features(model, part[:n]) for part in (new, seen, images)
        )
        figures["frechet"] = frechet_distance(of_made, of_new)
        figures["frechet_real"] = frechet_distance(of_seen, of_new)
    if has_labels and steps:
        sets = {"real": real.seen, "generated": made, "both": [*real.seen, *made]}
        for name, taught in sets.items():
            score = use(generator, taught, real.new, steps=steps, seed=seed)
            figures[f"dice_{name}"] = score
    return figures


def stack(images: Sequence[nib.Nifti1Image]) -> np.ndarray:
    """The voxels of images of one size, float32 (N, I, J, K)."""
    return np.stack([np.asarray(image.dataobj, np.float32) for image in images])


def similarity(images: np.ndarray, n_pairs: int = 200, seed: int = 0) -> float:
    """Mean MS-SSIM of pairs of images: 1 where all are the same.

    Intensities are scaled by the range of all images. Images of 16 voxels a side have
    two scales, of 32 three, of 128 five.

    Args:
        images: (N, I, J, K), two or more.
        n_pairs: most pairs; of more, so many are drawn.
        seed: seed of this choice.
    """
    pairs = list(combinations(range(len(images)), 2))
    if len(pairs) > n_pairs:
        rng = np.random.default_rng(seed)
        pairs = [pairs[k] for k in rng.choice(len(pairs), n_pairs, replace=False)]
    low, high = float(images.min()), float(images.max())
    scaled = torch.from_numpy((images - low) / max(high - low, 1e-12))[:, None].float()
    n_scales = _count_scales(min(images.shape[1:]))
    weights = np.array(_SCALES[:n_scales]) / sum(_SCALES[:n_scales])
    metric = MultiScaleSSIMMetric(3, kernel_size=_KERNEL, weights=weights.tolist())
    found = [torch.as_tensor(metric(scaled[[a]], scaled[[b]])) for a, b in pairs]
    return float(torch.cat(found).mean())


def _count_scales(side: int) -> int:
    """How many scales images of so many voxels a side have.

    Raises: InputError where they are too small for one.
    """
    fitting = [
        n for n in range(1, len(_SCALES) + 1) if side // max(1, n - 1) ** 2 >= _KERNEL
    ]
    if not fitting or side < _KERNEL:
        raise InputError(f"MS-SSIM needs {_KERNEL} voxels a side or more, got {side}")
    return min(fitting[-1], max(1, side.bit_length() - 3))


def nearest(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The distance of each image to the nearest one of others.

    Args:
        images: (N, I, J, K).
        others: (M, I, J, K).

    Returns: (N,) root mean square difference, as a share of the standard deviation of
        the others.
    """
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (images, others))
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    least = np.maximum(squared.min(1), 0) / a.shape[1]
    return np.sqrt(least) / b.std()


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The Fréchet distance of two samples, as if both were normally distributed.

    Args:
        first, second: (N, D) and (M, D) features; N and M should be well above D.

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500, who square it.
    """
    return gaussian_distance(
        *(first.mean(0), np.cov(first, rowvar=False)),
        *(second.mean(0), np.cov(second, rowvar=False)),
    )


def gaussian_distance(
    mean: np.ndarray, covariance: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    """The squared Fréchet (2-Wasserstein) distance of two normal distributions.

    It is |m - m'|² + tr(C + C' - 2 (C^½ C' C^½)^½).

    Args:
        mean, mean2: (D,).
        covariance, covariance2: (D, D).

    Source: Dowson and Landau 1982, doi:10.1016/0047-259X(82)90077-X.
    """
    c, c2 = np.atleast_2d(covariance), np.atleast_2d(covariance2)
    root = _root(c)
    middle = np.trace(_root(root @ c2 @ root))
    return float(np.sum((mean - mean2) ** 2) + np.trace(c) + np.trace(c2) - 2 * middle)


def _root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values.min() < -_LARGEST_GAP * max(values.max(), 1.0):
        raise InputError(
            "a covariance has a negative eigenvalue: features are not finite"
        )
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def features(model: Segmentation, images: Sequence[nib.Nifti1Image]) -> np.ndarray:
    """What a network that segments heads sees in images.

    Each image is prepared as the network wants it, and goes through the mean of its
    weights. A feature is the mean over all voxels of a channel before the last layer.

    Args:
        model: a trained network.
        images: the images.

    Returns: (N, D), float64; 16 features of the model in the box.
    """
    network = realise(model.model_, None).to(default_device())
    last = [m for m in network.modules() if isinstance(m, nn.Conv3d)][-1]
    found: list[np.ndarray] = []

    def keep(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(given[0].mean((0, 2, 3, 4)).double().cpu().numpy())

    handle = last.register_forward_pre_hook(keep)
    stride: Any = getattr(network, "stride", 1)
    try:
        with torch.inference_mode(), float32_products():
            for image in images:
                volume = preprocess_image(read_image(image), model.recipe_.preprocess)
                network(_padded(volume.data, stride).to(default_device()))
    finally:
        handle.remove()
    return np.stack(found)


def _padded(image: np.ndarray, stride: int) -> Tensor:
    """An image (1, 1, I, J, K) whose sides are multiples of a stride."""
    more = [(0, -side % stride) for side in image.shape]
    filled = np.pad(image, more, mode="edge")
    return torch.from_numpy(np.ascontiguousarray(filled, np.float32))[None, None]


def use(
    generator: Generation,
    taught: Sequence[Pair],
    new: Sequence[Pair],
    *,
    steps: int,
    seed: int = 0,
) -> float:
    """How well a small network segments new images after it has learned from others.

    Args:
        generator: the generator, whose classes count.
        taught: images with labels to learn from.
        new: real images with labels, none of them among those.
        steps: number of steps of the training, in batches of two whole images.
        seed: seed of the training.

    Returns: mean Dice of the structures, 0 to 1.
    """
    labels = generator.labels_
    assert labels is not None
    classes = {value: k for k, value in enumerate(labels.values) if k}
    block = generator.recipe_.images.shape
    train, test = (
        Dataset.from_files(list(pairs), block).relabel(classes).batch(2)
        for pairs in (taught, new)
    )
    model = Segmentation("vnet", {"base_filters": 8, "levels": 3})
    train = train.patches(per_volume=1, foreground=1.0).shuffle()
    model.fit(train, epochs=None, max_steps=steps, seed=seed, verbose=False)
    rows = model.evaluate(test, n_samples=0, surfaces=False, verbose=False)
    return summarise(rows)["dice"]
