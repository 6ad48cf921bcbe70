"""Where results go: never over what is there, unless asked to."""

from pathlib import Path
from typing import Any

from nobrainer.errors import InputError
from nobrainer.io import write

MAPS = ("label", "variance", "entropy")


def refuse_taken(directory: Path, *, overwrite: bool) -> None:
    """Raise `InputError` unless a directory is new, empty or may be overwritten."""
    if directory.is_file():
        raise InputError(f"{directory}: is a file: give another --output-dir")
    if not overwrite and directory.is_dir() and any(directory.iterdir()):
        raise InputError(
            f"{directory}: is not empty: give another --output-dir or --overwrite"
        )


def make_directory(directory: Path) -> None:
    """Make a directory and its parents; raises `InputError` where that fails."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be made: {error.strerror}: give another --output-dir"
        ) from error


def map_paths(directory: Path, stem: str, n_samples: int) -> dict[str, Path]:
    """The files that one scan's results go to, by map."""
    names = MAPS if n_samples else MAPS[:1]
    return {name: directory / f"{stem}_{name}.nii.gz" for name in names}


def write_maps(result: Any, paths: dict[str, Path], *, overwrite: bool) -> None:
    """Write what `Segmentation.predict` returned, an image or a prediction."""
    images = [result] if len(paths) == 1 else result
    for image, path in zip(images, paths.values(), strict=True):
        write(image, path, overwrite=overwrite)
