"""The texts beside the maps of a scan: sidecars and tables, as BIDS has them."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

import nobrainer as nb
from nobrainer.bids.layout import Source
from nobrainer.bids.tables import morphometry_column
from nobrainer.data.freesurfer import FREESURFER_NAMES
from nobrainer.data.labels import LabelTable
from nobrainer.json_records import to_json
from nobrainer.provenance import Method

_SUBJECT = "subject"
_FREESURFER, _PARCELLED, _OWN = "aseg", "aparcaseg", "nobrainer"
_FIRST_PARCEL = 1000


def scheme_of(labels: LabelTable) -> str:
    """What the segmentation of a model is called in names, after `seg-`.

    Args:
        labels: the classes of the model.

    Returns:
        "aseg" where every class is one of FreeSurfer's segmentation, "aparcaseg" where
        parcels of its cortex are among them, and "nobrainer" for other classes.
    """
    ids = labels.ids[1:]
    if labels.is_numbered or not all(one in FREESURFER_NAMES for one in ids):
        return _OWN
    has_parcels = any(one is not None and one >= _FIRST_PARCEL for one in ids)
    return _PARCELLED if has_parcels else _FREESURFER


def has_brain(labels: LabelTable) -> bool:
    """Whether the classes tell what the brain is, so that there is a mask of it.

    Args:
        labels: the classes of the model.
    """
    return nb.tissues.Compartments.of(labels) is not None


def origin(source: Source) -> str:
    """The BIDS URI of a scan, by the link `raw` of the derivative's description."""
    return f"bids:raw:{source.relative}"


def of_labels(source: str) -> str:
    """The sidecar of a label map.

    Args:
        source: URI of the scan, here and below.
    """
    return _sidecar(
        source,
        "Most frequent class of the draws of a Bayesian network, on the grid of the "
        "scan; the table of the same name says what its values mean.",
        Manual=False,
    )


def of_mask(source: str) -> str:
    """The sidecar of a mask of the brain."""
    return _sidecar(
        source,
        "The brain with its ventricles, closed over its sulci: 1 inside, 0 outside.",
        Type="Brain",
    )


def of_tissue(source: str, label: str) -> str:
    """The sidecar of a probability map.

    Args:
        label: "GM", "WM" or "CSF".
    """
    return _sidecar(
        source,
        f"Mean probability of {label} over the draws, rounded to a multiple of 2^-14.",
    )


def classes_table(labels: LabelTable) -> str:
    """The table of a label map's values: index, name, abbreviation and colour."""
    short = abbreviate(labels.names)
    rows = zip(labels.values, labels.names, short, labels.colors, strict=True)
    lines = ["index\tname\tabbreviation\tcolor"]
    lines += ["\t".join(map(str, row)) for row in rows]
    return "\n".join(lines) + "\n"


def abbreviate(names: Sequence[str]) -> list[str]:
    """Short names that differ: the first letters of each word, as few as are needed.

    >>> abbreviate(["Left-Cerebral-Cortex", "Left-Cerebellum-Cortex", "Brain-Stem"])
    ['LeftCerebrCortex', 'LeftCerebeCortex', 'BS']
    """
    words = [re.findall(r"\w+", name) or [name] for name in names]
    longest = max(len(word) for parts in words for word in parts)
    short: dict[int, str] = {}
    for length in range(1, longest + 1):
        made = ["".join(word[:length] for word in parts) for parts in words]
        for number, text in enumerate(made):
            if made.count(text) == 1 and text not in short.values():
                short.setdefault(number, text)
    return [short.get(number, names[number]) for number in range(len(names))]


def morphometry_table(prediction: "nb.Prediction") -> str:
    """The volumes of a scan with their error bars: a row for each structure.

    The brain and what lies in the skull are rows without an index.

    Args:
        prediction: the prediction of the scan.
    """
    parts = (*prediction.structures, *prediction.totals)
    table = nb.structures.to_tsv({prediction.name: parts})
    rows = csv.reader(io.StringIO(table), delimiter="\t")
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    # All rows are about one scan.
    writer.writerow([morphometry_column(name) for name in next(rows)[1:]])
    writer.writerows(row[1:] for row in rows)
    return text.getvalue()


def of_morphometry(coverage: float | None) -> str:
    """What the columns of `morphometry_table` mean.

    Args:
        coverage: share of true volumes that the conformal intervals hold; None where
            there are none.
    """
    columns = nb.structures.sidecar(coverage).items()
    named = {morphometry_column(n): about for n, about in columns if n != _SUBJECT}
    return to_json(named) + "\n"


def of_quality(
    case: "nb.quality.Case",
    prediction: "nb.Prediction",
    method: Method,
    source: str,
    caution: str,
) -> str:
    """What is said of the quality of a segmentation, for tables and pages of many.

    Args:
        case: score, and reasons to look at it.
        prediction: the prediction.
        method: how it was made.
        source: URI of the scan.
        caution: what must be known of the model, see `Provenance.caution`.
    """
    totals = {part.name: part.volume_mm3 for part in prediction.totals}
    return (
        to_json(
            {
                "scan": case.name,
                "source": source,
                "score": case.score,
                "score_is": case.meaning,
                "predicted_dice": case.predicted_dice,
                "caution": caution,
                "flags": case.flags,
                "features": dict(case.features),
                "checked": case.checked,
                "unchecked": case.unchecked,
                "brain_mm3": totals.get("brain"),
                "intracranial_mm3": totals.get("intracranial"),
                "model": method.model,
                "model_sha256": method.model_sha256,
                "version": method.version,
                "n_samples": method.n_samples,
                "n_passes": method.n_passes,
                "seed": method.seed,
                "threshold": method.options["threshold"],
            }
        )
        + "\n"
    )


def _sidecar(source: str, description: str, **more: Any) -> str:
    fields = {"Description": description, "Sources": [source]}
    return to_json(fields | {"SpatialReference": source} | more) + "\n"
