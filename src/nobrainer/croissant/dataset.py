"""Metadata of a data set: its scans, and whom each shows."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nobrainer.croissant.files import FileEntry, file_object
from nobrainer.croissant.vocabulary import describe, properties, to_json
from nobrainer.errors import InputError
from nobrainer.io import write_text
from nobrainer.naming import count_scans

# Neither format has a media type.
_NIFTI = "https://nifti.nimh.nih.gov/nifti-1"
_MGH = "https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat"


def write_dataset(
    path: str | Path,
    name: str,
    files: Sequence[tuple[Path, Path | None]],
    n_classes: int,
    subjects: Sequence[str],
) -> Path:
    """Write the Croissant metadata of a data set of images and label maps.

    Args:
        path: the JSON file to write; an existing one is replaced.
        name: what the data set is called.
        files: image and label map of each scan; None where it has no labels. Their
            paths are recorded from the folder of `path`, never from the root.
        n_classes: number of classes of the label maps.
        subjects: whom each scan shows, as many as there are scans.

    Returns:
        `path`.

    Raises:
        InputError: a file cannot be read, or `path` cannot be written.
    """
    path = Path(path)
    distribution, rows = [], []
    for i, ((image, label), subject) in enumerate(zip(files, subjects, strict=True)):
        row: dict[str, str | None] = {
            "scans/subject": subject,
            "scans/image": None,
            "scans/label": None,
        }
        for role, file in (("image", image), ("label", label)):
            if file is not None:
                entry = _describe_file(file, path.parent, f"{role} of scan {i}")
                distribution.append(file_object(f"{role}-{i}", entry))
                row[f"scans/{role}"] = entry.name
        rows.append(row)
    document = describe(
        name=name,
        description=(
            f"Brain MRI: {count_scans(len(files), len({*subjects}))}, "
            f"{n_classes} classes."
        ),
        date=datetime.now(UTC).date().isoformat(),
        distribution=distribution,
        record_sets=[_scan_table(rows)] if rows else [],
    ) | {"additionalProperty": properties({"n_classes": n_classes})}
    return write_text(to_json(document), path, overwrite=True)


def _scan_table(rows: Sequence[Mapping[str, str | None]]) -> dict[str, Any]:
    """The table of scans, whose rows stand in the document itself."""
    return {
        "@id": "scans",
        "@type": "cr:RecordSet",
        "name": "scans",
        "description": "One row per scan: whom it shows, image and label map.",
        "field": [
            {
                "@id": f"scans/{role}",
                "@type": "cr:Field",
                "name": role,
                "dataType": "sc:Text",
            }
            for role in ("subject", "image", "label")
        ],
        "data": rows,
    }


def _describe_file(file: Path, folder: Path, description: str) -> FileEntry:
    """Read a file for what is recorded of it.

    Args:
        file: the file.
        folder: folder of the document, from which the path of the file is recorded.
        description: a phrase on what the file is.

    Raises:
        InputError: the file cannot be read.
    """
    # The folders are resolved, the file is not: a link's own name is the file's name.
    located = os.path.join(os.path.realpath(file.parent), file.name)
    try:
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            size_bytes = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); check the path"
        ) from error
    return FileEntry(
        name=Path(os.path.relpath(located, os.path.realpath(folder))).as_posix(),
        sha256=sha256,
        size_bytes=size_bytes,
        encoding_format=_encoding_format(file.name.lower()),
        description=description,
    )


def _encoding_format(name: str) -> str:
    """The format of a scan by its name in lower case."""
    if name.endswith((".mgz", ".mgh")):
        return _MGH
    return _NIFTI if name.endswith((".nii", ".nii.gz")) else "application/octet-stream"
