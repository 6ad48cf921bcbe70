"""What a scan looks like and how its foreground lies, against the training scans.

A network answers for any scan, also for one unlike all that it learned from, and its
draws may agree on the answer. These figures are of the scan itself: they show an
inverted contrast, a head that is cut off, or a real head that is given to a model of
synthetic ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import from_matvec
from scipy import special

from nobrainer.data.preprocess import is_head
from nobrainer.oddities import Box, Place, find_misfits, find_pieces, list_boxes
from nobrainer.recipe import TrainingAppearance
from nobrainer.volume import Geometry

FACES = ("left", "right", "posterior", "anterior", "inferior", "superior")
"""Faces of the field of view: the low and the high end of each axis of a RAS grid."""
GROUPS = {
    "intensity": "the intensities of the head",
    "surroundings": "what is outside the head",
    "contrast": "the contrast of what was segmented",
    "sharpness": "sharpness or noise",
    "position": "the position of what was segmented",
    "voxels": "the size of its voxels",
}
"""What the statistics of each group are about, in words."""
MAX_DISTANCE = 20.0
"""Largest distance, in standard deviations; larger ones count as this."""

_QUANTILES = (1, 5, 25, 50, 75, 95, 99)
_SHELL = 0.1
"""Thickness of the shell around the foreground, in radii of a ball of its volume."""
_END = 0.05
"""Thickness of an end of the field of view, as a share of the foreground's extent: a
network often stops a little before a face, and resampling blurs it by two voxels."""
_FLAT = 0.1
"""Share of the head's standard deviation within which a slice counts as constant."""
_LEAST_SPREAD = 0.01
_SAMPLED = 2_000_000
"""Number of voxels, about, that are taken of a larger scan."""

_PRIOR_SD = dict.fromkeys(GROUPS, 0.1) | {"position": 0.05}
"""Standard deviations of the statistics of each group that were seen among the scans of
one study."""
_PRIOR_SCANS = 3
_LEAST_LIMIT = 3.0
_USUAL_PERCENT = 99


@dataclass(frozen=True)
class Appearance:
    """Figures of one scan on the working grid of a model.

    statistics: "group/what" -> value, see `GROUPS`; only those that are defined.
        Intensities are in standard deviations of the head's, counted from its mean;
        positions in radii of a ball as large as the foreground.
    cut: how much of the foreground lies on each of `FACES`: its largest area just
        before the end of the field of view (within two voxels and 5 % of its extent),
        or before slices of constant fill, as a share of its largest area across that
        axis.
    islands: share of the foreground outside its largest connected component.
    pieces: the largest piece apart from the rest of each structure that lies in
        several, see `nobrainer.oddities.find_pieces`.
    misfits: places that look unlike the rest of their structure, see
        `nobrainer.oddities.find_misfits`.
    """

    statistics: dict[str, float]
    cut: tuple[float, ...]
    islands: float
    pieces: tuple[Place, ...] = ()
    misfits: tuple[Place, ...] = ()


def measure(
    image: np.ndarray,
    label: np.ndarray,
    geometry: Geometry,
    voxel_mm: Sequence[float],
) -> Appearance:
    """Measure a scan and its segmentation.

    Args:
        image: (I, J, K), preprocessed; its axes go to the right, front and top.
        label: (I, J, K) classes, 0 is background.
        geometry: their grid.
        voxel_mm: voxel sizes of the scan as it came, in any order.
    """
    spacing_mm = geometry.spacing_mm
    step = math.ceil((image.size / _SAMPLED) ** (1 / 3))
    sample = image[::step, ::step, ::step]
    head = is_head(sample)
    inside = sample[head]
    mean = float(inside.mean(dtype=np.float64))
    sd = float(inside.std(dtype=np.float64)) or 1.0
    found = {
        "intensity/level": mean / sd,
        "intensity/scale": math.log(sd),
        "voxels/smallest": math.log(min(voxel_mm)),
        "voxels/largest": math.log(max(voxel_mm)),
    }
    for percent, value in zip(
        _QUANTILES, np.percentile(inside, _QUANTILES), strict=True
    ):
        found[f"intensity/{percent} %"] = (float(value) - mean) / sd
    areas = _areas(label != 0)
    outside = sample[~head]
    found["surroundings/mean"] = (float(outside.mean(dtype=np.float64)) - mean) / sd
    # Empty surroundings have a spread of 0, which has no logarithm.
    spread = float(outside.std(dtype=np.float64)) / sd
    found["surroundings/spread"] = math.log(spread + _LEAST_SPREAD)
    if not areas[0].any():
        return Appearance(found, (0.0,) * len(FACES), 0.0)
    volume_mm3 = float(areas[0].sum()) * math.prod(spacing_mm)
    radius_mm = (0.75 * volume_mm3 / math.pi) ** (1 / 3)
    reach = [max(1, round(_SHELL * radius_mm / size_mm)) for size_mm in spacing_mm]
    box = []
    for area, margin in zip(areas, reach, strict=True):
        inner = np.flatnonzero(area)
        box.append(slice(max(inner[0] - margin, 0), inner[-1] + margin + 1))
    near, classes = (np.ascontiguousarray(one[tuple(box)]) for one in (image, label))
    foreground = classes != 0
    found |= _contrast(near, classes, foreground, reach, mean, sd)
    found |= _sharpness(near, foreground, sd)
    origin_mm = np.array([one.start for one in box]) * spacing_mm
    centre_mm = [
        float(at.mean()) * step * size_mm
        for at, size_mm in zip(np.nonzero(head), spacing_mm, strict=True)
    ]
    head_mm = np.array(centre_mm) - origin_mm
    boxes = list_boxes(classes)
    found |= _positions(classes, boxes, spacing_mm, head_mm, radius_mm)
    shift = from_matvec(np.eye(3), [one.start for one in box])
    grid = Geometry(classes.shape, geometry.affine @ shift)
    islands, pieces = find_pieces(classes, boxes, grid)
    return Appearance(
        found,
        _cut(image, areas, _FLAT * sd),
        islands,
        pieces,
        find_misfits(near, classes, grid, radius_mm),
    )


def summarise(scans: Sequence[Appearance]) -> TrainingAppearance:
    """What the training scans look like, for `distances` to compare others with.

    For each statistic that all scans have, this is the mean and a standard deviation.
    The standard deviation of few scans can be small by chance, so it is shrunk towards
    a usual one, which counts as much as three scans do. The limit is the distance at
    which the farthest scan lies from the others (of many scans, the distance that 99 %
    of them keep), and at least 3; of few scans, whose mean and standard deviation are
    uncertain, at least as much of Student's t as is 3 of a normal distribution: 5.5
    after three scans, 3.8 after ten.

    Args:
        scans: with their true labels; at least one.
    """
    names = [n for n in scans[0].statistics if all(n in s.statistics for s in scans)]
    table = np.array([[scan.statistics[name] for name in names] for scan in scans])
    mean, sd = _centre(table, names)
    gaps = [
        _distances(table[i], *_centre(np.delete(table, i, 0), names), names)
        for i in range(len(scans) if len(scans) > 1 else 0)
    ]
    farthest = [max(groups.values()) for groups in gaps] or [0.0]

    degrees = len(scans) - 1 + _PRIOR_SCANS
    least = float(special.stdtrit(degrees, special.ndtr(_LEAST_LIMIT)))

    def usual_most(values: Any) -> np.ndarray:
        # For up to 100 scans this is the largest value.
        return np.percentile(values, _USUAL_PERCENT, axis=0, method="higher")

    apart = [(n, piece) for n, scan in enumerate(scans) for piece in scan.pieces]
    last = max((piece.class_number for _, piece in apart), default=0)
    pieces = np.zeros((len(scans), last + 1))
    for n, piece in apart:
        pieces[n, piece.class_number] = piece.value
    misfits = [max((one.value for one in scan.misfits), default=0.0) for scan in scans]

    return TrainingAppearance(
        n_scans=len(scans),
        names=tuple(names),
        mean=tuple(mean.tolist()),
        sd=tuple(sd.tolist()),
        limit=max(least, float(usual_most(farthest))),
        cut=tuple(usual_most([scan.cut for scan in scans]).tolist()),
        islands=float(usual_most([scan.islands for scan in scans])),
        pieces=tuple(usual_most(pieces).tolist()),
        misfit=float(usual_most(misfits)),
    )


def distances(scan: Appearance, training: TrainingAppearance) -> dict[str, float]:
    """How far a scan is from the training scans in each of `GROUPS`.

    Args:
        scan: what `measure` returned.
        training: what `summarise` returned.

    Returns:
        By group, the root mean square of its statistics in the training scans'
        standard deviations (a Mahalanobis distance with a diagonal covariance), at
        most 20. A group without statistics in the scan or the record is left out.
    """
    known = [name in scan.statistics for name in training.names]
    names = [n for n, is_known in zip(training.names, known, strict=True) if is_known]
    values = np.array([scan.statistics[name] for name in names])
    groups = _distances(
        values, np.array(training.mean)[known], np.array(training.sd)[known], names
    )
    return {group: min(value, MAX_DISTANCE) for group, value in groups.items()}


def _centre(table: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd to expect of a further scan, from statistics (scans, names)."""
    n = len(table)
    mean = table.mean(0)
    prior = np.array([_PRIOR_SD[name.partition("/")[0]] for name in names])
    squares = ((table - mean) ** 2).sum(0) + _PRIOR_SCANS * prior**2
    variance = squares / (n - 1 + _PRIOR_SCANS)
    return mean, np.sqrt(variance * (1 + 1 / n))


def _distances(
    values: np.ndarray, mean: np.ndarray, sd: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """Root mean square of each group's values, in standard deviations."""
    squares = ((values - mean) / sd) ** 2
    groups = np.array([name.partition("/")[0] for name in names])
    return {
        group: math.sqrt(squares[groups == group].mean())
        for group in dict.fromkeys(groups.tolist())
    }


def _areas(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of true voxels in each slice across each axis of booleans (I, J, K)."""
    lines = mask.sum(0, dtype=np.int32)
    of_slices = np.array([np.count_nonzero(one) for one in mask])
    return of_slices, lines.sum(1), lines.sum(0)


def _sample(mask: np.ndarray) -> np.ndarray:
    """Flat indices of the true voxels of (I, J, K); of more than two million, some.

    These are then every second, or every third and so on.
    """
    step = max(1, math.ceil(np.count_nonzero(mask) / _SAMPLED))
    found, n_before = [], 0
    # A slice at a time stays in a processor's cache.
    for number, one in enumerate(mask):
        at = np.flatnonzero(one)
        found.append(at[-n_before % step :: step] + number * one.size)
        n_before += len(at)
    return np.concatenate(found)


def _contrast(
    image: np.ndarray,
    classes: np.ndarray,
    foreground: np.ndarray,
    reach: Sequence[int],
    mean: float,
    sd: float,
) -> dict[str, float]:
    """Quartiles of each class, and the median just outside the foreground.

    Quartiles, because a network's boundaries are not where the true ones are.
    """
    at = _sample(foreground)
    own = classes.ravel()[at]
    order = np.argsort(own, kind="stable")
    present, first = np.unique(own[order], return_index=True)
    found = {}
    for index, values in zip(
        present.tolist(), np.split(image.ravel()[at[order]], first[1:]), strict=True
    ):
        low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
        found[f"contrast/middle of {index}"] = (middle - mean) / sd
        found[f"contrast/spread of {index}"] = math.log(
            (high - low) / sd + _LEAST_SPREAD
        )
    around = foreground
    for axis, voxels in enumerate(reach):
        around = _widened(around, voxels, axis)
    shell = image[around & ~foreground]
    if shell.size:
        found["contrast/around"] = (float(np.median(shell)) - mean) / sd
    return found


def _widened(mask: np.ndarray, voxels: int, axis: int) -> np.ndarray:
    """True where a voxel of (I, J, K) is true, or one at most so far along an axis."""
    # Numpy joins bytes several times as fast as booleans.
    wide, reached = np.moveaxis(mask, axis, 0).view(np.uint8), 0
    while reached < voxels:
        # Two copies of what is reached by now lie beside it without a gap.
        step = min(2 * reached + 1, voxels - reached)
        before, wide = wide, wide.copy(order="K")
        wide[step:] |= before[:-step]
        wide[:-step] |= before[step:]
        reached += step
    return np.moveaxis(wide.view(bool), 0, axis)


def _sharpness(
    image: np.ndarray, foreground: np.ndarray, sd: float
) -> dict[str, float]:
    """How much neighbouring voxels of the foreground differ along each axis.

    In the median, as few as possible of the boundaries of what was segmented count.
    """
    found = {}
    values = image.ravel()
    for axis, letter in enumerate("RAS"):
        is_pair = np.zeros_like(foreground)
        both = np.moveaxis(foreground, axis, 0)
        np.moveaxis(is_pair, axis, 0)[:-1] = both[1:] & both[:-1]
        first = _sample(is_pair)
        if first.size:
            second = first + math.prod(image.shape[axis + 1 :])
            step = float(np.median(np.abs(values[second] - values[first])))
            found[f"sharpness/{letter}"] = math.log(step / sd + _LEAST_SPREAD)
    return found


def _positions(
    classes: np.ndarray,
    boxes: Sequence[tuple[int, Box]],
    spacing_mm: Sequence[float],
    head_mm: np.ndarray,
    radius_mm: float,
) -> dict[str, float]:
    """Where the foreground lies in the head, and each class in the foreground."""
    present, voxels, moments = [], [], []
    for index, box in boxes:
        areas = _areas(classes[box] == index)
        at = [np.arange(one.start, one.stop) for one in box]
        present.append(index)
        voxels.append(areas[0].sum())
        counts = zip(areas, at, spacing_mm, strict=True)
        moments.append([area @ numbers * mm for area, numbers, mm in counts])
    centre = np.sum(moments, 0) / np.sum(voxels)
    places = {"foreground": (centre - head_mm) / radius_mm}
    for index, moment, n in zip(present, moments, voxels, strict=True):
        places[f"class {index}"] = (moment / n - centre) / radius_mm
    return {
        f"position/{name} {letter}": float(value)
        for name, place in places.items()
        for letter, value in zip("RAS", place, strict=True)
    }


def _cut(
    image: np.ndarray, areas: Sequence[np.ndarray], flat: float
) -> tuple[float, ...]:
    """How much of the foreground lies on each face; see `Appearance`."""
    shares = []
    highest, lowest = image.max(0), image.min(0)
    ranges = (
        image.max((1, 2)) - image.min((1, 2)),
        highest.max(1) - lowest.min(1),
        highest.max(0) - lowest.min(0),
    )
    for area, spread in zip(areas, ranges, strict=True):
        constant = spread <= flat
        depth = 2 + math.ceil(_END * np.count_nonzero(area))
        for step in (-1, 1):
            # The field of view ends after the last slice, or before constant fill.
            ends = np.append(constant[::step], True)[1:]
            faces = np.flatnonzero(~constant[::step] & ends)
            outer = area[::step]
            most = max(
                (outer[max(n + 1 - depth, 0) : n + 1].max() for n in faces.tolist()),
                default=0,
            )
            shares.append(float(most / area.max()))
    return tuple(shares)
