"""From the label values of a scan to the classes that a network learns."""

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import nibabel as nib
import numpy as np
import scipy

from nobrainer.data.freesurfer import FREESURFER_NAMES
from nobrainer.data.labels import LabelTable, parse_label
from nobrainer.data.mapping import Mappable, read_mapping
from nobrainer.errors import InputError
from nobrainer.recipe import DataConfig
from nobrainer.volume import Volume

Binarizer = Callable[[np.ndarray], np.ndarray]
"""A function from an array of label values to booleans of the same shape."""
_LEFT = 40
"""FreeSurfer's values of the left side end before; classes rarely count so far."""
_WHITE = (2, 41)
_SIDELESS = (77, 192, 251, 252, 253, 254, 255)
"""FreeSurfer's values of white matter on either side: lesions, and the corpus
callosum."""
_AS_NEAR_MM = 1e-3


def give_sides(labels: Volume, config: DataConfig) -> Volume:
    """Give white matter whose label value tells no side that of the nearer side.

    The scheme "synthseg" has the white matter of each side as a structure, to which
    lesions and the corpus callosum belong. FreeSurfer's values of these (77, 192 and
    251 to 255) become 2 or 41, whichever is nearer; where both are, one is drawn, alike
    for every order of the axes.

    Args:
        labels: label values, integers (I, J, K).
        config: what `relabel` says counts.

    Returns:
        The labels; as they are with any other mapping, and without any white matter.
    """
    scheme = {str(value): new for value, new in read_mapping("synthseg")[0].items()}
    if config.relabel != scheme:
        return labels
    inside = np.isin(labels.data, _SIDELESS)
    if not inside.any():
        return labels
    sides = [labels.data == value for value in _WHITE]
    if not any(side.any() for side in sides):
        return labels

    def place_mm(mask: np.ndarray) -> np.ndarray:
        return nib.affines.apply_affine(labels.affine, np.argwhere(mask))

    at_mm = place_mm(inside)
    left_mm, right_mm = (
        scipy.spatial.KDTree(place_mm(side)).query(at_mm)[0] for side in sides
    )
    draw = np.empty(len(at_mm))
    order = np.lexsort(np.round(at_mm, 2).T)
    draw[order] = np.random.default_rng(0).random(len(at_mm))
    farther_mm = left_mm - right_mm
    is_right = np.where(np.abs(farther_mm) < _AS_NEAR_MM, draw < 0.5, farther_mm > 0)
    left, right = _WHITE
    data = labels.data.copy()
    data[inside] = np.where(is_right, right, left)
    return replace(labels, data=data)


def make_targets(
    labels: np.ndarray, config: DataConfig, binarizer: Binarizer | None
) -> tuple[np.ndarray, dict[int, int]]:
    """Turn the label values of a file into classes: first relabel, then binarize.

    Args:
        labels: label values, integers (I, J, K).
        config: what `relabel`, `binarize`, `binarize_ids` and `n_classes` say counts.
        binarizer: the function behind `binarize="callable"`, from label values to
            booleans of the same shape; None without one.

    Returns:
        Classes (I, J, K) in the smallest unsigned type that fits; and for each label
        value that `relabel` does not know, and which became background, its number of
        voxels.

    Raises:
        InputError: a class is not below `n_classes`, or the function does not give one
            boolean (or 0 or 1) for each voxel.
    """
    unknown: dict[int, int] = {}
    if config.relabel is not None:
        # Searching among the few different values is 4 times as fast as asking
        # np.unique for the inverse.
        values = np.unique(labels)
        position = np.searchsorted(values, labels)
        counts = np.bincount(position.ravel())
        known = {int(key): new for key, new in config.relabel.items()}
        unknown = {
            int(value): int(count)
            for value, count in zip(values, counts, strict=True)
            if int(value) not in known
        }
        labels = np.array([known.get(int(value), 0) for value in values])[position]
    if config.binarize != "none":
        ids = config.binarize_ids if config.binarize == "ids" else None
        labels = find_foreground(labels, ids if binarizer is None else binarizer)
    top = int(labels.max())
    if top >= config.n_classes:
        ways = f"give n_classes={top + 1} or more, or binarize or relabel"
        if config.relabel is None and top in FREESURFER_NAMES and top > _LEFT:
            ways = (
                "if these are FreeSurfer's values, give relabel=aseg, else binarize or "
                f"n_classes={top + 1} or more"
            )
        raise InputError(
            f"label value {top} is not below n_classes={config.n_classes}: {ways}"
        )
    return labels.astype(np.min_scalar_type(config.n_classes - 1)), unknown


def find_foreground(
    labels: np.ndarray, chosen: Collection[int] | Binarizer | None
) -> np.ndarray:
    """Find the voxels that `binarize` makes foreground.

    Args:
        labels: label values, (I, J, K).
        chosen: the label values of the foreground; or a function from the array to
            booleans; or None for every label value but 0.

    Returns:
        Booleans (I, J, K).

    Raises:
        InputError: the function does not give one boolean (or 0 or 1) for each voxel.
    """
    if chosen is None:
        return labels > 0
    if not callable(chosen):
        return np.isin(labels, list(chosen))
    mask = np.asarray(chosen(labels))
    if mask.shape != labels.shape or not np.isin(mask, (0, 1)).all():
        raise InputError(
            "the function given to binarize must return one boolean per voxel, got "
            f"shape {mask.shape} of {mask.dtype}"
        )
    return mask.astype(bool)


def describe_unknown(counts: Mapping[int, int]) -> str:
    """Name the label values that a mapping does not know, in one line.

    Args:
        counts: number of voxels of each label value.

    >>> describe_unknown({17: 20})
    '17 (FreeSurfer Left-Hippocampus): 20 voxels'
    """
    parts = []
    for value, count in sorted(counts.items()):
        name = FREESURFER_NAMES.get(value)
        parts.append(
            f"{value}{f' (FreeSurfer {name})' if name else ''}: {count} voxels"
        )
    return ", ".join(parts)


def warn_of_unknown(counts: Mapping[int, int]) -> None:
    """Warn of label values that a mapping does not know, if there are any.

    Args:
        counts: number of voxels of each of them.
    """
    if counts:
        warnings.warn(
            "label values that the mapping does not know became background: "
            + describe_unknown(counts),
            stacklevel=3,
        )


def foreground_values(labels: object) -> tuple[int, ...]:
    """Check and sort the label values that `Dataset.binarize` makes foreground.

    Raises:
        InputError: this is no collection of label values. A mapping is refused, too,
            because its values would be ignored.
    """
    if not isinstance(labels, Collection) or isinstance(labels, str | bytes | Mapping):
        raise InputError(
            f"binarize takes nothing, a set of label values or a function, got "
            f"{labels!r}: relabel takes the names of schemes and the paths of tables"
        )
    ids = tuple(sorted({parse_label(label, "binarize") for label in labels}))
    if not ids:
        raise InputError("binarize: give at least one label value")
    return ids


def binarized(
    config: DataConfig,
    chosen: Collection[int] | Binarizer | None,
    asked_classes: int | None,
) -> DataConfig:
    """The settings for two classes, foreground and background.

    Args:
        config: the settings so far.
        chosen: what is foreground, see `find_foreground`.
        asked_classes: the number of classes that the user asked for, None for any.

    Raises:
        InputError: the user asked for another number of classes, or `chosen` is neither
            a function nor a collection of label values.
    """
    if asked_classes not in (None, 2):
        raise InputError(
            f"binarize makes 2 classes, but n_classes is {asked_classes}: "
            "give n_classes=2"
        )
    config = replace(config, n_classes=2, binarize_ids=(), binarize_name="")
    if callable(chosen):
        name = getattr(chosen, "__qualname__", type(chosen).__qualname__)
        return replace(config, binarize="callable", binarize_name=name)
    if chosen is None:
        return replace(config, binarize="nonzero")
    return replace(config, binarize="ids", binarize_ids=foreground_values(chosen))


def relabelled(
    config: DataConfig, mapping: Mappable, asked_classes: int | None
) -> tuple[DataConfig, LabelTable]:
    """The settings and the classes where label values are mapped to classes.

    Args:
        config: the settings so far.
        mapping: label value to class, see `read_mapping`.
        asked_classes: the number of classes that the user asked for, None for any.

    Raises:
        InputError: the mapping cannot be read, makes everything background, or has
            another number of classes than the user asked for.
    """
    known, labels = read_mapping(mapping)
    name = "relabel" if isinstance(mapping, Mapping) else str(mapping)
    n_classes = len(labels.names)
    if n_classes < 2:
        raise InputError(
            f"{name}: makes every label value background: give another class"
        )
    # Two may be asked for where binarize follows: `check_relabelled` sees to that.
    if asked_classes not in (None, 2, n_classes):
        raise _wrong_number(name, n_classes, config.n_classes)
    if config.binarize != "none" or asked_classes not in (None, n_classes):
        labels = labels.of_two()
    by_text = {str(value): new for value, new in known.items()}
    return replace(config, relabel=by_text, n_classes=len(labels.names)), labels


def check_relabelled(config: DataConfig) -> None:
    """Refuse a mapping to more than `n_classes` classes that nothing made binary.

    This can only be checked at the end, since `binarize` may follow `relabel`.

    Raises:
        InputError: there are more classes than the user asked for.
    """
    if config.relabel is not None and config.binarize == "none":
        n_classes = max(config.relabel.values()) + 1
        if n_classes > config.n_classes:
            raise _wrong_number("relabel", n_classes, config.n_classes)


def check_same_classes(one: DataConfig, other: DataConfig) -> None:
    """Check that two datasets make the same classes of the same label values.

    Args:
        one: how one dataset makes its classes.
        other: how the other one does.

    Raises:
        InputError: the two differ in what decides the classes.
    """
    made = ("n_classes", "relabel", "binarize", "binarize_ids", "binarize_name")
    for name in made:
        if getattr(one, name) != getattr(other, name):
            raise InputError(
                f"the datasets to mix must have the same classes, but differ in "
                f"{name}: relabel or binarize both alike"
            )


def _wrong_number(name: str, found: int, asked: int) -> InputError:
    return InputError(
        f"{name}: has {found} classes with background, but n_classes is {asked}: give "
        f"n_classes={found} or leave it out"
    )
