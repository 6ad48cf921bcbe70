"""The tables of the group level, and what their columns mean."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from nobrainer.bids.group.outliers import FEWEST, LIMIT, Deviations
from nobrainer.bids.group.people import People
from nobrainer.bids.group.results import BRAIN, Gap, Scan
from nobrainer.bids.group.sessions import FollowUp
from nobrainer.bids.tables import MISSING, write_tsv
from nobrainer.changes import Change
from nobrainer.glossary import OF_CHANGES
from nobrainer.quality import sidecar as describe_quality
from nobrainer.structures import sidecar as describe_structures

SHARE = "{}_per_icv"
"""Name of the column for a structure's share of the intracranial volume."""
_ICV, _BRAIN = "intracranial_mm3", "brain_mm3"
_IDS = {
    "participant_id": "The participant, as in participants.tsv.",
    "session_id": "The session, as in the participant's sessions.tsv.",
    "scan": "Name of the scan: its entities and its suffix.",
}
_ABOUT = {
    _ICV: "Intracranial volume in mm^3: all structures and the fluid around the brain.",
    _BRAIN: "Volume of the brain in mm^3: all its structures and its ventricles.",
    "flags": "Reasons to look at the segmentation, separated by semicolons.",
    "volume_per_icv": "volume_mm3 over the intracranial volume of the scan.",
    "robust_z": "Distance of the volume from the median of the scans in standard "
    "deviations: of the logarithm of volume over intracranial volume, with the "
    "standard deviation taken from the median absolute deviation (times 1.4826). "
    f"'n/a' with fewer than {FEWEST} scans and for a volume of 0.",
    "outlier": f"Whether robust_z is below -{LIMIT} or above {LIMIT}, or the volume is "
    "0 where most scans have the structure.",
    "interval_z": "The same for the logarithm of the interval's width over the volume.",
    "wide_interval": f"Whether interval_z is above {LIMIT}.",
    "n_outliers": "Number of structures whose volume is an outlier.",
    "n_wide_intervals": "Number of structures whose interval is wide.",
    "state": "'done'; 'waiting', 'running' or 'failed'; 'unusable': left out before it "
    "was tried; 'missing': there is no scan to do.",
    "reason": "Why there are no results.",
    "earlier_session_id": "The first session, with which this one is compared.",
    "source": "The scan in the data set.",
    "page": "The page of the participant.",
}


def write_structures(
    scans: Sequence[Scan], deviations: Deviations, people: People
) -> str:
    """The tidy table: a row for each structure, or whole, of each scan.

    Args:
        scans: the scans that are done.
        deviations: how far each structure of each scan is from the others.
        people: the tables of the data set.
    """
    figures: dict[str, None] = {}
    for scan in scans:
        for row in scan.parts.values():
            figures |= dict.fromkeys(row)
    own = ["volume_per_icv", "robust_z", "outlier", "interval_z", "wide_interval"]
    columns = [*_IDS, *figures, *own, _ICV, "score", "flagged"]
    place = {part: n for n, part in enumerate(deviations.parts)}
    is_outlier, is_wide = deviations.is_outlier, deviations.is_wide
    names = _names(people, columns)

    def rows() -> Iterator[dict[str, object]]:
        for number, scan in enumerate(scans):
            shared = _of_scan(scan) | _joined(scan, names)
            for part, row in scan.parts.items():
                at = number, place[part]
                yield (
                    shared
                    | row
                    | {
                        "volume_per_icv": float(deviations.share[at]),
                        "robust_z": float(deviations.z[at]),
                        "outlier": bool(is_outlier[at]),
                        "interval_z": float(deviations.width_z[at]),
                        "wide_interval": bool(is_wide[at]),
                    }
                )

    return write_tsv([*columns, *names.values()], rows())


def write_volumes(
    scans: Sequence[Scan], structures: Sequence[str], people: People
) -> str:
    """The wide table: a row for each scan, a column for each structure.

    Args:
        scans: the scans that are done.
        structures: names of the structures.
        people: the tables of the data set.
    """
    shares = [SHARE.format(name) for name in structures]
    columns = [
        *(*_IDS, "score", "flagged", "flags", _ICV, _BRAIN),
        *structures,
        *shares,
    ]
    names = _names(people, columns)

    def rows() -> Iterator[dict[str, object]]:
        for scan in scans:
            found = {name: scan.figure(name, "volume_mm3") for name in structures}
            yield (
                _of_scan(scan)
                | found
                | _joined(scan, names)
                | {
                    SHARE.format(name): volume / scan.skull_mm3
                    for name, volume in found.items()
                }
            )

    return write_tsv([*columns, *names.values()], rows())


def write_quality(
    scans: Sequence[Scan],
    gaps: Sequence[Gap],
    deviations: Deviations,
    people: People,
) -> str:
    """The table of the quality: a row for each scan, done or not.

    Args:
        scans: the scans that are done.
        gaps: what has no results.
        deviations: how far each structure of each scan is from the others.
        people: the tables of the data set.
    """
    features: dict[str, None] = {}
    for scan in scans:
        features |= dict.fromkeys(_features(scan))
    columns = [
        *(*_IDS, "source", "state", "reason", "score", "score_is", "predicted_dice"),
        *("flagged", "flags", "n_outliers", "n_wide_intervals"),
        *(*features, "page"),
    ]
    n_outliers = deviations.is_outlier.sum(axis=1)
    n_wide = deviations.is_wide.sum(axis=1)
    names = _names(people, columns)

    def rows() -> Iterator[dict[str, object]]:
        for number, scan in enumerate(scans):
            yield (
                _of_scan(scan)
                | _features(scan)
                | _joined(scan, names)
                | {
                    "source": scan.source.relative,
                    "state": "done",
                    "score_is": scan.quality.get("score_is"),
                    "predicted_dice": scan.quality.get("predicted_dice"),
                    "n_outliers": int(n_outliers[number]),
                    "n_wide_intervals": int(n_wide[number]),
                    "page": scan.names.page,
                }
            )
        for gap in gaps:
            yield _joined(gap, names) | {
                "participant_id": gap.subject,
                "session_id": gap.session,
                "source": gap.where,
                "state": gap.state,
                "reason": gap.reason,
            }

    return write_tsv([*columns, *names.values()], rows())


def write_changes(follow_ups: Sequence[FollowUp], people: People) -> str:
    """The table of changes: a row for each structure of each later session.

    Args:
        follow_ups: later sessions against the first ones.
        people: the tables of the data set.
    """
    columns = ["participant_id", "session_id", "scan", "earlier_session_id", "name"]
    columns += [field.name for field in fields(Change) if field.name != "name"]
    names = _names(people, columns)

    def rows() -> Iterator[dict[str, object]]:
        for one in follow_ups:
            shared = _of_scan(one.later) | _joined(one.later, names)
            shared["earlier_session_id"] = _of_scan(one.earlier)["session_id"]
            for change in one.changes:
                yield shared | asdict(change)

    return write_tsv([*columns, *names.values()], rows())


def describe_columns(
    table: str, people: People, structures: Iterable[str], coverage: float | None
) -> str:
    """What the columns of a table mean, as the JSON of BIDS.

    Args:
        table: text of the table.
        people: the tables of the data set.
        structures: names of the structures.
        coverage: share of true volumes that the conformal intervals hold.
    """
    known: dict[str, Any] = {**describe_structures(coverage), **describe_quality()}
    known |= {name: one.describe_column() for name, one in OF_CHANGES.items()}
    known |= {name: {"Description": text} for name, text in (_IDS | _ABOUT).items()}
    for name in structures:
        volume = f"Volume of {name}, mean over the draws."
        share = f"Volume of {name} over the intracranial volume."
        known[name] = {"Description": volume, "Units": "mm^3"}
        known[SHARE.format(name)] = {"Description": share, "Units": "1"}
    columns = table.partition("\n")[0].split("\t")
    own = columns[: len(columns) - len(people.columns)]
    for name, joined in _names(people, own).items():
        known[joined] = people.about.get(name, {"Description": "From the data set."})
    found = {name: known[name] for name in columns if name in known}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _of_scan(scan: Scan) -> dict[str, object]:
    session = scan.source.session
    return {
        "participant_id": scan.names.subject,
        "session_id": MISSING if session is None else f"ses-{session}",
        "scan": scan.names.scan,
        "score": scan.score,
        "flagged": bool(scan.flags),
        "flags": "; ".join(scan.flags),
        _ICV: scan.skull_mm3,
        _BRAIN: scan.figure(BRAIN, "volume_mm3"),
    }


def _features(scan: Scan) -> dict[str, object]:
    found = scan.quality.get("features")
    return dict(found) if isinstance(found, Mapping) else {}


def _names(people: People, own: Iterable[str]) -> dict[str, str]:
    """What the columns of the data set's tables are called in a table of ours."""
    taken = set(own)
    return {
        name: f"participants_{name}" if name in taken else name
        for name in people.columns
    }


def _joined(of: Scan | Gap, names: Mapping[str, str]) -> dict[str, object]:
    """What the tables of the data set say of a scan, by column of our table."""
    return {names[name]: cell for name, cell in of.person.items()}
