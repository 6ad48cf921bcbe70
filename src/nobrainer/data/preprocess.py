"""Preprocessing of a scan before the network sees it: the same in training and use."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import nibabel as nib
import numpy as np

from nobrainer.errors import InputError
from nobrainer.memory import require_memory
from nobrainer.recipe import PreprocessConfig
from nobrainer.registry import Registry
from nobrainer.volume import Geometry, Volume, conform, conformed_geometry

NORMALIZERS: Registry[Callable[..., np.ndarray]] = Registry("normalisation")

MOST_VOXELS = 1024**3
"""Most voxels of a working grid: a field of view of 256 mm in steps of 0.25 mm."""
FEWEST_VOXELS = 8**3
"""Fewest voxels of a working grid that is coarser than the scan's own."""
MOST_RESAMPLING = 100
"""Largest ratio of the voxel sizes of the scan and of the working grid."""

_UNITS = {1: "metre", 2: "millimetre", 3: "micrometre"}
"""Units of length by their NIfTI codes."""

_SAMPLE = 2**20
_FEW_VALUES = 32
# Largest usual (p99.9 - p2) / (p98 - p2): heads were measured to have 1.07 to 1.2.
_BRIGHTEST = 2.5
# Shares: of the usual range of intensities, that air spans; of the faces, that is air;
# of what is darker than bright air, that may be dark.
_AIR_BAND, _AIR_SHARE_OF_FACES, _MOST_DARK = 0.15, 0.9, 0.5
_FILL_SHARE, _FILL_SHARE_ABOVE, _FILL_SHARE_OF_FACES = 0.0005, 0.01, 0.05


def invert_bright_air(image: np.ndarray) -> np.ndarray:
    """Turn the intensities of a scan over where its air is bright.

    So the air around the head is dark, as in usual scans. Air is bright where nearly
    all voxels on the six faces are uniform and as bright as the brightest: 90 % of them
    lie within 15 % of the usual range (from the 0.1th to the 99.9th percentile) from
    its upper end. A scan stays as it is where more than half of what is darker lies
    within 15 % from the lower end: it has dark air of its own, inside a bright frame.

    Args:
        image: intensities, float32 (I, J, K).

    Returns:
        float32 (I, J, K); the upper end of the usual range minus the intensities where
        the air is bright, else the same array.
    """
    values = image.ravel()[:: max(1, image.size // _SAMPLE)].astype(np.float64)
    low = np.percentile(values, 0.1, method="lower")
    high = np.percentile(values, 99.9, method="higher")
    band = _AIR_BAND * (high - low)
    inner = values[values < high - band]
    is_air = np.abs(_faces(image) - high) <= band
    is_dark = inner <= low + band
    if not inner.size or is_air.mean() < _AIR_SHARE_OF_FACES:
        return image
    if is_dark.mean() > _MOST_DARK:
        return image
    # What single precision cannot hold becomes infinite, and is refused later.
    with np.errstate(over="ignore"):
        return np.float32(high) - image


def clip_outliers(image: np.ndarray) -> np.ndarray:
    """Clip intensities far from nearly all others, and turn fills into background.

    The limits are p2 - 8 (p10 - p2) - 0.01 (p99.9 - p2) and p99.9 + (p99.9 - p2), where
    2.5 (p98 - p2) stands for p99.9 - p2 if it is less: then more than a thousandth of
    the voxels are extreme. The percentiles are of the voxels above the minimum: empty
    background does not count, so that a wider field of view hardly changes them. Usual
    scans lie between the limits and stay as they are, and so does a scan of fewer than
    32 different values.

    A fill is a value that stands where nothing was imaged; it becomes the lower limit.
    The smallest value is a fill where it lies below the lower limit and 0.05 % of the
    voxels have it. The largest value is one where it lies above the upper limit and 1 %
    of the voxels, and 5 % of those on the six faces, have it. Fills do not count in the
    percentiles. Where there are several, they are found one after the other.

    Args:
        image: intensities, float32 (I, J, K).

    Returns:
        float32 (I, J, K); the same array where nothing is to be clipped.
    """
    # A million voxels at even distances give the percentiles in less time.
    step = max(1, image.size // _SAMPLE)
    values = np.sort(image.ravel()[::step]).astype(np.float64)
    n_values = len(values)
    low, high, level = -math.inf, math.inf, -math.inf
    fills_above = []
    has_fill_below = False
    while np.count_nonzero(np.diff(values)) >= _FEW_VALUES - 1:
        least, most = values[0], values[-1]
        above = values[np.searchsorted(values, least, "right") :]
        below = values[: np.searchsorted(values, most, "left")]
        lower, high = _limits(above)
        if least < lower and len(values) - len(above) >= _FILL_SHARE * n_values:
            # Of several backgrounds the next one counts in this limit.
            low, has_fill_below, values = lower, True, above
            continue
        if not has_fill_below:
            low = lower
        background, higher = _limits(below)
        if (
            most > higher
            and len(values) - len(below) >= _FILL_SHARE_ABOVE * n_values
            and (_faces(image) == most).mean() >= _FILL_SHARE_OF_FACES
        ):
            fills_above.append(np.float32(most))
            level, values = background, below
            continue
        break
    if image.min() >= low and image.max() <= high:
        return image
    # A limit that single precision cannot hold becomes infinite: it limits nothing.
    with np.errstate(over="ignore"):
        lowest, highest, fill = np.array([low, high, max(level, low)], np.float32)
    clipped = np.clip(image, lowest, highest)
    clipped[np.isin(image, fills_above)] = fill
    return clipped


def _limits(values: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest usual intensity, see `clip_outliers`."""
    dark, tenth, usual, bright = np.percentile(values, (2, 10, 98, 99.9))
    reach = min(bright - dark, _BRIGHTEST * (usual - dark))
    return dark - 8 * (tenth - dark) - 0.01 * reach, dark + 2 * reach


@NORMALIZERS.register("zscore")
def zscore(image: np.ndarray, *, clip: bool = True) -> np.ndarray:
    """Centre and scale by the mean and standard deviation of the head.

    The head is found with the intermeans threshold, which follows the two modes
    of the histogram. So the result does not change under `a * image + b` (a > 0),
    and hardly under a wider field of view filled with zeros.

    Args:
        image: intensities, float32 (I, J, K).
        clip: clip fills and extreme intensities first.

    Returns:
        float32 (I, J, K); the head has mean 0 and standard deviation 1. A constant
        image becomes 0.
    """
    if clip:
        image = clip_outliers(image)
    head = image[is_head(image)]
    # The head of a two-valued image is flat: fall back to the spread of the whole.
    spread = head.std(dtype=np.float64) or image.std(dtype=np.float64) or 1.0
    centred = image - np.float32(head.mean(dtype=np.float64))
    centred /= np.float32(spread)
    return centred


def is_head(image: np.ndarray) -> np.ndarray:
    """Find the voxels above the intermeans threshold; in a constant image all.

    Args:
        image: intensities (I, J, K).

    Returns: booleans (I, J, K).
    Source: Ridler and Calvard, "Picture thresholding using an iterative selection
    method", IEEE Trans. Systems, Man and Cybernetics 8 (1978) 630.
    """
    threshold = float(image.mean(dtype=np.float64))
    sizes = set()
    while True:
        above = image > threshold
        size = np.count_nonzero(above)
        if size in (0, image.size):
            # The threshold is rounded to single precision, and there are no values
            # between the smallest and the largest one.
            return image == image.max()
        high = float(image[above].mean(dtype=np.float64))
        low = float(image[~above].mean(dtype=np.float64))
        middle = (high + low) / 2
        # The threshold moves one way only, but for rounding: the loop ends.
        if abs(middle - threshold) <= 1e-3 * (high - low) or size in sizes:
            return above
        sizes.add(size)
        threshold = middle


@NORMALIZERS.register("minmax")
def minmax(image: np.ndarray, *, clip: bool = True) -> np.ndarray:
    """Map the minimum to 0 and the 99th percentile above it to 1, clipped.

    Voxels at the minimum (empty background) do not count, so that a wider field
    of view does not change the result.

    Args:
        image: intensities, float32 (I, J, K).
        clip: clip fills and extreme intensities first.

    Returns:
        float32 (I, J, K) in 0..1. A constant image becomes 0.
    """
    if clip:
        image = clip_outliers(image)
    low = image.min()
    above = image[image > low]
    if not above.size:
        return np.zeros_like(image)
    high = np.percentile(above, 99).astype(np.float32)
    return np.clip((image - low) / (high - low), 0, 1)


@NORMALIZERS.register("none")
def keep(image: np.ndarray, *, clip: bool = False) -> np.ndarray:
    """Leave the intensities as they are.

    Args:
        image: intensities, float32 (I, J, K).
        clip: has no effect; the other normalisations have it.
    """
    return image


def preprocess_image(volume: Volume, config: PreprocessConfig) -> Volume:
    """Bring a scan to the working orientation and spacing, then normalise it.

    Args:
        volume: the scan, (I, J, K).
        config: working orientation and spacing, normalisation, and what happens to
            bright air and outliers.

    Returns: the prepared scan on the working grid, float32.

    Raises:
        InputError: the working grid would be out of bounds, or the scan is constant on
            it or has intensities that single precision cannot scale.
    """
    cleaned = _clean(volume, config)
    return _normalised(_on_working_grid(cleaned, config), config)


def preprocess_finely(
    volume: Volume, config: PreprocessConfig
) -> tuple[Volume, Volume]:
    """Prepare a scan as `preprocess_image` does, and keep its own voxels, too.

    Args:
        volume: the scan, (I, J, K).
        config: as for `preprocess_image`.

    Returns:
        The prepared scan on the working grid; and the scan as it was before it was
        resampled, float32, in the unit of the prepared one. The two are the same where
        nothing is resampled.

    Raises:
        InputError: as for `preprocess_image`.
    """
    cleaned = _clean(volume, config)
    conformed = _on_working_grid(cleaned, config)
    prepared = _normalised(conformed, config)
    native = conformed_geometry(volume.geometry, config.orientation)
    if prepared.geometry.spacing_mm == native.spacing_mm:
        return prepared, prepared
    factor, summand = _line(conformed.data, prepared.data)
    return prepared, replace(cleaned, data=cleaned.data * factor + summand)


def _clean(volume: Volume, config: PreprocessConfig) -> Volume:
    """The scan with its air dark and its outliers clipped, as `config` asks for it."""
    _check_working_grid(volume, config)
    if config.bright_air == "inverted":
        volume = replace(volume, data=invert_bright_air(volume.data))
    if config.outliers == "clipped":
        # Before resampling, which would mix extreme values into their surroundings.
        volume = conform(volume, config.orientation)
        volume = replace(volume, data=clip_outliers(volume.data))
    return volume


def _on_working_grid(volume: Volume, config: PreprocessConfig) -> Volume:
    # What overflows is refused when it is normalised.
    with np.errstate(over="ignore", invalid="ignore"):
        conformed = conform(volume, config.orientation, config.spacing_mm)
    return replace(conformed, data=conformed.data.astype(np.float32, copy=False))


def _normalised(conformed: Volume, config: PreprocessConfig) -> Volume:
    low, high = float(conformed.data.min()), float(conformed.data.max())
    if low == high:
        raise InputError(
            f"{conformed.source}: constant, every voxel of the working grid is "
            f"{low:g}: check the scan, and the voxel size in its header"
        )
    clip = config.outliers == "clipped"
    with np.errstate(all="ignore"):
        data = NORMALIZERS[config.normalize](conformed.data, clip=clip)
    if not np.isfinite(data).all():
        raise InputError(
            f"{conformed.source}: its intensities, {low:g} to {high:g}, cannot be "
            f"normalised in single precision: rescale them"
        )
    return replace(conformed, data=data)


def _line(before: np.ndarray, after: np.ndarray) -> tuple[np.float32, np.float32]:
    """Factor and summand of a normalisation, which is linear but for what it clips."""
    least, most = before.min(), before.max()
    x, y = np.percentile(before[before > least], (10, 90), method="lower")
    if x == y:
        x, y = least, most
    at = [int(np.argmax(before == value)) for value in (x, y)]
    wanted = after.ravel()[at].astype(np.float64)
    factor = (wanted[1] - wanted[0]) / (float(y) - float(x))
    return np.float32(factor), np.float32(wanted[0] - factor * float(x))


def preprocess_labels(volume: Volume, config: PreprocessConfig) -> Volume:
    """Bring labels to the working orientation and spacing.

    Args:
        volume: the labels, integers (I, J, K).
        config: working orientation and spacing.

    Returns: the labels on the working grid.

    Raises:
        InputError: the working grid would be out of bounds.
    """
    _check_working_grid(volume, config)
    return conform(volume, config.orientation, config.spacing_mm, labels=True)


def _check_working_grid(volume: Volume, config: PreprocessConfig) -> None:
    """Raise for a grid out of bounds, as wrong units make it, before allocating it."""
    native = conformed_geometry(volume.geometry, config.orientation)
    target = conformed_geometry(native, config.orientation, config.spacing_mm)
    n_voxels, n_native = math.prod(target.shape), math.prod(native.shape)
    ratios = np.divide(target.spacing_mm, native.spacing_mm)
    if (
        n_voxels > MOST_VOXELS
        or n_voxels < min(FEWEST_VOXELS, n_native)
        or max(ratios.max(), 1 / ratios.min()) > MOST_RESAMPLING
    ):
        code = 0 if volume.header is None else int(volume.header["xyzt_units"]) & 7
        field_mm = np.multiply(native.shape, native.spacing_mm)
        raise InputError(
            f"{volume.source}: is {_sizes(field_mm)} mm large, in voxels of "
            f"{_sizes(native.spacing_mm)} mm (unit in the header: "
            f"{_UNITS.get(code, 'none')}). To work on it in voxels of "
            f"{_sizes(target.spacing_mm)} mm takes {n_voxels:.4g} of them, and "
            f"{FEWEST_VOXELS} to {MOST_VOXELS} are possible, at most "
            f"{MOST_RESAMPLING} times larger or smaller than the scan's: correct the "
            f"unit or the voxel size in the header"
        )
    if target.shape != native.shape:
        # The volume, and what it is interpolated from.
        require_memory(volume.source, 12 * n_voxels, "resample it")


def _sizes(three: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{size:.3g}" for size in three)


def background_value(image: np.ndarray) -> float:
    """The intensity that stands for all that lies beyond a scan's field of view.

    It is the lower quartile of the voxels on the six faces: the exact fill value of a
    skull-stripped scan, and the noise floor of a whole head, even where tissue reaches
    the border.

    Args:
        image: preprocessed intensities (I, J, K).
    """
    return float(np.percentile(_faces(image), 25, method="lower"))


def _faces(image: np.ndarray) -> np.ndarray:
    """The voxels of the six faces, in one axis."""
    faces = [image[i] for i in (0, -1)]
    faces += [image[:, j] for j in (0, -1)]
    faces += [image[:, :, k] for k in (0, -1)]
    return np.concatenate([face.ravel() for face in faces])


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
