"""FreeSurfer's label values: names, colours, tissues, and what groups them."""

import csv
from importlib.resources import files


def _read_rows() -> list[dict[str, str]]:
    """The shipped table: one row per label value, one column per scheme.

    Names and colours are those of FreeSurferColorLUT.txt, version 1.70.2.7 of 2012.
    """
    text = files("nobrainer.data").joinpath("freesurfer_labels.tsv").read_text()
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


ROWS = _read_rows()
FREESURFER_NAMES = {int(row["freesurfer_id"]): row["name"] for row in ROWS}
SCHEMES = tuple(ROWS[0])[3:]

HEMISPHERES = ("Left-", "Right-", "ctx-lh-", "ctx-rh-")
"""How the names of structures on one side begin."""

# Classes that merge several structures have no name of their own in FreeSurfer; the
# cortices of "aseg" have one, which takes in their parcels, and so have all structures
# of "synthseg".
MERGED = {
    "6-class": {
        1: "white-matter",
        2: "grey-matter",
        3: "cerebrospinal-fluid",
        4: "deep-grey-matter",
        5: "brain-stem",
    },
    "50-class": {2: "ventricles", 15: "corpus-callosum"},
    "aseg": {2: "Left-Cerebral-Cortex", 22: "Right-Cerebral-Cortex"},
    "synthseg": {
        1: "Left-Cerebral-White-Matter",
        2: "Left-Cerebral-Cortex",
        3: "Left-Lateral-Ventricle",
        20: "Right-Cerebral-Cortex",
        21: "Right-Lateral-Ventricle",
    },
}
"""For each scheme the names of classes that merge several structures."""

# 136, 137, 163 and 164 are parts of the ventricles in the maps of whole heads that
# SynthSeg publishes, and stand for other structures in FreeSurfer's own table.
ALSO = {"synthseg": {25: 1, 57: 19, 136: 3, 137: 4, 163: 21, 164: 22}}
"""For each scheme the classes of label values that the shipped table lacks: lesions of
the white matter, and the choroid plexus and rims of the ventricles."""

OUTER_FLUID = 24
"""Label value of the fluid around the brain."""
_TISSUES = {
    "white matter": (2, 7, 41, 46, 77, 85, 192, 251, 252, 253, 254, 255),
    "cortex": (3, 8, 17, 18, 42, 47, 53, 54),
    "deep grey": (11, 12, 26, 50, 51, 58),
    "thalamus": (10, 28, 49, 60),
    "pallidum": (13, 52),
    "brain-stem": (16, 512),
    "fluid": (4, 5, 14, 15, OUTER_FLUID, 43, 44, 72),
    "choroid plexus": (31, 63, 136, 137, 163, 164),
    "lesion": (25, 57),
    "vessel": (30, 62, 502, 514),
    "eye": (506,),
    "muscle": (508, 530),
    "soft tissue": (507,),
    "mucosa": (509,),
    "skin": (511,),
    "bone": (515,),
    "marrow": (516,),
}
"""Label values of each tissue, without the parcels of the cortex. Below 500 they are
FreeSurfer's; from 500 on they are the tissues around the brain in the whole-head maps
that SynthSeg publishes."""
_TISSUE_OF = {value: name for name, values in _TISSUES.items() for value in values}
_FIRST_OUTSIDE, _LAST_OUTSIDE = 500, 999
"""Label values of what is not brain. The parcels of the cortex begin at 1000."""

THREE_TISSUES = {
    "GM": ("cortex", "deep grey", "thalamus", "pallidum", "vessel"),
    "WM": ("white matter", "brain-stem", "lesion"),
    "CSF": ("fluid", "choroid plexus"),
}
"""Tissues of the head that make up each of the three tissues of the brain, which have
the names that BIDS gives them."""


def tissue_of(value: int) -> str:
    """The tissue that a label value stands for, empty where it is not known."""
    if value == 0:
        return "background"
    name = FREESURFER_NAMES.get(value, "")
    return "cortex" if name.startswith("ctx-") else _TISSUE_OF.get(value, "")


def is_outside(value: int) -> bool:
    """Whether a label value is one of the tissues around the brain."""
    return _FIRST_OUTSIDE <= value <= _LAST_OUTSIDE
