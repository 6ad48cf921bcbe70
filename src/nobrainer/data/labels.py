"""The classes of a model: their names, their colours, what stands for them in files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from nobrainer.checks import MOST_VALUE, check_choice
from nobrainer.data.freesurfer import HEMISPHERES, MERGED, ROWS, SCHEMES
from nobrainer.errors import InputError

BACKGROUND, BLACK = "background", "#000000"
"""Name and colour of class 0."""
_WRITTEN = ["index", "name", "color", "original"]
_NOT_KNOWN = ("", "n/a")


# matplotlib's tab20, the strong colours before their pale twins, tab20b and tab20c.
# They are written out, because a model is read without loading matplotlib.
_PALETTE = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"),
    *("#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#aec7e8", "#ffbb78"),
    *("#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#c7c7c7"),
    *("#dbdb8d", "#9edae5", "#393b79", "#5254a3", "#6b6ecf", "#9c9ede"),
    *("#637939", "#8ca252", "#b5cf6b", "#cedb9c", "#8c6d31", "#bd9e39"),
    *("#e7ba52", "#e7cb94", "#843c39", "#ad494a", "#d6616b", "#e7969c"),
    *("#7b4173", "#a55194", "#ce6dbd", "#de9ed6", "#3182bd", "#6baed6"),
    *("#9ecae1", "#c6dbef", "#e6550d", "#fd8d3c", "#fdae6b", "#fdd0a2"),
    *("#31a354", "#74c476", "#a1d99b", "#c7e9c0", "#756bb1", "#9e9ac8"),
    *("#bcbddc", "#dadaeb", "#636363", "#969696", "#bdbdbd", "#d9d9d9"),
)


@dataclass(frozen=True)
class LabelTable:
    """The classes of a model; the position in a field is the class index.

    names: name of each class, all different; class 0 is background.
    colors: "#rrggbb" of each class. Without them, background is black and the others
        have a fixed palette of 60 colours, which starts again after its end.
    ids: the label value that stands for the class in the training files, where a single
        one does (for a scheme it is FreeSurfer's); else None.
    is_numbered: whether label maps carry class indices although every class has an id.

    >>> table = LabelTable(("background", "hippocampus"), ids=(0, 17))
    >>> table.values, table.colors
    ((0, 17), ('#000000', '#1f77b4'))
    >>> table.to_values(np.array([0, 1, 1]))
    array([ 0, 17, 17], dtype=uint8)
    """

    names: tuple[str, ...]
    colors: tuple[str, ...] = ()
    ids: tuple[int | None, ...] = ()
    is_numbered: bool = False

    def __post_init__(self) -> None:
        n_classes = len(self.names)
        colors = self.colors or tuple(
            _PALETTE[(index - 1) % len(_PALETTE)] if index else BLACK
            for index in range(n_classes)
        )
        # Fields of a frozen record that are derived from others are set like this.
        object.__setattr__(self, "colors", tuple(color.lower() for color in colors))
        object.__setattr__(self, "ids", self.ids or (None,) * n_classes)
        for field, size in (("colors", len(self.colors)), ("ids", len(self.ids))):
            if size != n_classes:
                raise InputError(
                    f"{field} must be one for each of {n_classes} classes, got {size}: "
                    "give as many as names"
                )
        for position, name in enumerate(self.names):
            if len(name.splitlines()) != 1 or "\t" in name or name != name.strip():
                raise InputError(
                    "names of classes must be text in one line, without tabs and "
                    f"outer spaces, got {name!r}: rename it"
                )
            if name in self.names[:position]:
                raise InputError(
                    f"names of classes must differ, got {name!r} twice: rename one"
                )
        for color in self.colors:
            if not re.fullmatch("#[0-9a-f]{6}", color):
                raise InputError(
                    f"colors must be #rrggbb, got {color!r}: give six hexadecimal "
                    "digits after a #"
                )

    @property
    def values(self) -> tuple[int, ...]:
        """The value that stands for each class in the label maps that are written.

        These are the `ids` where every class has an id of its own and that of
        background is 0; else they are the class indices. The two are never mixed, since
        nobody could tell them apart.
        """
        known = tuple(value for value in self.ids if value is not None)
        is_complete = len(set(known)) == len(self.names) and known[0] == 0
        if is_complete and not self.is_numbered:
            return known
        return tuple(range(len(self.names)))

    def numbered(self) -> Self:
        """The same classes, with label maps that carry the class indices."""
        return replace(self, is_numbered=True)

    def of_two(self) -> Self:
        """The classes after `binarize`: the same names where there are two, no ids."""
        if len(self.names) == 2:
            return replace(self, ids=())
        return self.generic(2)

    def to_values(self, classes: np.ndarray) -> np.ndarray:
        """Turn class indices into the `values` of a label map.

        Args:
            classes: class indices, integers of any shape.

        Returns:
            The same shape, in the smallest unsigned type that fits.
        """
        return np.array(self.values, np.min_scalar_type(max(self.values)))[classes]

    def to_classes(self, values: np.ndarray) -> np.ndarray:
        """Turn the `values` of a label map into class indices.

        Args:
            values: label values, integers of any shape.

        Returns:
            The same shape, in the smallest unsigned type that fits.

        Raises:
            InputError: a value that stands for no class.
        """
        found = np.unique(values)
        index_of = {value: index for index, value in enumerate(self.values)}
        foreign = [value for value in found.tolist() if value not in index_of]
        if foreign:
            raise InputError(
                f"label map holds {foreign[0]}, which stands for none of the "
                f"{len(self.names)} classes: give a map that this model made"
            )
        size = np.min_scalar_type(len(self.names) - 1)
        classes = np.array([index_of[value] for value in found.tolist()], size)
        return classes[np.searchsorted(found, values)]

    @classmethod
    def generic(cls, n_classes: int) -> Self:
        """A table for classes of which only the number is known."""
        if n_classes == 2:
            return cls((BACKGROUND, "foreground"))
        return cls((BACKGROUND, *(f"class-{i}" for i in range(1, n_classes))))

    @classmethod
    def for_scheme(cls, name: str) -> Self:
        """The classes of a scheme of FreeSurfer's label values, such as "aseg".

        Where left and right share a class, its name tells no side. A class that merges
        several structures has the colour of the first of them and no id, unless it has
        the name of the first one, as the cortices of "aseg" do.

        Raises:
            InputError: there is no such scheme.
        """
        check_choice("label scheme", name, SCHEMES)
        members: dict[int, list[dict[str, str]]] = {}
        for row in ROWS:
            if row[name] and row[name] != "0":
                members.setdefault(int(row[name]), []).append(row)
        merged = MERGED.get(name, {})
        names, colors = [BACKGROUND], [BLACK]
        ids: list[int | None] = [0]
        for index in range(1, max(members) + 1):
            first, *others = members[index]
            short = _without_side(first["name"]) if others else first["name"]
            names.append(merged.get(index, short))
            colors.append(first["color"])
            is_one = not others or names[-1] == first["name"]
            ids.append(int(first["freesurfer_id"]) if is_one else None)
        return cls(tuple(names), tuple(colors), tuple(ids))

    def sides_together(self) -> tuple[int, ...]:
        """A number for each class, in their order; left and right partners share one.

        >>> LabelTable(("background", "Left-Putamen", "Right-Putamen")).sides_together()
        (0, 1, 1)
        """
        numbers: dict[str, int] = {}
        return tuple(
            numbers.setdefault(_without_side(name), len(numbers)) for name in self.names
        )

    def to_tsv(self) -> str:
        """The table as tab-separated text, for the folder of a model.

        The columns are `index`, the class index, `name` and `color`, as in a BIDS
        `dseg.tsv`, and `original`, which holds the `ids`.
        """
        return self._to_tsv(range(len(self.names)))

    def to_dseg(self) -> str:
        """A table of the same columns for a label map, with its values as `index`."""
        return self._to_tsv(self.values)

    def _to_tsv(self, indices: Iterable[int]) -> str:
        rows = zip(indices, self.names, self.colors, self.ids, strict=True)
        return (
            "\t".join(_WRITTEN)
            + "\n"
            + "".join(
                f"{index}\t{name}\t{color}\t{'n/a' if value is None else value}\n"
                for index, name, color, value in rows
            )
        )

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, str]]) -> Self:
        """The classes that the rows of a table describe, in the order of the rows.

        Args:
            rows: `name` of each class; and its `color` and `original`, the id, where
                they are known. Empty text and "n/a" stand for what is not known.

        Raises:
            InputError: an id is no label value, or a name or colour cannot be used.
        """
        colors = [row.get("color", "") for row in rows]
        ids = [row.get("original", "") for row in rows]
        defaults = cls.generic(len(rows)).colors
        return cls(
            tuple(row["name"] for row in rows),
            tuple(
                default if color in _NOT_KNOWN else color
                for color, default in zip(colors, defaults, strict=True)
            ),
            tuple(None if i in _NOT_KNOWN else parse_label(i, "original") for i in ids),
        )

    @classmethod
    def from_tsv(cls, text: str) -> Self:
        """Read what `to_tsv` wrote, also when it still had only `index` and `name`.

        Args:
            text: a whole table.

        Raises:
            InputError: the text is not such a table.
        """
        header, *lines = (line.split("\t") for line in text.splitlines() or [""])
        if (
            header not in (_WRITTEN[:2], _WRITTEN)
            or not lines
            or [line[0] for line in lines] != [str(i) for i in range(len(lines))]
            or any(len(line) != len(header) for line in lines)
        ):
            raise InputError(
                "label table must have the columns index and name, or index, name, "
                "color and original, separated by tabs, with the indices 0, 1, 2, ... "
                "in order"
            )
        return cls.from_rows([dict(zip(header, line, strict=True)) for line in lines])


def parse_label(value: object, where: str) -> int:
    """Read a label value or a class.

    Args:
        value: a number or its text.
        where: what the message says the value stands in.

    Raises:
        InputError: the value is not an integer from 0 to 2147483647.
    """
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if not 0 <= number <= MOST_VALUE:
        raise InputError(
            f"{where}: label values and classes must be integers from 0 to "
            f"{MOST_VALUE}, got {value!r}"
        )
    return number


def _without_side(name: str) -> str:
    """The name of a structure without the side that it lies on."""
    for prefix in HEMISPHERES:
        name = name.removeprefix(prefix)
    return name
