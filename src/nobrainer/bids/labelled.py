"""Scans of a BIDS data set with their label maps, which often lie in another one."""

from pathlib import Path
from typing import Any

from nobrainer.bids.layout import Source, read_layout
from nobrainer.errors import InputError

SUFFIX = "dseg"
"""Suffix of the label maps of a BIDS data set."""

_OWN = {"seg", "desc", "label", "space", "res", "den", "hemi", "atlas"}
"""Entities that a label map may have beside those of its scan."""


def pair_with_labels(root: Path, labels: Path) -> list[dict[str, Any]]:
    """Find the label map of every T1-weighted scan.

    It is the map whose name has the entities of the scan, with those that only results
    have, such as `seg`.

    Args:
        root: folder of the data set of the scans.
        labels: folder of the data set of the label maps, often a derivative of it.

    Returns:
        An entry of `Dataset.from_files` for each scan, sorted by their paths.

    Raises:
        InputError: there is no such data set, it has problems, or a scan has no label
            map or several; a line for each.
    """
    scans = read_layout(root)
    maps = read_layout(labels, suffixes=(SUFFIX,), is_checked=False)
    problems = [*scans.problems, *maps.problems]
    entries: list[dict[str, Any]] = []
    for scan in scans.sources:
        found = [one for one in maps.sources if _belongs(one, scan)]
        if len(found) == 1:
            entries.append(
                {
                    "image": scan.path,
                    "label": found[0].path,
                    "subject": f"sub-{scan.subject}",
                    "session": None if scan.session is None else f"ses-{scan.session}",
                }
            )
            continue
        names = ", ".join(one.relative for one in found) or "none"
        problems.append(
            f"{scan.relative}: needs one label map *_{SUFFIX} in {labels}, found "
            f"{names}: give it one, or list scans and labels in a table"
        )
    if problems:
        raise InputError("\n".join(problems))
    if not entries:
        raise InputError(f"{root}: has no T1w scan: give a table of scans and labels")
    return entries


def _belongs(label: Source, scan: Source) -> bool:
    """Whether a label map has the entities of a scan, and else its own alone."""
    rest = {key: one for key, one in label.entities.items() if key not in _OWN}
    return rest == {key: one for key, one in scan.entities.items() if key not in _OWN}
