"""What the label values of head maps stand for: tissue, side and class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from nobrainer.data.freesurfer import FREESURFER_NAMES, tissue_of

_PAIRS = ((25, 57), (136, 163), (137, 164))
"""Left and right partners that have no name in the shipped table of FreeSurfer."""
_SIDES = (("Left-", "Right-"), ("ctx-lh-", "ctx-rh-"))


@dataclass(frozen=True)
class Anatomy:
    """What the label values of some maps stand for.

    Maps hold the position of a value in this table in place of the value itself.

    values: the label values in ascending order; the first one is 0.
    partners: for each value the position of its partner on the other side of the body;
        its own position where there is none.
    groups: for each value the number of its intensity; partners have the same one.
    classes: for each value the class that the model is to find there.
    tissues: for each value the name of its tissue, empty where it is not known.

    >>> anatomy = Anatomy.of([0, 2, 3, 41], classes={2: 1, 41: 1})
    >>> anatomy.values
    (0, 2, 3, 41, 42)
    >>> anatomy.tissues[1], anatomy.values[anatomy.partners[1]]
    ('white matter', 41)
    """

    values: tuple[int, ...]
    partners: tuple[int, ...]
    groups: tuple[int, ...]
    classes: tuple[int, ...]
    tissues: tuple[str, ...]

    @classmethod
    def of(
        cls,
        values: Sequence[int],
        classes: Mapping[int, int],
        pairs: Sequence[tuple[int, int]] = (),
    ) -> Self:
        """Look up label values by the names that FreeSurfer gives them.

        Args:
            values: label values of the maps. 0 and the partners of the values are
                added where they are not listed.
            classes: from label value to class; values that it lacks are background.
            pairs: label values of left and right partners beside those whose names
                tell their side.
        """
        sides = _partners(pairs)
        known = {0, *map(int, values)}
        found = sorted(known | {sides[value] for value in known if value in sides})
        position = {value: index for index, value in enumerate(found)}
        partners = tuple(position[sides.get(value, value)] for value in found)
        return cls(
            values=tuple(found),
            partners=partners,
            groups=tuple(map(min, enumerate(partners))),
            classes=tuple(classes.get(value, 0) for value in found),
            tissues=tuple(map(tissue_of, found)),
        )

    @property
    def nameless(self) -> tuple[int, ...]:
        """Label values of a class whose side is not known: no name and no partner."""
        rows = zip(self.values, self.partners, self.classes, strict=True)
        return tuple(
            value
            for index, (value, partner, class_) in enumerate(rows)
            if class_ and partner == index and not self.tissues[index]
        )

    def positions(self, labels: np.ndarray) -> np.ndarray:
        """Turn label values into their positions in `values`.

        Args:
            labels: label values in an array of any shape; all of them must be in
                `values`.

        Returns:
            An array of the same shape, in the smallest unsigned type that fits.
        """
        size = np.min_scalar_type(len(self.values) - 1)
        return np.searchsorted(self.values, labels).astype(size)


def _partners(pairs: Sequence[tuple[int, int]]) -> dict[int, int]:
    """The partner of each label value that has one on the other side."""
    value_of = {name: value for value, name in FREESURFER_NAMES.items()}
    found = {}
    for name, value in value_of.items():
        for left, right in _SIDES:
            other = value_of.get(right + name.removeprefix(left))
            if name.startswith(left) and other is not None:
                found[value] = other
    found.update((*_PAIRS, *pairs))
    return found | {right: left for left, right in found.items()}
