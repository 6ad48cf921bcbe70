"""Where the prepared scans of a dataset are kept: in memory, and beyond it on disk."""

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from nobrainer.data.prepared import Prepared
from nobrainer.data.stored import Ready
from nobrainer.errors import InputError
from nobrainer.recipe import PreprocessConfig


class VolumeStore:
    """Scans of one dataset, each read and prepared only once.

    Scans that exceed the memory go to a folder of their own on disk and are mapped
    into memory from there. The folder is removed together with the store.

    Args:
        memory_gb: gigabytes (1e9 bytes) of volumes that are kept in memory.
        directory: existing folder for the rest; None takes the system's temporary one.
    """

    def __init__(self, memory_gb: float, directory: Path | None) -> None:
        self._memory_gb = memory_gb
        self._directory = directory
        self._volumes: dict[PreprocessConfig, list[Ready]] = {}

    def find(self, preprocess: PreprocessConfig) -> list[Ready] | None:
        """The scans that are kept under a preprocessing, None where there are none."""
        return self._volumes.get(preprocess)

    def keep(
        self, preprocess: PreprocessConfig, volumes: Iterable[Ready]
    ) -> list[Ready]:
        """Keep prepared scans, in place of those that were kept before.

        Args:
            preprocess: how the scans were prepared.
            volumes: the scans; they are prepared one after the other while this runs.

        Returns:
            The same scans; the arrays of those on disk are memory-mapped.

        Raises:
            InputError: the disk is full or cannot be written to.
        """
        self._volumes.clear()
        kept: list[Ready] = []
        free_bytes = self._memory_gb * 1e9
        folder: Path | None = None
        for number, volume in enumerate(volumes):
            # The scans of a Zarr store are on disk already.
            if isinstance(volume, Prepared):
                free_bytes -= volume.n_bytes
                if free_bytes < 0:
                    folder = folder or self._make_folder()
                    volume = _to_disk(volume, folder, number)
            kept.append(volume)
        self._volumes[preprocess] = kept
        return kept

    def _make_folder(self) -> Path:
        try:
            folder = tempfile.mkdtemp(prefix="nobrainer-", dir=self._directory)
        except OSError as error:
            raise _disk_error(error) from error
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)


def _to_disk(volume: Prepared, folder: Path, number: int) -> Prepared:
    """The same scan with its arrays memory-mapped from files in a folder."""

    def mapped(array: np.ndarray, kind: str) -> np.ndarray:
        path = folder / f"{number}-{kind}.npy"
        try:
            np.save(path, array)
        except OSError as error:
            raise _disk_error(error) from error
        loaded: np.ndarray = np.load(path, mmap_mode="r")
        return loaded

    label = volume.label
    return replace(
        volume,
        image=mapped(volume.image, "image"),
        label=None if label is None else mapped(label, "label"),
    )


def _disk_error(error: OSError) -> InputError:
    return InputError(
        f"cannot keep prepared volumes on disk ({error}): name a folder with room, "
        ".cache(directory=...), or raise .cache(memory_gb=...)"
    )
