"""Which models come with nobrainer, what they are, and how a name becomes a place."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from nobrainer import bundle
from nobrainer.errors import InputError

FOLDER = Path(__file__).parent
"""The folder that has a folder for each model."""
DEFAULT = "brain"
"""The model that commands use where they are not given one."""


@dataclass(frozen=True)
class ShippedModel:
    """A model that comes with nobrainer, in figures of its own files.

    name: what it is called.
    version: the day on which its training ended, such as "2026.11.28".
    classes: names of the structures that it segments, background left out.
    digest: SHA-256 of the list of its files' checksums, see `nobrainer.bundle.digest`.
    expected_dice: mean Dice of the structures on scans that did not teach the weights;
        None where the model has no record of it.
    size_bytes: size of all its files.
    folder: where they are.
    """

    name: str
    version: str
    classes: tuple[str, ...]
    digest: str
    expected_dice: float | None
    size_bytes: int
    folder: Path


def names() -> tuple[str, ...]:
    """The names of all models that come with nobrainer, in alphabetical order."""
    folders = (path for path in FOLDER.iterdir() if path.is_dir())
    return tuple(sorted(path.name for path in folders if bundle.is_model(path)))


def describe(name: str) -> ShippedModel:
    """What a model is, read from its files, which are all checked first.

    Args:
        name: one of `names()`.

    Raises:
        InputError: no model has this name, or a file of it is damaged.
    """
    folder = folder_of(name)
    model = bundle.load(folder)
    made = model.recipe.provenance
    return ShippedModel(
        name=name,
        version=made.ended[:10].replace("-", "."),
        classes=model.labels.names[1:],
        digest=bundle.digest(folder),
        expected_dice=made.expected_dice,
        size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        folder=folder,
    )


def folder_of(name: str) -> Path:
    """The folder of a model that comes with nobrainer, wherever the user works.

    Args:
        name: one of `names()`.

    Raises:
        InputError: no model has this name; those that have one are listed.
    """
    known = names()
    if name not in known:
        raise InputError(
            f"no model called {name!r} comes with nobrainer: {_ways(name, known)}"
        )
    return FOLDER / name


def find(model: str | Path) -> Path:
    """Find the model that is meant by a name or a place: the one rule for both.

    A place where there is a model, or a file, is taken first, so that a folder of the
    user's own is never passed over for a model that has the same name. A folder that
    holds no model does not stand in the way of a name.

    Args:
        model: a folder that a model was saved to, a file with a checkpoint, or the name
            of a model that comes with nobrainer. A `Path` is always a place.

    Returns:
        The folder or file. What is in it is not checked.

    Raises:
        InputError: there is neither such a place nor a model of that name; the names
            are listed.
    """
    place = Path(model)
    if isinstance(model, Path) or bundle.is_model(place):
        return place
    known = names()
    if model in known:
        return FOLDER / model
    if not model:
        raise InputError(f"the name of the model is empty: {_ways(model, known)}")
    if place.exists():
        return place
    raise InputError(
        f"{model}: no such directory, and no model of that name comes with nobrainer: "
        f"{_ways(model, known)}"
    )


def _ways(given: str, known: tuple[str, ...]) -> str:
    """What a user can do who has named a model that is not there."""
    close = get_close_matches(given.lower(), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    place = f"{hint}give the directory that a model was saved to"
    return f"{place}, or the name {' or '.join(known)}" if known else place
