"""Saving a model to a directory, and loading it from there."""

from collections.abc import Collection
from pathlib import Path

from nobrainer.bundle.contents import (
    LABELS,
    LISTED,
    OPTIONAL,
    RECIPE,
    SUMS,
    Bundle,
    find_damaged,
    list_checksums,
    pack,
    parse_file,
    refuse_newer_recipe,
    unpack,
)
from nobrainer.bundle.generator import (
    GeneratorBundle,
    pack_generator,
    unpack_generator,
)
from nobrainer.bundle.place import find, put, read_file
from nobrainer.compat import refuse_old_model
from nobrainer.errors import InputError
from nobrainer.training.checkpoint import read_history


def save(
    bundle: Bundle | GeneratorBundle,
    directory: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a model to a directory, all of it or nothing.

    A model that is replaced keeps its place until the new one takes it in one step.
    Where the file system cannot do that in one step, and the process is killed between
    two, `load` still finds the old model.

    Args:
        bundle: The model.
        directory: Where to; a new or an empty directory, or, with `overwrite`, one
            that holds a model and nothing else.
        overwrite: Replace the model that is there.

    Returns:
        `directory`.

    Raises:
        InputError: The directory is taken, or cannot be written (full disk).
    """
    if isinstance(bundle, GeneratorBundle):
        contents = pack_generator(bundle)
    else:
        contents = pack(bundle)
    put(contents, directory, overwrite=overwrite)
    return Path(directory)


def load(directory: str | Path) -> Bundle:
    """Read a model that `save` wrote, checking every file first.

    Args:
        directory: The model's directory.

    Returns:
        The model, its weights on the CPU.

    Raises:
        InputError: Not a model's directory, a file that is missing, truncated,
            changed or not the model's own, or a format newer than this software.
    """
    directory = find(Path(directory))
    return unpack(directory, _read_checked(directory, OPTIONAL))


def load_generator(directory: str | Path) -> GeneratorBundle:
    """Read a generator that `save` wrote, checking every file first.

    Args:
        directory: The directory of the generator.

    Returns:
        The generator, its weights on the CPU.

    Raises:
        InputError: As for `load`.
    """
    directory = find(Path(directory))
    contents = _read_checked(directory, (LABELS, *OPTIONAL))
    return unpack_generator(directory, contents)


def _read_checked(directory: Path, optional: Collection[str]) -> dict[str, bytes]:
    """The files of a model, whose checksums are right.

    Args:
        directory: where they lie.
        optional: those that may be missing.

    Raises:
        InputError: see `load`.
    """
    if not (directory / RECIPE).exists():
        refuse_old_model(directory)
    if not directory.is_dir():
        raise InputError(
            f"{directory}: no such directory; give the one that the model was saved to"
        )
    recipe = read_file(directory / RECIPE)
    parse_file(directory / RECIPE, refuse_newer_recipe, recipe)
    sums = read_file(directory / SUMS)
    contents = {
        name: read_file(directory / name)
        for name in LISTED
        # An optional file is both in the list and in the directory, or in neither.
        if name not in optional or name.encode() in sums or (directory / name).exists()
    }
    if sums != list_checksums(contents):
        damaged = directory / find_damaged(sums, contents)
        raise InputError(
            f"{damaged}: truncated or changed since it "
            f"was saved (its SHA-256 is not the one in {SUMS}); copy the model again"
        )
    return contents


def is_finished(
    directory: Path,
    checkpoints: Path,
    epochs: int | None,
    max_steps: int | None,
    max_minutes: float | None,
) -> bool:
    """Whether a saved model is already the result of the training that is asked for.

    Args:
        directory: the model's directory, which may be missing.
        checkpoints: folder of the training's checkpoints, from which it would go on.
        epochs, max_steps, max_minutes: the limits that are asked for now. A model that
            was trained with other limits is not the result.

    Raises:
        InputError: the model that is there is damaged.
    """
    if not (directory / SUMS).is_file():
        return False
    saved = load(directory)
    before = saved.recipe.training
    asked = before.epochs, before.max_steps, before.max_minutes
    rows = read_history(checkpoints)
    return asked == (epochs, max_steps, max_minutes) and list(saved.history) == rows
