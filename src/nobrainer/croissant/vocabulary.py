"""The words of Croissant and PROV, and the frame that every document has."""

import json
import math
from collections.abc import Mapping
from typing import Any

# The licence is the author's to state; this is SPDX's word for "nobody has stated it".
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


def describe(
    *,
    name: str,
    description: str,
    date: str,
    distribution: list[dict[str, Any]],
    record_sets: list[dict[str, Any]],
    license: str = _LICENSE,
    citation: str | None = None,
) -> dict[str, Any]:
    """A document with what every data set states.

    Args:
        name: what the data set is called.
        description: a sentence on what it holds.
        date: when it was made, ISO 8601.
        distribution: its files.
        record_sets: its tables.
        license: its licence, an SPDX identifier.
        citation: how to cite it; None makes it of the name and the date.
    """
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": description,
        "license": license,
        "citeAs": citation or f"{name}, {date[:10]}",
        "datePublished": date,
        # Retraining makes another document, so every document is its own first version.
        "version": "1.0.0",
        "distribution": distribution,
        "recordSet": record_sets,
    }


def properties(
    values: Mapping[str, Any], titles: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Values by name as a list of properties, sorted by name, without those of None.

    Args:
        values: the values by name.
        titles: what some of them are, by name.
    """
    told = titles or {}
    return [
        {"@type": "PropertyValue", "name": name, "value": _scalar(value)}
        | ({"description": told[name]} if name in told else {})
        for name, value in sorted(values.items())
        if value is not None
    ]


def _scalar(value: Any) -> str | int | float:
    """A value as JSON-LD keeps it: a finite number, or text.

    Everything else becomes JSON text, because an array in JSON-LD is a set:
    [32, 32, 32] would be read as {32}.
    """
    finite = isinstance(value, float) and math.isfinite(value)
    if finite or isinstance(value, str | int):
        return value
    return json.dumps(value, sort_keys=True)


def to_json(document: Mapping[str, Any]) -> str:
    """A document as the text of its file: indented, strict JSON."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
