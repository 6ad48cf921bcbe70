"""FreeSurfer's label values: names, colours, and the schemes that group them."""

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
# cortices of "aseg" have one, which takes in their parcels.
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
}
"""For each scheme the names of classes that merge several structures."""
