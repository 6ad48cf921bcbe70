"""The page of a participant: all scans of one person, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nobrainer.report.document import Picture, Table, address, number, write_document

_MM3_PER_ML = 1000


@dataclass(frozen=True)
class SubjectScan:
    """What the page of a participant shows of one scan.

    name: name of the scan.
    score: what is said of its quality, as a sentence.
    flags: reasons to look at it, as sentences.
    slices: slices with the outlines of the structures.
    page: path of its own page, relative to the page of the participant.
    volumes_mm3: mean and standard deviation of the volume of each structure, by its
        name; NaN where they are not known.
    """

    name: str
    score: str
    flags: Sequence[str]
    slices: Picture
    page: str
    volumes_mm3: Mapping[str, tuple[float, float]]


def write_subject(
    path: Path, subject: str, scans: Sequence[SubjectScan], *, caution: str = ""
) -> Path:
    """Write the page of a participant, over one that is there.

    Args:
        path: path of the page; its directory exists.
        subject: what the participant is called.
        scans: the scans, in the order in which they are shown.
        caution: text below the title, if not empty.

    Returns:
        The path of the page.

    Raises:
        InputError: it cannot be written.
    """
    content = {
        "title": subject,
        "scans": [(scan, address(scan.page)) for scan in scans],
        "table": _volumes(scans),
    }
    return write_document(
        path, "subject.html", content, caution=caution, overwrite=True
    )


def _volumes(scans: Sequence[SubjectScan]) -> Table:
    """The volumes of all scans, a column each, in ml."""
    names = dict.fromkeys(name for scan in scans for name in scan.volumes_mm3)
    nothing = (float("nan"), float("nan"))
    rows = []
    for name in names:
        cells = [name]
        for scan in scans:
            mean, sd = (v / _MM3_PER_ML for v in scan.volumes_mm3.get(name, nothing))
            spread = f" ± {number(sd, 2)}" if sd == sd else ""
            cells.append(number(mean, 2) + spread)
        rows.append(tuple(cells))
    return Table(
        "Volumes (ml) ± standard deviation over the draws",
        ("structure", *(scan.name for scan in scans)),
        tuple(rows),
    )
