"""Small images on disk and in memory, for the tests of what reads and writes them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nobrainer import io
from nobrainer.errors import InputError
from nobrainer.volume import Volume

SUFFIXES = [".nii", ".nii.gz", ".mgz", ".mgh"]
LAS = np.array([[-1, 0, 0, 90], [0, 1.5, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1.0]])


def counting(shape=(4, 5, 6), dtype=np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, data=None, affine=LAS) -> Path:
    """Write with nibabel itself, so that reading is tested apart from writing."""
    data = counting() if data is None else data
    kind = nib.MGHImage if path.suffix in (".mgz", ".mgh") else nib.Nifti1Image
    nib.save(kind(data, affine), path)
    return path


def error_of(function, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def labelled() -> tuple[np.ndarray, Volume]:
    volume = io.read_labels((counting() % 4, LAS))
    return volume.data, volume
