"""Files and the columns of tables, as Croissant describes them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """A column of a table.

    name: name of the column.
    data_type: Croissant's type of its values, such as `sc:Integer`.
    is_array: whether each value is a list.
    """

    name: str
    data_type: str
    is_array: bool = False


@dataclass(frozen=True)
class FileEntry:
    """A file that a document describes.

    name: path of the file from the folder of the document, with forward slashes.
    sha256: SHA-256 checksum of the file.
    size_bytes: size of the file.
    encoding_format: media type, or the URL of a format that has none.
    description: a sentence on what the file holds.
    fields: the columns, where the file is a table.
    """

    name: str
    sha256: str
    size_bytes: int
    encoding_format: str
    description: str
    fields: tuple[Field, ...] = ()


def fields_of(rows: Iterable[Mapping[str, Any]]) -> tuple[Field, ...]:
    """The columns of JSON rows, with their types.

    A column that holds nothing but nulls has no type and is left out.

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


def file_object(identifier: str, file: FileEntry) -> dict[str, Any]:
    """A file as Croissant lists it, under an identifier of its own."""
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


def record_set(file: FileEntry) -> dict[str, Any]:
    """The table that a file holds, with a field for each of its columns."""
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


_NUMBERS: dict[str, set[type]] = {
    "sc:Boolean": {bool},
    "sc:Integer": {int},
    "sc:Float": {int, float},
}
"""The types of Python that a type of Croissant holds, the narrowest first."""


def _data_type(values: Sequence[Any]) -> str:
    """Croissant's type of a column: the narrowest that holds all its values."""
    kinds = {type(v) for v in values}
    fitting = [name for name, allowed in _NUMBERS.items() if kinds and kinds <= allowed]
    return fitting[0] if fitting else "sc:Text"
