"""Which scans of a data set are taken, by their entities: files of filters.

They are those of fMRIPrep and its kin: JSON with, for each kind of scan, the labels
that its entities must have.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nobrainer.bids.entities import EXTENSIONS, Name, indices, short_names
from nobrainer.checks import near_miss, shorten
from nobrainer.errors import InputError

Allowed = tuple[str | None, ...]
"""The labels of an entity that are taken; None is for names that lack it."""
_DEFAULT: Mapping[str, Allowed] = {"part": (None, "mag")}
"""Images of phases and of real and imaginary parts do not show anatomy."""
_DATATYPE = "anat"


@dataclass(frozen=True)
class Filters:
    """What the entities of scans must be.

    by_suffix: for a suffix in lower case, the labels that are taken of some entities,
        by the short name of the entity.
    """

    by_suffix: Mapping[str, Mapping[str, Allowed]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of filters.

        Args:
            path: path of the file, such as
                `{"t1w": {"acquisition": null, "run": [1, 2]}}`: an entity by its long
                or short name, and its label, a list of labels, or null where names
                must lack it.

        Raises:
            InputError: it cannot be read, or names no entity.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read as JSON ({error}): correct the file"
            ) from error
        if not isinstance(found, dict) or not all(
            isinstance(query, dict) for query in found.values()
        ):
            raise InputError(
                f'{path}: must be like {{"t1w": {{"acquisition": "mprage"}}}}: correct '
                "the file"
            )
        by_suffix: dict[str, dict[str, Allowed]] = {}
        for name, query in found.items():
            suffix = query.get("suffix", name)
            by_suffix[str(suffix).lower()] = _read_query(path, query)
        return cls(by_suffix)

    def take(self, name: Name) -> bool:
        """Whether a scan is taken.

        Args:
            name: what its name says.
        """
        wanted = {**_DEFAULT, **self.by_suffix.get(name.suffix.lower(), {})}
        has = name.entities | {"extension": name.extension, "datatype": _DATATYPE}
        return all(
            _plain(key, has.get(key)) in {_plain(key, one) for one in allowed}
            for key, allowed in wanted.items()
        )


def _read_query(path: Path, query: Mapping[str, Any]) -> dict[str, Allowed]:
    """The labels that a query allows, by the short name of the entity."""
    read: dict[str, Allowed] = {}
    known = {**short_names(), **{short: short for short in short_names().values()}}
    known |= {"extension": "extension", "datatype": "datatype"}
    for key, labels in query.items():
        if key == "suffix":
            continue
        if key not in known:
            raise InputError(f"{path}: {near_miss('entity', key, known)}")
        allowed = labels if isinstance(labels, list) else [labels]
        for one in allowed:
            if isinstance(one, bool) or not isinstance(one, str | int | None):
                raise InputError(
                    f"{path}: {key} must be a label, a list of labels or null, got "
                    f"{shorten(one)}"
                )
        start = f"{known[key]}-"
        read[known[key]] = tuple(
            None if one is None else str(one).removeprefix(start) for one in allowed
        )
    return read


def _plain(key: str, label: str | None) -> str | None:
    """A label as labels are compared: run-1 is run-01, and ".nii" is "nii"."""
    if label is not None and key in indices() and label.isdecimal():
        return str(int(label))
    if label is not None and key == "extension":
        return next((e for e in EXTENSIONS if e == f".{label.lstrip('.')}"), label)
    return label
