"""Scans and label maps in and out: NIfTI and MGZ files, and objects in memory.

What enters here is checked here, once: the rest of the package may rely on three
axes, finite values and an affine in millimetres that can be inverted.
"""

from nobrainer.io.headers import SYNTHETIC
from nobrainer.io.reading import (
    ImageSource,
    is_synthetic,
    read_geometry,
    read_image,
    read_labels,
    source_name,
)
from nobrainer.io.writing import to_nibabel, write, write_bytes, write_text

__all__ = [
    "SYNTHETIC",
    "ImageSource",
    "is_synthetic",
    "read_geometry",
    "read_image",
    "read_labels",
    "source_name",
    "to_nibabel",
    "write",
    "write_bytes",
    "write_text",
]
