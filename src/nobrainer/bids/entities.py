"""The names of BIDS: which entities there are, in which order, what a name says.

The rules are those of the specification, as the package `bidsschematools` carries them.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from bidsschematools.schema import load_schema

EXTENSIONS = (".nii.gz", ".nii")
"""Ends of the names of images in BIDS."""
_DERIVED = {
    "dseg": "anat_discrete_segmentation",
    "probseg": "anat_probabilistic_segmentation",
    "mask": "anat_mask",
}
"""For suffixes of results, the rule of the specification that names their entities."""


class Name(NamedTuple):
    """What the name of an image says.

    entities: label of each entity, by its short name ("sub", "ses", "acq", "run").
    suffix: what kind of image it is, "T1w" say.
    extension: the end, ".nii.gz" or ".nii".
    """

    entities: dict[str, str]
    suffix: str
    extension: str


@cache
def _schema() -> Any:
    return load_schema()


@cache
def short_names() -> dict[str, str]:
    """Short name of each entity by its long name, in the order of the standard.

    >>> short_names()["acquisition"]
    'acq'
    """
    schema = _schema()
    found = schema.objects.entities
    return {long: found[long]["name"] for long in schema.rules.entities}


@cache
def indices() -> frozenset[str]:
    """Short names of the entities whose labels are numbers, such as "run"."""
    found = _schema().objects.entities.values()
    return frozenset(one["name"] for one in found if one["format"] == "index")


@cache
def suffixes() -> frozenset[str]:
    """The suffixes that anatomical images can have."""
    rules = _schema().rules.files.raw.anat.values()
    return frozenset(suffix for rule in rules for suffix in rule["suffixes"])


@cache
def entities_of(suffix: str) -> frozenset[str]:
    """Short names of the entities that a result may have.

    Args:
        suffix: suffix of the result: "dseg", "probseg" or "mask".
    """
    rule = _schema().rules.files.deriv.imaging[_DERIVED[suffix]]
    return frozenset(short_names()[long] for long in rule["entities"])


def read_name(name: str) -> Name | None:
    """Read the name of an image; None where it is no name of BIDS.

    Args:
        name: the name of the file, without folders.

    >>> read_name("sub-01_run-2_T1w.nii.gz")
    Name(entities={'sub': '01', 'run': '2'}, suffix='T1w', extension='.nii.gz')
    """
    extension = next((end for end in EXTENSIONS if name.endswith(end)), None)
    if extension is None:
        return None
    *pairs, suffix = name.removesuffix(extension).split("_")
    entities: dict[str, str] = {}
    for pair in pairs:
        key, _, label = pair.partition("-")
        number = key in indices()
        is_label = re.fullmatch(r"[0-9]+" if number else r"[0-9a-zA-Z+]+", label)
        if key not in short_names().values() or key in entities or not is_label:
            return None
        entities[key] = label
    is_whole = "sub" in entities and re.fullmatch(r"[0-9a-zA-Z]+", suffix)
    return Name(entities, suffix, extension) if is_whole else None


def write_name(entities: Mapping[str, str], suffix: str) -> str:
    """Write a name without its extension, the entities in the order of the standard.

    Args:
        entities: label of each entity, by its short name.
        suffix: the suffix.

    >>> write_name({"desc": "brain", "sub": "01", "run": "2"}, "mask")
    'sub-01_run-2_desc-brain_mask'
    """
    ordered = [key for key in short_names().values() if key in entities]
    return "_".join([*(f"{key}-{entities[key]}" for key in ordered), suffix])
