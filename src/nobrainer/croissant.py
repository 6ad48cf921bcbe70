"""Croissant metadata (JSON-LD) derived from the records; written, never read back.

Source: the Croissant format 1.1, http://mlcommons.org/croissant/1.1, and the PROV
ontology, https://www.w3.org/TR/prov-o/. The standard has no type for a model, so a
trained model is described as a data set of files with a provenance.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nobrainer.errors import InputError
from nobrainer.io import write_text
from nobrainer.naming import count_scans
from nobrainer.recipe import FileRecord, Recipe, SearchRecord

NIFTI = "https://nifti.nimh.nih.gov/nifti-1"
MGH = "https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat"

# SPDX's word for "nobody has stated the licence": it is the author's to state.
_LICENSE = "NOASSERTION"

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}


@dataclass(frozen=True)
class Field:
    """A column of a table: its name, its Croissant data type, one value or a list."""

    name: str
    data_type: str
    is_array: bool = False


@dataclass(frozen=True)
class FileEntry:
    """A described file: `name` is its path relative to the metadata, with slashes.

    `encoding_format` is a media type or the URL of a format that has none; `fields`
    are the columns when the file is a table, in the file's own words.
    """

    name: str
    sha256: str
    size_bytes: int
    encoding_format: str
    description: str
    fields: tuple[Field, ...] = ()


def model_metadata(recipe: Recipe, files: Sequence[FileEntry]) -> dict[str, Any]:
    """Describe a trained model: its files, its tables and how it came to be.

    Args:
        recipe: How the model was made.
        files: The model's files; a file with `fields` is described as a table.

    Returns:
        A JSON-LD document (Croissant 1.1 with PROV-O), ready for `json.dumps`.
    """
    made = recipe.provenance
    entities = [(r, _entity(i, r)) for i, r in enumerate(made.files)]
    learned_from = [e for r, e in entities if r.role.startswith("train-")]
    only_checked_on = [e for r, e in entities if not r.role.startswith("train-")]
    described = asdict(recipe)
    parameters = {
        f"{part}.{name}": value
        for part in ("model", "preprocess", "data", "training")
        for name, value in described[part].items()
    }
    parameters["provenance.member_seeds"] = made.member_seeds or None
    if made.cohort is not None:
        parameters["provenance.trained_on"] = made.cohort.counted
    figures: dict[str, float] = made.metrics
    informed_by: dict[str, Any] = {}
    if made.search is not None:
        figures = figures | _search_figures(made.search)
        informed_by = {"prov:wasInformedBy": _search(made.search)}
    return _dataset(
        name=recipe.model.name,
        description=(
            f"A {recipe.model.name} network that segments 3-D brain MRI into "
            f"{recipe.data.n_classes} classes: weights, recipe and training history."
        ),
        date=made.ended,
        distribution=[_file_object(f.name, f) for f in files],
        record_sets=[_table(f) for f in files if f.fields],
    ) | {
        "additionalProperty": _properties(figures),
        "prov:wasDerivedFrom": learned_from,
        "prov:wasGeneratedBy": {
            "@id": "training",
            "@type": "prov:Activity",
            "name": "training",
            **_times(made.started, made.ended),
            **informed_by,
            "prov:used": [{"@id": e["@id"]} for e in learned_from] + only_checked_on,
            "prov:wasAssociatedWith": [
                {
                    "@id": f"software-{package}",
                    "@type": "prov:SoftwareAgent",
                    "name": package,
                    "softwareVersion": version,
                }
                for package, version in sorted(made.versions.items())
            ],
            "additionalProperty": _properties(parameters),
        },
    }


def write_dataset(
    path: str | Path,
    name: str,
    files: Sequence[tuple[Path, Path | None]],
    n_classes: int,
    subjects: Sequence[str],
) -> Path:
    """Write the Croissant metadata of a data set of images and label maps.

    Args:
        path: The JSON file to write; an existing one is replaced.
        name: What the data set is called.
        files: One (image, label map or None) per scan. They are recorded by
            their path relative to `path`'s directory, never by an absolute one.
        n_classes: Number of classes of the label maps.
        subjects: Whom each scan shows.

    Returns:
        `path`.

    Raises:
        InputError: A file cannot be read, or `path` cannot be written.
    """
    path = Path(path)
    distribution, scans = [], []
    for i, ((image, label), subject) in enumerate(zip(files, subjects, strict=True)):
        row: dict[str, str | None] = {
            "scans/subject": subject,
            "scans/image": None,
            "scans/label": None,
        }
        for role, file in (("image", image), ("label", label)):
            if file is not None:
                entry = _describe(file, path.parent, f"{role} of scan {i}")
                distribution.append(_file_object(f"{role}-{i}", entry))
                row[f"scans/{role}"] = entry.name
        scans.append(row)
    scan_table = {
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
        "data": scans,
    }
    document = _dataset(
        name=name,
        description=(
            f"Brain MRI: {count_scans(len(files), len({*subjects}))}, "
            f"{n_classes} classes."
        ),
        date=datetime.now(UTC).date().isoformat(),
        distribution=distribution,
        record_sets=[scan_table] if scans else [],
    ) | {"additionalProperty": _properties({"n_classes": n_classes})}
    return write_text(to_json(document), path, overwrite=True)


def fields_of(rows: Iterable[Mapping[str, Any]]) -> tuple[Field, ...]:
    """The columns of JSON rows with their types; a column of nulls alone is left out.

    >>> fields_of([{"epoch": 1, "loss": 2}, {"epoch": 2, "loss": 0.5}])
    (Field(name='epoch', data_type='sc:Integer', is_array=False), \
Field(name='loss', data_type='sc:Float', is_array=False))
    """
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                columns.setdefault(name, []).append(value)
    fields = []
    for name, values in columns.items():
        is_array = all(isinstance(v, list | tuple) for v in values)
        scalars = [s for v in values for s in v] if is_array else values
        fields.append(Field(name, _data_type(scalars), is_array))
    return tuple(fields)


def to_json(document: Mapping[str, Any]) -> str:
    """The document as indented text of strict JSON."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _dataset(
    *,
    name: str,
    description: str,
    date: str,
    distribution: list[dict[str, Any]],
    record_sets: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": description,
        "license": _LICENSE,
        "citeAs": f"{name}, {date[:10]}",
        "datePublished": date,
        # Retraining makes another document, so every document is its own first version.
        "version": "1.0.0",
        "distribution": distribution,
        "recordSet": record_sets,
    }


def _file_object(identifier: str, file: FileEntry) -> dict[str, Any]:
    return {
        "@id": identifier,
        "@type": "cr:FileObject",
        "name": file.name.rsplit("/", 1)[-1],
        "description": file.description,
        "contentUrl": file.name,
        "contentSize": f"{file.size_bytes} B",
        "encodingFormat": file.encoding_format,
        "sha256": file.sha256,
    }


def _table(file: FileEntry) -> dict[str, Any]:
    table = file.name.split(".")[0]
    return {
        "@id": table,
        "@type": "cr:RecordSet",
        "name": table,
        "description": file.description,
        "field": [
            {
                # White space is not allowed in an identifier.
                "@id": f"{table}/{'_'.join(field.name.split())}",
                "@type": "cr:Field",
                "name": field.name,
                "dataType": field.data_type,
                "source": {
                    "fileObject": {"@id": file.name},
                    "extract": {"column": field.name},
                },
            }
            | ({"isArray": True} if field.is_array else {})
            for field in file.fields
        ],
    }


def _entity(index: int, record: FileRecord) -> dict[str, Any]:
    return {
        "@id": f"{record.role}-{index}",
        "@type": "prov:Entity",
        "name": record.name,
        "description": record.role,
        "contentSize": f"{record.size_bytes} B",
        "sha256": record.sha256,
    }


def _times(started: str, ended: str) -> dict[str, Any]:
    return {
        "prov:startedAtTime": {"@type": "xsd:dateTime", "@value": started},
        "prov:endedAtTime": {"@type": "xsd:dateTime", "@value": ended},
    }


def _search(search: SearchRecord) -> dict[str, Any]:
    """The study that the training was one run of."""
    parameters = {
        "family": search.family,
        "proposer": search.proposer,
        "objectives": search.objectives,
        "seed": search.seed,
        "run": search.run,
        "n_runs": search.n_runs,
        "n_failed": search.n_failed,
        "n_train": search.n_train,
        "n_validate": search.n_validate,
        "n_test": search.n_test,
        "n_train_scans": search.n_train_scans,
        "n_validate_scans": search.n_validate_scans,
        "n_test_scans": search.n_test_scans,
        **{f"space.{name}": limits for name, limits in search.space.items()},
        **{f"values.{name}": value for name, value in search.values.items()},
    }
    return {
        "@id": "search",
        "@type": "prov:Activity",
        "name": "search",
        **_times(search.started, search.ended),
        "additionalProperty": _properties(
            {f"search.{name}": value for name, value in parameters.items()}
        ),
    }


def _search_figures(search: SearchRecord) -> dict[str, float]:
    """What the search found of the model, of the baseline, and their difference."""
    groups = {
        "validation": search.validation,
        "baseline_validation": search.baseline_validation,
        "spread": search.spread,
        "test": search.test or {},
        "baseline_test": search.baseline_test or {},
    }
    if search.test_difference is not None:
        ends = zip(("mean", "low", "high"), search.test_difference, strict=True)
        groups["test_difference"] = dict(ends)
    return {
        f"search.{group}.{name}": value
        for group, figures in groups.items()
        for name, value in figures.items()
    }


def _properties(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"@type": "PropertyValue", "name": name, "value": _scalar(value)}
        for name, value in sorted(values.items())
        if value is not None
    ]


def _scalar(value: Any) -> Any:
    # An array in JSON-LD is a set: [32, 32, 32] would be read as {32}. So everything
    # but a finite number or text goes in as JSON text.
    finite = isinstance(value, float) and math.isfinite(value)
    if finite or isinstance(value, str | int):
        return value
    return json.dumps(value, sort_keys=True)


def _describe(file: Path, folder: Path, description: str) -> FileEntry:
    # The folders are resolved, the file is not: a link's own name is the file's name.
    located = os.path.join(os.path.realpath(file.parent), file.name)
    name = file.name.lower()
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
        encoding_format=_encoding_format(name),
        description=description,
    )


def _encoding_format(name: str) -> str:
    if name.endswith((".mgz", ".mgh")):
        return MGH
    return NIFTI if name.endswith((".nii", ".nii.gz")) else "application/octet-stream"


def _data_type(values: Sequence[Any]) -> str:
    kinds = {type(v) for v in values}
    for allowed, name in (
        ({bool}, "sc:Boolean"),
        ({int}, "sc:Integer"),
        ({int, float}, "sc:Float"),
    ):
        if kinds and kinds <= allowed:
            return name
    return "sc:Text"
