"""Croissant metadata (JSON-LD) derived from the records; written, never read back.

Source: the Croissant format 1.1, http://mlcommons.org/croissant/1.1, and the PROV
ontology, https://www.w3.org/TR/prov-o/. The standard has no type for a model, so a
trained model is described as a data set of files with a provenance.
"""

from nobrainer.croissant.dataset import write_dataset
from nobrainer.croissant.files import Field, FileEntry, fields_of
from nobrainer.croissant.model import generator_metadata, model_metadata
from nobrainer.croissant.vocabulary import to_json

__all__ = [
    "Field",
    "FileEntry",
    "fields_of",
    "generator_metadata",
    "model_metadata",
    "to_json",
    "write_dataset",
]
