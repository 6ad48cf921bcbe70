"""The brain, what lies in the skull, and the tissues, told by FreeSurfer's ids."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

import nibabel as nib
import numpy as np
from scipy import ndimage

from nobrainer.data.freesurfer import (
    OUTER_FLUID,
    THREE_TISSUES,
    is_outside,
    tissue_of,
)
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.io import read_geometry

CLOSED_MM = 3.0
"""Sulci and gaps that are narrower than twice this belong to a brain mask."""

_WHITE, _CORTEX = (2, 41), (3, 42)
_PARCELS = 1000
"""The parcels of the left cortex follow this value, those of the right one its
double."""


@dataclass(frozen=True)
class Compartments:
    """The numbers of the classes in the brain, in the skull and in each tissue.

    brain: the classes of the brain, its ventricles among them.
    intracranial: these and the fluid around the brain; empty where the model does not
        know that fluid.
    tissues: the classes of grey matter ("GM"), white matter ("WM") and cerebrospinal
        fluid ("CSF"). The brain-stem counts as white matter, the ventral diencephalon
        as grey, the choroid plexus as fluid.
    """

    brain: tuple[int, ...]
    intracranial: tuple[int, ...]
    tissues: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, labels: LabelTable) -> Self | None:
        """Find the compartments by the ids of the classes.

        Args:
            labels: the classes of a model.

        Returns:
            The compartments; None for a model whose classes do not make up a brain in
            FreeSurfer's ids: one of them has no such id, or the cerebral white matter
            or the cortex of a side is not among them.
        """
        known = {
            value: index
            for index, value in enumerate(labels.ids)
            if index and value is not None
        }
        has_all = len(known) == len(labels.ids) - 1 and all(map(tissue_of, known))
        if not has_all or not _has_hemispheres(known):
            return None
        inside = {value: n for value, n in known.items() if not is_outside(value)}
        brain = tuple(n for value, n in inside.items() if value != OUTER_FLUID)
        return cls(
            brain=brain,
            intracranial=tuple(inside.values()) if OUTER_FLUID in inside else (),
            tissues={
                name: tuple(n for value, n in inside.items() if tissue_of(value) in of)
                for name, of in THREE_TISSUES.items()
            },
        )

    @classmethod
    def require(cls, labels: LabelTable) -> Self:
        """Find the compartments where somebody asks for them.

        Raises:
            InputError: the classes of the model do not make up a brain, see `of`.
        """
        found = cls.of(labels)
        if found is None:
            raise InputError(
                "a brain mask and tissues need a model whose classes have FreeSurfer's "
                "ids, those of both sides' white matter and cortex (2, 41, 3, 42) "
                f"among them; this one has {_describe(labels)}: take another model"
            )
        return found

    @property
    def totals(self) -> dict[str, tuple[int, ...]]:
        """The compartments that are measured as a whole, by name."""
        found = {"brain": self.brain, "intracranial": self.intracranial}
        return {name: members for name, members in found.items() if members}


def brain_mask(label: nib.Nifti1Image, labels: LabelTable) -> nib.Nifti1Image:
    """Make a brain mask of a label map.

    The mask is what is labelled as brain, without the fluid around it, after a closing
    with a ball of 3 mm that fills the sulci; it is one piece without holes.

    Args:
        label: a label map that has the `values` of the classes.
        labels: the classes.

    Returns: the mask on the same grid, 1 in the brain and 0 elsewhere.

    Raises:
        InputError: the classes do not make up a brain, see `Compartments.of`.
    """
    brain = Compartments.require(labels).brain
    members = [labels.values[index] for index in brain]
    inside = np.isin(np.asarray(label.dataobj), members)
    closed = _close(inside, read_geometry(label).spacing_mm)
    return _like(label, closed.astype(np.uint8))


def tissue_map(label: nib.Nifti1Image, labels: LabelTable) -> nib.Nifti1Image:
    """Group the classes of a label map into tissues.

    Args:
        label: a label map that has the `values` of the classes.
        labels: the classes.

    Returns:
        An image on the same grid with the values of BIDS: 1 grey matter, 2 white
        matter, 3 cerebrospinal fluid, 0 elsewhere.

    Raises:
        InputError: the classes do not make up a brain, see `Compartments.of`.
    """
    table = np.zeros(max(labels.values) + 1, np.uint8)
    members_of = Compartments.require(labels).tissues
    for tissue, members in enumerate(members_of.values(), 1):
        table[[labels.values[index] for index in members]] = tissue
    return _like(label, table[np.asarray(label.dataobj)])


def _has_hemispheres(ids: Collection[int]) -> bool:
    """Whether the white matter and the cortex of both sides are among label values."""
    sides = {value // _PARCELS for value in ids}
    cortex = (value in ids or side in sides for side, value in enumerate(_CORTEX, 1))
    return all(value in ids for value in _WHITE) and all(cortex)


def _describe(labels: LabelTable) -> str:
    """The first classes of a model with their ids, for a message."""
    rows = list(zip(labels.names, labels.ids, strict=True))[1:4]
    some = (f"{name} ({'no id' if value is None else value})" for name, value in rows)
    more = ", ..." if len(labels.names) > 1 + len(rows) else ""
    return ", ".join(some) + more


def _close(inside: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Close a mask with a ball, keep its largest piece and fill its holes."""
    closed = np.zeros_like(inside)
    if not inside.any():
        return closed
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    margins = [math.ceil(CLOSED_MM / size_mm) + 1 for size_mm in spacing_mm]
    mask = np.pad(inside[box], [(margin, margin) for margin in margins])
    wide = ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= CLOSED_MM
    mask = ndimage.distance_transform_edt(wide, sampling=spacing_mm) > CLOSED_MM
    pieces, _ = ndimage.label(mask)
    largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    filled = ndimage.binary_fill_holes(largest)
    closed[box] = filled[tuple(slice(margin, -margin) for margin in margins)]
    return closed


def _like(label: nib.Nifti1Image, data: np.ndarray) -> nib.Nifti1Image:
    """An image of labels with the coordinates of another one."""
    header = label.header.copy()
    header.set_data_dtype(data.dtype)
    return nib.Nifti1Image(data, label.affine, header)
