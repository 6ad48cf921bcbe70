"""What a user lists: entries for scans and label maps, and the scans they stand for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

from nobrainer.checks import check_count
from nobrainer.data.zarr_store.table import StoredScan
from nobrainer.errors import InputError, list_problems
from nobrainer.formats import require_file
from nobrainer.io import ImageSource, is_synthetic, read_geometry
from nobrainer.naming import repeats, scan_names, session_of, subject_names, subject_of
from nobrainer.volume import Geometry

Entry = ImageSource | tuple[ImageSource, ImageSource | None] | Mapping[str, Any]
"""An image, a pair of image and label, or a mapping with the keys "image" and "label"
and, if wanted, "subject", "session" and "split"."""


@dataclass(frozen=True)
class Scan:
    """One scan and its labels as the user gave them; nothing has been read yet.

    image: path, nibabel image or (array, affine) of the scan, or the scan in a store.
    label: the same of its label map, None where there are no labels.
    name: what messages call the scan: its path, or its place in the list of files.
    shown: what tables and pages call it; no other scan of the call has this name.
    subject: the person in the scan; None where neither path nor table names one.
    session: when the person was scanned; None where neither path nor table says.
    split: part of the data that the scan belongs to, such as "train"; None for none.
    is_map: there is no image; images are made from the label map, see
        `nobrainer.data.synthesis`. `image` and `label` are then both the map.
    draw: which image of the whole head is made from a label map; other numbers give
        other images.
    """

    image: ImageSource | StoredScan
    label: ImageSource | StoredScan | None
    name: str
    shown: str = ""
    subject: str | None = None
    session: str | None = None
    split: str | None = None
    is_map: bool = False
    draw: int = 0

    @property
    def paths(self) -> tuple[Path, Path | None] | None:
        """The files of image and label; None where either is not a file.

        A label map from which images are made counts as the image.
        """
        if not isinstance(self.image, str | PathLike):
            return None
        if self.label is None or self.is_map:
            return Path(self.image), None
        if not isinstance(self.label, str | PathLike):
            return None
        return Path(self.image), Path(self.label)

    @property
    def is_synthetic(self) -> bool:
        """Whether the scan's header says that nobody was scanned."""
        if isinstance(self.image, StoredScan):
            return self.image.row.is_synthetic
        return is_synthetic(self.image)

    @property
    def geometry(self) -> Geometry:
        """The grid of the scan's header, of a scan in a store the working grid.

        Raises:
            InputError: the header cannot be read.
        """
        if isinstance(self.image, StoredScan):
            return self.image.row.geometry
        return read_geometry(self.image)


def list_scans(entries: Iterable[Entry]) -> tuple[Scan, ...]:
    """Turn entries into scans; their files must exist, but nothing is read.

    Args:
        entries: one for each scan, see `Dataset.from_files`.

    Returns:
        The scans in the order of the entries, each with a name of its own.

    Raises:
        InputError: there are no entries, one has the wrong form, or a file is missing
            or listed twice.
    """
    if isinstance(entries, str | PathLike):
        raise InputError(f"files must be a list of scans, got {str(entries)!r}")
    parts = [_parse(entry, number) for number, entry in enumerate(entries)]
    if not parts:
        raise InputError("files is empty: give at least one scan")
    images = [part.get("image") for part in parts]
    labels = [part.get("label") for part in parts]
    _check_files(images, labels)
    names = [
        str(image) if isinstance(image, str | PathLike) else f"files[{number}]"
        for number, image in enumerate(images)
    ]
    given = [(part.get("subject") or "", part.get("session") or "") for part in parts]
    shown = scan_names(names, given)
    in_paths = subject_names(
        [
            subject_of(name) if isinstance(image, str | PathLike) else None
            for name, image in zip(names, images, strict=True)
        ]
    )
    return tuple(
        Scan(
            *(image, label, name, of_tables, subject or in_path),
            session=session or _session(image),
            split=part.get("split") or None,
        )
        for part, image, label, name, of_tables, (subject, session), in_path in zip(
            parts, images, labels, names, shown, given, in_paths, strict=True
        )
    )


def list_maps(
    entries: Iterable[ImageSource | Mapping[str, Any]], n_images: int = 1
) -> tuple[Scan, ...]:
    """Turn label maps, from which images will be made, into scans.

    Args:
        entries: one for each label map, see `Dataset.from_label_maps`.
        n_images: number of images of each map, 1 or more.

    Returns:
        The scans in the order of the entries, with `is_map` set, `n_images` of each
        map. All images of a map show one person.

    Raises:
        InputError: as for `list_scans`, or an entry has an image.
    """
    check_count("n_images", n_images, 1)
    if isinstance(entries, str | PathLike):
        raise InputError(f"maps must be a list of label maps, got {str(entries)!r}")
    rows = []
    for number, entry in enumerate(entries):
        row = dict(entry) if isinstance(entry, Mapping) else {"label": entry}
        if "label" not in row or "image" in row:
            raise InputError(
                f"maps[{number}] must have the key 'label' and no image, got "
                f"{sorted(row)}"
            )
        rows.append(row | {"image": row["label"]})
    maps = [replace(scan, is_map=True) for scan in list_scans(rows)]
    if n_images == 1:
        return tuple(maps)
    return tuple(
        replace(
            one,
            shown=f"{one.shown}_image-{draw + 1}",
            subject=one.subject or one.shown,
            draw=draw,
        )
        for one in maps
        for draw in range(n_images)
    )


def require_labels(scans: Sequence[Scan]) -> None:
    """Check that all scans have labels.

    Raises:
        InputError: some have none; they are named.
    """
    bare = [scan.name for scan in scans if scan.label is None]
    if bare:
        raise InputError(list_problems((n, "has no labels: give them") for n in bare))


def require_pair(scan: Scan) -> tuple[Path, Path]:
    """The files of image and labels of a scan.

    Raises:
        InputError: it has no labels, or is in memory or in a store.
    """
    require_labels([scan])
    [(image, label)] = require_files([scan])
    assert label is not None
    return image, label


def require_files(scans: Sequence[Scan]) -> list[tuple[Path, Path | None]]:
    """The files of each scan: image, and labels where there are any.

    Raises:
        InputError: a scan is in memory or in a store.
    """
    pairs = []
    for scan in scans:
        if isinstance(scan.image, StoredScan):
            raise InputError(
                f"{scan.image.store}: is a store: give the files that it was made from"
            )
        if scan.paths is None:
            raise InputError(
                f"{scan.name}: is not a file: write images and labels to files "
                "before describing them"
            )
        pairs.append(scan.paths)
    return pairs


def _parse(entry: Entry, number: int) -> Mapping[str, Any]:
    """An entry as a mapping: image and, where given, label, subject and the like."""
    if isinstance(entry, Mapping):
        known = {"image", "label", "subject", "session", "split"}
        if "image" not in entry or not set(entry) <= known:
            raise InputError(
                f"files[{number}] must have the keys 'image' and 'label', and "
                f"'subject', 'session' and 'split' if wanted, got {sorted(entry)}"
            )
        for key in ("subject", "session", "split"):
            if not isinstance(entry.get(key), str | None):
                raise InputError(
                    f"files[{number}]: {key} must be text, got {entry[key]!r}"
                )
        return entry
    if isinstance(entry, tuple | list):
        if len(entry) != 2:
            raise InputError(
                f"files[{number}] must be (image, label), got {len(entry)} items"
            )
        return {"image": entry[0], "label": entry[1]}
    return {"image": entry}


def _session(image: Any) -> str | None:
    """The session that the path of an image names."""
    return session_of(image) if isinstance(image, str | PathLike) else None


def _check_files(images: Sequence[Any], labels: Sequence[Any]) -> None:
    """Refuse paths where no file is, and an image that is listed twice."""
    missing = []
    for source in chain.from_iterable(zip(images, labels, strict=True)):
        if isinstance(source, str | PathLike):
            try:
                require_file(Path(source))
            except InputError as error:
                missing.append(str(error))
    paths = [image for image in images if isinstance(image, str | PathLike)]
    if problems := missing or repeats(paths):
        raise InputError("\n".join(problems))
