"""The scans of a BIDS data set, found by their names, and what is wrong with some.

Only the folders of the participants are listed, and of these only `anat`: nothing is
read but names, so that thousands of participants take a second, whatever lies in
`derivatives` and `sourcedata`.
"""

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from nobrainer.bids.entities import EXTENSIONS, indices, read_name
from nobrainer.bids.filters import Filters
from nobrainer.errors import InputError

DESCRIPTION = "dataset_description.json"
_FOLDER = "anat"
_MGH_EXTENSIONS = (".mgz", ".mgh")


@dataclass(frozen=True)
class Source:
    """A scan of a data set.

    path: path of the file.
    relative: the path from the data set, with slashes.
    entities: label of each entity in its name, by the short name of the entity.
    suffix: what kind of image it is, such as "T1w".
    """

    path: Path
    relative: str
    entities: Mapping[str, str]
    suffix: str

    @property
    def subject(self) -> str:
        """The label of the participant, without "sub-"."""
        return self.entities["sub"]

    @property
    def session(self) -> str | None:
        """The label of the session, without "ses-"; None where there is none."""
        return self.entities.get("ses")


@dataclass(frozen=True)
class Layout:
    """The scans of a data set that were asked for.

    root: folder of the data set.
    sources: the scans, sorted by their paths.
    problems: a line for each scan that was asked for and cannot be used.
    missing: a line for each participant or session that has no scan to use, and
        no problem.
    """

    root: Path
    sources: tuple[Source, ...]
    problems: tuple[str, ...]
    missing: tuple[str, ...]


def read_layout(
    root: Path,
    *,
    participants: Collection[str] = (),
    sessions: Collection[str] = (),
    suffixes: Collection[str] = ("T1w",),
    filters: Filters | None = None,
    is_checked: bool = True,
) -> Layout:
    """Find the scans of a BIDS data set; raw ones and those of derivatives alike.

    Args:
        root: folder of the data set.
        participants: labels to which it is restricted, with or without "sub-"; none
            takes all.
        sessions: labels to which it is restricted, with or without "ses-"; none takes
            all, and scans without a session.
        suffixes: the suffixes that are taken.
        filters: what else the entities must be; None takes the default of `Filters`.
        is_checked: whether a data set without a valid description is refused, and a
            file in `anat` whose name is none of BIDS is a problem.

    Raises:
        InputError: there is no data set, it has no such participant or session, or
            nobody in it has a scan of these suffixes that the filters take.
    """
    check_description(root, is_checked=is_checked)
    known = _folders(root, "sub")
    if not known:
        raise InputError(f"{root}: has no folder sub-*: give the folder of a BIDS set")
    wanted = _choose("participant", "sub", participants, known)
    by_session: dict[str, list[str | None]] = {
        subject: [None, *_folders(root / f"sub-{subject}", "ses")] for subject in wanted
    }
    seen = {one for labels in by_session.values() for one in labels if one is not None}
    chosen = set(_choose("session", "ses", sessions, sorted(seen)))
    finder = _Finder(root, frozenset(suffixes), filters or Filters(), is_checked)
    missing: list[str] = []
    what = f"has no {' or '.join(sorted(suffixes))} that was asked for"
    for subject, labels in by_session.items():
        asked = [one for one in labels if not sessions or one in chosen]
        empty = [session for session in asked if not finder.look(subject, session)]
        if len(empty) == len(asked):
            why = "".join({finder.hint(subject, session) for session in asked})
            missing.append(f"sub-{subject}: {what}{why}")
            continue
        missing += [
            f"sub-{subject}/ses-{one}: {what}{finder.hint(subject, one)}"
            for one in empty
            if one is not None
        ]
    if not finder.n_found:
        # A participant may lack the scan that others have, but not all of them.
        whole = finder.new()
        for subject in known:
            for session in (None, *_folders(root / f"sub-{subject}", "ses")):
                whole.look(subject, session)
        whole.check_found()
    return finder.layout(missing)


def check_description(root: Path, *, is_checked: bool) -> None:
    """Check that a folder is a BIDS data set by its own word.

    Args:
        root: the folder.
        is_checked: whether the description must be there, with what the standard
            requires of it.

    Raises:
        InputError: it is no folder, or its description is missing or damaged.
    """
    if not root.is_dir():
        raise InputError(f"{root}: is no folder: give the folder of a BIDS data set")
    if not is_checked:
        return
    path = root / DESCRIPTION
    advice = "see the BIDS specification, or give --skip-bids-validation"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: is missing: {advice}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}): {advice}") from error
    if not isinstance(found, dict) or not {"Name", "BIDSVersion"} <= found.keys():
        raise InputError(f"{path}: must have Name and BIDSVersion: {advice}")


class _Finder:
    """Lists folders and keeps what it finds; see `read_layout` for the arguments."""

    def __init__(
        self, root: Path, suffixes: frozenset[str], filters: Filters, is_checked: bool
    ) -> None:
        self._root, self._suffixes = root, suffixes
        self._filters, self._is_checked = filters, is_checked
        self._sources: dict[tuple[str, str], list[Source]] = defaultdict(list)
        self._problems: list[str] = []
        self._seen: set[str] = set()

    def new(self) -> "_Finder":
        """A finder of the same that has found nothing yet."""
        return _Finder(self._root, self._suffixes, self._filters, self._is_checked)

    @property
    def n_found(self) -> int:
        """How many scans were found, usable or not."""
        return len(self._sources) + len(self._problems)

    def check_found(self) -> None:
        """Raise `InputError` if nothing was found; it names what suffixes there are."""
        if self.n_found:
            return
        asked = " or ".join(sorted(self._suffixes))
        if self._seen & self._suffixes:
            raise InputError(
                f"{self._root}: no {asked} has the entities that are asked for: "
                "correct the file of filters"
            )
        there = ", ".join(sorted(self._seen)) or "none at all"
        raise InputError(
            f"{self._root}: has no {asked}: give --suffix one that is there: {there}"
        )

    def look(self, subject: str, session: str | None) -> bool:
        """Look at the scans of a session, or at those outside of sessions.

        Returns: whether there is one, usable or not.
        """
        n_before = self.n_found
        for file in _list(self._folder(subject, session), EXTENSIONS):
            self._take(file, subject, session)
        return self.n_found != n_before

    def hint(self, subject: str, session: str | None) -> str:
        """What a session without a scan has instead, to be added to what is missing."""
        for file in _list(self._folder(subject, session), _MGH_EXTENSIONS):
            if file.stem.rpartition("_")[2] in self._suffixes:
                return ", but one as MGZ: convert it to NIfTI, as BIDS has it"
        return ""

    def _folder(self, subject: str, session: str | None) -> Path:
        parts = [f"sub-{subject}", *([] if session is None else [f"ses-{session}"])]
        return Path(self._root, *parts, _FOLDER)

    def layout(self, missing: Sequence[str]) -> Layout:
        """All that was found."""
        problems, sources = list(self._problems), []
        for alike in self._sources.values():
            if len(alike) == 1:
                sources += alike
                continue
            for one in alike:
                others = ", ".join(o.relative for o in alike if o is not one)
                problems.append(
                    f"{one.relative}: has the same entities as {others}: remove or "
                    "rename one"
                )
        sources.sort(key=lambda one: one.relative)
        problems.sort()
        return Layout(self._root, tuple(sources), tuple(problems), tuple(missing))

    def _take(self, file: Path, subject: str, session: str | None) -> None:
        name = read_name(file.name)
        relative = file.relative_to(self._root).as_posix()
        if name is None:
            suffix = file.name.split(".")[0].rpartition("_")[2]
            if self._is_checked and suffix in self._suffixes:
                self._problems.append(f"{relative}: is no name of BIDS: rename it")
            return
        self._seen.add(name.suffix)
        if name.suffix not in self._suffixes:
            return
        if (name.entities["sub"], name.entities.get("ses")) != (subject, session):
            self._problems.append(
                f"{relative}: is named for another participant or session than its "
                "folder: move or rename it"
            )
        elif not self._filters.take(name):
            return
        elif file.is_symlink() and not file.exists():
            self._problems.append(
                f"{relative}: is a link to content that is not here: get it first, "
                f"such as by `datalad get {relative}`"
            )
        else:
            source = Source(file, relative, name.entities, name.suffix)
            self._sources[_key(source)].append(source)


def _key(source: Source) -> tuple[str, str]:
    """What two scans with the same entities share; run-1 is run-01."""
    labels = sorted(
        f"{key}-{int(label) if key in indices() else label}"
        for key, label in source.entities.items()
    )
    return "_".join(labels), source.suffix


def _list(folder: Path, extensions: tuple[str, ...]) -> Iterator[Path]:
    """The images of a folder, by name; none where there is no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.endswith(extensions):
            yield folder / name


def _folders(folder: Path, key: str) -> list[str]:
    """The labels of the folders `key-*` in a folder, sorted."""
    with os.scandir(folder) as found:
        names = [one.name for one in found if one.is_dir()]
    start = f"{key}-"
    return sorted(name.removeprefix(start) for name in names if name.startswith(start))


def _choose(
    what: str, key: str, given: Collection[str], known: Collection[str]
) -> list[str]:
    """The labels that are asked for, without repeats; all where none is given."""
    if not given:
        return list(known)
    labels = list(dict.fromkeys(one.removeprefix(f"{key}-") for one in given))
    for label in labels:
        if label not in known:
            close = get_close_matches(label, known, n=3) or list(known)[:3]
            raise InputError(
                f"--{what}-label {label}: there is no {key}-{label}: did you mean "
                f"{', '.join(close)}?"
                if close
                else f"--{what}-label {label}: the data set has no {what}s"
            )
    return labels
