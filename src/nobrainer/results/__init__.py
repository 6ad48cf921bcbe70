"""Folders of results that can be taken up again: what is done in them, and how."""

from nobrainer.results.folder import Results, Work, make_method
from nobrainer.results.places import make_directory, refuse_existing
from nobrainer.results.records import Method

__all__ = [
    "Method",
    "Results",
    "Work",
    "make_directory",
    "make_method",
    "refuse_existing",
]
