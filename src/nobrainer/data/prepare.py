"""One scan, or one image of a label map, from its files onto the working grid."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike

import numpy as np
import torch

from nobrainer.data.entries import Scan
from nobrainer.data.freesurfer import is_outside
from nobrainer.data.prepared import HeadMap, Preparation, RawScan
from nobrainer.data.preprocess import (
    common_spacing,
    preprocess_labels,
)
from nobrainer.data.stored import Ready, prepare_stored
from nobrainer.data.synthesis import Anatomy, synthesise
from nobrainer.data.targets import give_sides, make_targets, warn_of_unknown
from nobrainer.data.zarr_store.table import StoredScan
from nobrainer.errors import InputError, list_problems
from nobrainer.io import read_image, read_labels
from nobrainer.volume import Volume, conformed_geometry


def prepare_scan(scan: Scan, preparation: Preparation) -> tuple[Ready, dict[int, int]]:
    """Read, check and preprocess one scan; one in a store is prepared already.

    Args:
        scan: image and label, a label map from which an image is made, or a scan in a
            store, whose voxels stay there until they are needed.
        preparation: how it is prepared.

    Returns:
        The scan, ready for the network, and for each label value that `config.relabel`
        does not know its number of voxels.

    Raises:
        InputError: a file cannot be used, or image and labels do not fit together.
    """
    if isinstance(scan.image, StoredScan):
        return prepare_stored(scan.image, scan.name, preparation)
    with _naming(scan):
        raw, unknown = _read(scan, preparation)
        return raw.prepare(preparation.preprocess), unknown


def read_scan(scan: Scan, preparation: Preparation) -> RawScan:
    """Read and check one scan, as `prepare_scan` does, but leave it as it is.

    Args:
        scan: image and label, or a label map from which an image is made.
        preparation: how it will be prepared.

    Raises:
        InputError: a file cannot be used, image and labels do not fit together, or the
            scan is in a store, which has no scans as they came.
    """
    if isinstance(scan.image, StoredScan):
        raise InputError(
            f"{scan.image.store}: is a store, whose scans are no longer as they came: "
            "give the files that it was made from"
        )
    with _naming(scan):
        return _read(scan, preparation)[0]


@contextmanager
def _naming(scan: Scan) -> Iterator[None]:
    """Errors within begin with the name of the scan."""
    try:
        yield
    except InputError as error:
        if scan.paths is not None:
            raise
        # Images in memory have no name of their own.
        raise InputError(f"{scan.name}: {error}") from error


def prepare_scans(
    scans: Sequence[Scan],
    preparation: Preparation,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Ready]:
    """Prepare scan after scan, and name all those that cannot be used at the end.

    A warning names the label values that `config.relabel` does not know.

    Args:
        scans: the scans, in the order in which they are prepared.
        preparation: how they are prepared.
        progress: called after each scan with (scans done, scans in all).

    Raises:
        InputError: some scans cannot be used; a line for each problem.
    """
    problems = []
    unknown: Counter[int] = Counter()
    for number, scan in enumerate(scans):
        try:
            prepared, counts = prepare_scan(scan, preparation)
        except InputError as error:
            problems.append(split_message(scan, str(error)))
        else:
            unknown.update(counts)
            yield prepared
        if progress is not None:
            progress(number + 1, len(scans))
    if problems:
        raise InputError(list_problems(problems))
    warn_of_unknown(unknown)


def working_spacing_mm(
    scans: Sequence[Scan], orientation: str
) -> tuple[float, float, float] | None:
    """The median voxel size of scans in mm along the axes of an orientation.

    Args:
        scans: the scans; those whose header cannot be read do not count.
        orientation: axis codes of the working grid, such as "RAS".

    Returns:
        The median along each axis; None if no header can be read.
    """
    geometries = []
    for scan in scans:
        try:
            geometries.append(scan.geometry)
        except InputError:
            continue
    return common_spacing(geometries, orientation) if geometries else None


def read_pair(scan: Scan) -> tuple[Volume, Volume | None]:
    """Read the image of a scan and its labels, which lie voxel by voxel on it.

    Args:
        scan: files or images in memory.

    Returns:
        The image, and the label values on the same grid; None where there are none.

    Raises:
        InputError: a file cannot be used, or image and labels do not fit together.
    """
    assert not isinstance(scan.image, StoredScan)
    assert not isinstance(scan.label, StoredScan)
    volume = read_image(scan.image)
    if scan.label is None:
        return volume, None
    labels = read_labels(scan.label)
    _check_same_grid(volume, labels)
    return volume, replace(labels, affine=volume.affine)


def _read(scan: Scan, preparation: Preparation) -> tuple[RawScan, dict[int, int]]:
    """A scan, and the voxels of each label value without a known class."""
    return (_draw_of_map if scan.is_map else _read_pair)(scan, preparation)


def _read_pair(scan: Scan, preparation: Preparation) -> tuple[RawScan, dict[int, int]]:
    """An image with or without its labels; see `prepare_scan`."""
    volume, labels = read_pair(scan)
    label = None
    unknown: dict[int, int] = {}
    if labels is not None:
        try:
            labels = give_sides(labels, preparation.config)
            classes, unknown = make_targets(
                labels.data, preparation.config, preparation.binarizer
            )
        except InputError as error:
            raise InputError(f"{labels.source}: {error}") from error
        label = replace(labels, data=classes)
    return RawScan(scan.name, volume, label, volume.geometry.spacing_mm), unknown


def _draw_of_map(
    scan: Scan, preparation: Preparation
) -> tuple[RawScan, dict[int, int]]:
    """A label map, and an image of the whole head that is drawn from it.

    The image is always the same, since the map itself and the number of the image give
    the seed. See `prepare_scan`.
    """
    preprocess, config = preparation.preprocess, preparation.config
    if preprocess.normalize != "zscore":
        raise InputError(
            f"{scan.name}: images of label maps are normalised by zscore, not by "
            f"{preprocess.normalize}: leave out normalize"
        )
    assert scan.label is not None and config.synthesis is not None
    assert not isinstance(scan.label, StoredScan)
    labels = give_sides(read_labels(scan.label), config)
    values, counts = np.unique(labels.data, return_counts=True)
    anatomy, unknown = _read_anatomy(labels, values.tolist(), preparation)
    positions = anatomy.positions(labels.data)
    grid = preprocess_labels(replace(labels, data=positions), preprocess)
    head = HeadMap(grid.data, anatomy)
    seed = zlib.crc32(head.positions.tobytes())
    if scan.draw:
        seed = zlib.crc32(str(scan.draw).encode(), seed)
    drawn = synthesise(
        torch.from_numpy(head.positions)[None],
        anatomy,
        config.synthesis,
        [seed],
        spacing_mm=grid.geometry.spacing_mm,
    )
    label = drawn.label[0].numpy().astype(np.min_scalar_type(config.n_classes - 1))
    present = dict(zip(values.tolist(), counts.tolist(), strict=True))
    # Tissues around the brain only shape the images: having no class is no mistake.
    missed = {
        value: present[value]
        for value in unknown
        if value in present and not is_outside(value)
    }
    raw = RawScan(
        scan.name,
        replace(grid, data=drawn.image[0, 0].numpy()),
        replace(grid, data=label),
        _imitated_mm(
            conformed_geometry(labels.geometry, preprocess.orientation).spacing_mm,
            grid.geometry.spacing_mm,
            drawn.voxel_mm[0].tolist(),
        ),
        head,
    )
    return raw, missed


def _imitated_mm(
    own_mm: Sequence[float], working_mm: Sequence[float], drawn_mm: Sequence[float]
) -> tuple[float, float, float]:
    """The voxel size of the scan that an image of a label map imitates.

    It is that of the map, but along axes for which larger voxels were drawn than those
    of the working grid.

    Args:
        own_mm: voxel size of the map along each axis of the working grid.
        working_mm: voxel size of the working grid.
        drawn_mm: voxel size that was drawn.
    """
    i, j, k = (
        drawn if drawn > 1.001 * working else own
        for own, working, drawn in zip(own_mm, working_mm, drawn_mm, strict=True)
    )
    return i, j, k


def _read_anatomy(
    labels: Volume, values: Sequence[int], preparation: Preparation
) -> tuple[Anatomy, Iterable[int]]:
    """What the label values of a map stand for, and the values without a known class.

    Raises:
        InputError: the values cannot become classes, or the map cannot be flipped.
    """
    config = preparation.config
    assert config.synthesis is not None
    pairs = config.synthesis.pairs
    # A flipped image also has the values of the partners on the other side.
    known = np.array(Anatomy.of(values, {}, pairs).values)
    try:
        classes, unknown = make_targets(known, config, preparation.binarizer)
    except InputError as error:
        raise InputError(f"{labels.source}: {error}") from error
    of_value = dict(zip(known.tolist(), classes.tolist(), strict=True))
    anatomy = Anatomy.of(values, of_value, pairs)
    paired = {value for pair in pairs for value in pair}
    sideless = [value for value in anatomy.nameless if value not in paired]
    if sideless and config.synthesis.flip and config.n_classes > 2:
        raise InputError(
            f"{labels.source}: label value {sideless[0]} has no name that tells its "
            "side, so that it cannot be flipped: give Synthesis(pairs=((left, right), "
            "...)), a value on the midline as a pair with itself, or flip=0"
        )
    return anatomy, unknown


def split_message(scan: Scan, message: str) -> tuple[str, str]:
    """The file that a message about a scan begins with, and the rest of the message."""
    files = (scan.image, scan.label)
    names = [str(file) for file in files if isinstance(file, str | PathLike)]
    for name in (*names, scan.name):
        if message.startswith(start := f"{name}: "):
            return name, message.removeprefix(start)
    return scan.name, message


def _check_same_grid(image: Volume, labels: Volume) -> None:
    """Refuse labels that do not lie voxel by voxel on their image."""
    if image.data.shape != labels.data.shape:
        raise InputError(
            f"{labels.source}: shape {labels.data.shape} differs from "
            f"{image.data.shape} of its image {image.source}: give labels on the "
            "image's grid"
        )
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.data.shape) - 1)
    gap = corners @ (image.affine - labels.affine)[:3, :3].T
    gap += (image.affine - labels.affine)[:3, 3]
    gap_mm = float(np.linalg.norm(gap, axis=1).max())
    # Files round affines to single precision; a tenth of a voxel is far more than that.
    if gap_mm > 0.1 * min(image.geometry.spacing_mm):
        raise InputError(
            f"{labels.source}: its affine puts voxels up to {gap_mm:.3g} mm away from "
            f"those of its image {image.source}: give labels on the image's grid"
        )
