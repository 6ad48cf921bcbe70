"""What happens to a scan before the network sees it: the same in training and use."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import nibabel as nib
import numpy as np

from nobrainer.recipe import PreprocessConfig
from nobrainer.registry import Registry
from nobrainer.volume import Geometry, Volume, conform

NORMALIZERS: Registry[Callable[[np.ndarray], np.ndarray]] = Registry("normalisation")


@NORMALIZERS.register("zscore")
def zscore(image: np.ndarray) -> np.ndarray:
    """Centre and scale by the mean and standard deviation of the head.

    The head is found with the intermeans threshold, which follows the two modes
    of the histogram. So the result does not change under `a * image + b` (a > 0),
    and hardly under a wider field of view filled with zeros.

    Args:
        image: intensities, float32 (I, J, K), not constant.

    Returns:
        float32 (I, J, K); the head has mean 0 and standard deviation 1.
    """
    head = image[is_head(image)]
    # The head of a two-valued image is flat: fall back to the spread of the whole.
    spread = head.std(dtype=np.float64) or image.std(dtype=np.float64)
    centred = image - np.float32(head.mean(dtype=np.float64))
    return centred / np.float32(spread)


def is_head(image: np.ndarray) -> np.ndarray:
    """Voxels above the intermeans threshold.

    Source: Ridler and Calvard, "Picture thresholding using an iterative selection
    method", IEEE Trans. Systems, Man and Cybernetics 8 (1978) 630.
    """
    threshold = float(image.mean(dtype=np.float64))
    while True:
        above = image > threshold
        high = float(image[above].mean(dtype=np.float64))
        low = float(image[~above].mean(dtype=np.float64))
        middle = (high + low) / 2
        # The threshold moves one way only, so the loop ends.
        if abs(middle - threshold) <= 1e-3 * (high - low):
            return above
        threshold = middle


@NORMALIZERS.register("minmax")
def minmax(image: np.ndarray) -> np.ndarray:
    """Map the minimum to 0 and the 99th percentile above it to 1, clipped.

    Voxels at the minimum (empty background) do not count, so that a wider field
    of view does not change the result.

    Args:
        image: intensities, float32 (I, J, K), not constant.

    Returns:
        float32 (I, J, K) in 0..1.
    """
    low = image.min()
    high = np.percentile(image[image > low], 99).astype(np.float32)
    return np.clip((image - low) / (high - low), 0, 1)


@NORMALIZERS.register("none")
def keep(image: np.ndarray) -> np.ndarray:
    """Leave the intensities as they are."""
    return image


def preprocess_image(volume: Volume, config: PreprocessConfig) -> Volume:
    """Bring a scan to the working orientation and spacing, then normalise it."""
    conformed = conform(volume, config.orientation, config.spacing_mm)
    data = conformed.data.astype(np.float32, copy=False)
    return replace(conformed, data=NORMALIZERS[config.normalize](data))


def preprocess_labels(volume: Volume, config: PreprocessConfig) -> Volume:
    """Bring labels to the working orientation and spacing."""
    return conform(volume, config.orientation, config.spacing_mm, labels=True)


def background_value(image: np.ndarray) -> float:
    """What a scan is taken to go on with beyond its field of view.

    The lower quartile of the voxels on the six faces: exactly the fill value of a
    skull-stripped scan, the noise floor of a whole head, whatever tissue leaves the
    field of view.

    Args:
        image: preprocessed intensities (I, J, K).
    """
    faces = [image[i] for i in (0, -1)]
    faces += [image[:, j] for j in (0, -1)]
    faces += [image[:, :, k] for k in (0, -1)]
    voxels = np.concatenate([face.ravel() for face in faces])
    return float(np.percentile(voxels, 25, method="lower"))


def common_spacing(
    geometries: Sequence[Geometry], orientation: str
) -> tuple[float, float, float]:
    """The median voxel size in mm per axis of the working orientation.

    Args:
        geometries: grids of the scans, at least one, each in its own orientation.
        orientation: axis codes of the working grid, such as "RAS".

    Returns:
        Voxel size in mm along the three working axes, rounded to 1e-3 mm.
    """
    target = nib.orientations.axcodes2ornt(tuple(orientation))
    spacings = []
    for geometry in geometries:
        native = nib.io_orientation(geometry.affine)
        axes = nib.orientations.ornt_transform(native, target)[:, 0].astype(int)
        spacing = np.empty(3)
        spacing[axes] = geometry.spacing_mm
        spacings.append(spacing)
    i, j, k = np.round(np.median(spacings, axis=0), 3)
    return float(i), float(j), float(k)
