"""Whom a scan shows and what it is called: one rule for tables, pages, splits, files.

**Subject.** The BIDS label in the path: `sub-` and what follows up to the next `_`, `.`
or separator; of several the last one. Without one, a volume of FreeSurfer
(`bert/mri/T1.mgz`) shows whom the folder above `mri` is named for. A scan whose path
names nobody is a subject of its own.

**Data set.** A label is one person inside one data set: the folder that holds the first
part of the path with the label, without the folders of sessions (`ses-1`) and those in
which BIDS keeps versions of one scan (`rawdata`, `sourcedata`, `derivatives/fs`). So
`a/sub-01/ses-1` and `a/derivatives/fs/sub-01/ses-2` show one person, `siteA/sub-01` and
`siteB/sub-01` two.

**Name.** The file's name without suffix, after the subject and the session where only
the folders name them: `sub-01_ses-1_T1w`, `bert_T1`. Scans that would still be called
alike are told apart by the nearest folders that differ. A name is one part of a path,
so that files can be called after it.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from nobrainer.errors import printable

SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")
"""Suffixes of files that hold scans, the longer ones first."""

_LABEL = re.compile(r"(?:^|_)(sub-[^_.]+)")
_SESSION = re.compile(r"(?:^|_)(ses-[^_.]+)")
# The last is where fMRIPrep keeps FreeSurfer's results.
_VERSIONS = re.compile(
    r"/(rawdata|sourcedata|derivatives(/[^/]+(/sourcedata/[^/]+)?)?)$"
)
_FREESURFER = ("mri", (".mgz", ".mgh"))


class Who(NamedTuple):
    """The subject that a path names: its label, and the folder of the data set."""

    label: str
    root: str


def stem(path: str | os.PathLike[str]) -> str:
    """The file's name without folder and image suffix.

    What cannot be shown, or could steer a terminal, is escaped.

    >>> stem("a/sub-01_T1w.nii.gz")
    'sub-01_T1w'
    """
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return printable(name)


def subject_of(path: str | os.PathLike[str]) -> Who | None:
    """Whom a scan shows by its path; None where it names nobody.

    >>> subject_of("/siteA/sub-con-01/ses-1/anat/sub-con-01_ses-1_T1w.nii.gz")
    Who(label='sub-con-01', root='/siteA')
    >>> subject_of("/subjects/bert/mri/T1.mgz")
    Who(label='bert', root='/subjects')
    """
    parts = Path(os.path.abspath(path)).parts
    found = [_LABEL.findall(part) for part in parts]
    labels = [label for part in found for label in part]
    if labels:
        label = labels[-1]
        place = next(n for n, part in enumerate(found) if label in part)
    else:
        folder, suffixes = _FREESURFER
        if len(parts) < 4 or parts[-2] != folder or not parts[-1].endswith(suffixes):
            return None
        label, place = parts[-3].split("_ses-")[0], len(parts) - 3
    root = Path(*(part for part in parts[:place] if not _SESSION.match(part)))
    return Who(label, _VERSIONS.sub("", root.as_posix()))


def session_of(path: str | os.PathLike[str]) -> str | None:
    """The BIDS label of a scan's session by its path; None where it names none.

    >>> session_of("/siteA/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    'ses-1'
    """
    found = [label for part in Path(path).parts for label in _SESSION.findall(part)]
    return found[-1] if found else None


def subject_names(found: Sequence[Who | None]) -> list[str | None]:
    """A name for each subject, the same for all scans of one; None where not known.

    A name is the label. Where several data sets have the same label, the folders that
    tell them apart stand before it.

    Args:
        found: whom each scan shows, as `subject_of` says; None where nobody is named.
    """
    places: dict[str, dict[str, None]] = defaultdict(dict)
    for who in found:
        if who is not None:
            places[who.label][who.root] = None
    names: dict[Who, str] = {}
    for label, roots in places.items():
        folders = [_folders(f"{root}/{label}") for root in roots]
        told = _tell_apart([label] * len(roots), folders)
        names |= {Who(label, root): n for root, n in zip(roots, told, strict=True)}
    return [None if who is None else names[who] for who in found]


def scan_names(
    sources: Sequence[str], given: Sequence[Sequence[str]] | None = None
) -> list[str]:
    """What scans are called, each by a name of its own that can name a file.

    Args:
        sources: path of each scan, or any text for a scan that is no file.
        given: what a table says of each scan, such as subject and session. Scans that
            are called alike are told apart by it first, and by their folders last.

    >>> scan_names(["a/sub-01_T1w.nii.gz", "a/sub-02/ses-1/T1w.mgz"])
    ['sub-01_T1w', 'sub-02_ses-1_T1w']
    >>> scan_names(["siteA/sub-01_T1w.nii.gz", "siteB/sub-01_T1w.nii.gz"])
    ['siteA_sub-01_T1w', 'siteB_sub-01_T1w']
    """
    names = [_plain_name(source) for source in sources]
    known = given or [()] * len(sources)
    levels = [
        [*_folders(source), *(re.sub(r"[^\w.+-]", "-", text) for text in of_scan)]
        for source, of_scan in zip(sources, known, strict=True)
    ]
    alike = defaultdict(list)
    for number, name in enumerate(names):
        alike[name.casefold()].append(number)
    for group in alike.values():
        told = _tell_apart([names[n] for n in group], [levels[n] for n in group])
        for number, name in zip(group, told, strict=True):
            names[number] = name
    return _numbered(names)


def relative_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Names of files for a record that others read: never absolute paths.

    Links are not followed to where they point.

    Returns:
        The paths from the folder that all files have in common. Where they have none
        but the root, the name of each file and of its folder.
    """
    if not paths:
        return []
    absolute = [Path(os.path.abspath(path)) for path in paths]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    if root == Path(root.anchor):
        return [Path(*path.parts[-2:]).as_posix() for path in absolute]
    return [path.relative_to(root).as_posix() for path in absolute]


def repeats(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """A line of complaint for each file that a list has for the second time."""
    seen: set[str] = set()
    problems = []
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            problems.append(f"{path}: given twice: give each scan once")
        seen.add(real)
    return problems


def count_scans(n_scans: int | None, n_subjects: int | None) -> str:
    """How many scans there are, and of how many people, in words.

    Args:
        n_scans: number of scans; None where it is not known.
        n_subjects: number of people; None where it is not known.

    >>> count_scans(6, 3)
    '6 scans of 3 subjects'
    >>> count_scans(None, 1)
    '1 subject'
    """
    counts = ((n_scans, "scan"), (n_subjects, "subject"))
    return " of ".join(count(n, what) for n, what in counts if n is not None)


def count(number: int, what: str) -> str:
    """A number of things in words.

    Args:
        number: how many there are.
        what: what one of them is called.

    >>> count(1, "step"), count(25804, "step")
    ('1 step', '25,804 steps')
    """
    return f"{number:,} {what}{'s' * (number != 1)}"


def _is_file(source: str) -> bool:
    return source.lower().endswith(SUFFIXES)


def _folders(source: str) -> list[str]:
    """The folders above a file, the outermost first; none for what is no file."""
    if not os.path.dirname(source) and not _is_file(source):
        return []
    path = Path(os.path.abspath(source))
    return [printable(part) for part in path.parent.parts if part != path.anchor]


def _plain_name(source: str) -> str:
    """What a scan is called where no other has the same name."""
    if not _is_file(source):
        return printable(Path(source).name or source)
    name, who = stem(source), subject_of(source)
    first, *rest = name.split("_")
    is_told = _LABEL.search(name) or (who and f"_{who.label}_" in f"_{name}_")
    if who is not None and not is_told:
        first, rest = who.label, [first, *rest]
    if not _SESSION.search(name):
        sessions = [s for part in _folders(source) for s in _SESSION.findall(part)]
        if sessions and first == (who and who.label):
            rest = [sessions[-1], *rest]
        elif sessions:
            first, rest = sessions[-1], [first, *rest]
    return printable("_".join([first, *rest]))


def _tell_apart(names: Sequence[str], levels: Sequence[Sequence[str]]) -> list[str]:
    """New names for scans or subjects that are called alike.

    Args:
        names: their names, which do not differ.
        levels: for each, the words that may stand before its name, such as its
            folders, the nearest last. As few are taken as tell all names apart.
    """
    depth = max(map(len, levels), default=0)
    told = [[name] for name in names]
    padded = [["", *([""] * (depth - len(own))), *own] for own in levels]
    for level in range(depth, 0, -1):
        n_told = _n_different(told)
        if n_told == len(names):
            break
        longer = [
            [own[level], *parts] if own[level] else parts
            for own, parts in zip(padded, told, strict=True)
        ]
        if _n_different(longer) > n_told:
            told = longer
    return ["_".join(parts) for parts in told]


def _n_different(names: Sequence[Sequence[str]]) -> int:
    return len({"_".join(parts).casefold() for parts in names})


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, numbered where even the whole path does not tell scans apart."""
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        counts[name.casefold()] += 1
    taken = {name for name, count in counts.items() if count == 1}
    numbered = []
    for name in names:
        if counts[name.casefold()] > 1:
            number = 1
            while f"{name}_{number}".casefold() in taken:
                number += 1
            name = f"{name}_{number}"
            taken.add(name.casefold())
        numbered.append(name)
    return numbered
