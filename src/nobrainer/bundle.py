"""A trained model on disk: a directory of plain files with checksums.

| file | what it holds |
|---|---|
| `weights.safetensors` | the state of the network |
| `recipe.json` | how the model was made |
| `labels.tsv` | the name, colour and id of each class |
| `history.jsonl` | one row per epoch |
| `calibration.json` | how its probabilities are scaled, if that was fitted |
| `quality.json` | how the quality of its results is predicted, if that was fitted |
| `README.md` | the model card: all of this for people, never read back |
| `croissant.json` | the same for other software (JSON-LD), never read back |
| `SHA256SUMS` | checksums of all the others, for `sha256sum -c SHA256SUMS` |

Nothing in it is code: no pickle is written or read.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from nobrainer.croissant import Field, FileEntry, fields_of, model_metadata, to_json
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.json_records import check_history, parse_json
from nobrainer.model_card import model_card
from nobrainer.posthoc import Calibration, QualityModel
from nobrainer.recipe import Recipe, refuse_newer
from nobrainer.system import check_writable, exchange
from nobrainer.training.checkpoint import read_history

T = TypeVar("T")

WEIGHTS = "weights.safetensors"
RECIPE = "recipe.json"
LABELS = "labels.tsv"
HISTORY = "history.jsonl"
CALIBRATION = "calibration.json"
QUALITY = "quality.json"
CARD = "README.md"
CROISSANT = "croissant.json"
SUMS = "SHA256SUMS"
NEW, OLD = ".new", ".old"
# What is fitted after training, and the card, which older models do not have.
_OPTIONAL = (CALIBRATION, QUALITY, CARD)
_LISTED = (WEIGHTS, RECIPE, LABELS, HISTORY, *_OPTIONAL, CROISSANT)

_LABEL_FIELDS = (
    Field("index", "sc:Integer"),
    Field("name", "sc:Text"),
    Field("color", "sc:Text"),
    Field("original", "sc:Integer"),
)


@dataclass(frozen=True)
class Bundle:
    """A trained model: how it was made, its weights, its classes, its training.

    `weights` is the network's state by name; a row of `history` is one epoch and
    holds what JSON can hold. `calibration` and `quality` are None until they are
    fitted.
    """

    recipe: Recipe
    weights: dict[str, torch.Tensor]
    labels: LabelTable
    history: tuple[dict[str, Any], ...]
    calibration: Calibration | None = None
    quality: QualityModel | None = None


def save(bundle: Bundle, directory: str | Path, *, overwrite: bool = False) -> Path:
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
    # Resolved, because a link or "." cannot be renamed over.
    target = Path(directory).resolve()
    contents = _contents(bundle)
    new, old = _beside(target, NEW), _beside(target, OLD)
    try:
        replaces = is_taken(target, overwrite=overwrite)
        _clear(target)
        new.mkdir(parents=True)
        for name, data in contents.items():
            _write(new / name, data)
        if not replaces:
            new.rename(target)
        elif not exchange(new, target):
            target.rename(old)
            new.rename(target)
    except OSError as error:
        raise InputError(
            f"{directory}: the model cannot be written ({error.strerror}); "
            "choose another place or free some space"
        ) from error
    finally:
        # Here and not in the `except`, so that an interruption restores it too.
        if old.exists() and not target.exists():
            old.rename(target)
        _remove(new)
        _remove(old)
    return Path(directory)


def check_place(directory: str | Path, *, overwrite: bool) -> None:
    """Raise `InputError` where `save` would, so that it is known before long work."""
    target = Path(directory).resolve()
    is_taken(target, overwrite=overwrite)
    check_writable(_beside(target, NEW), shown=directory)


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
    directory = _find(Path(directory))
    if not directory.is_dir():
        raise InputError(
            f"{directory}: no such directory; give the one that the model was saved to"
        )
    recipe = _read(directory / RECIPE)
    _parsed(directory / RECIPE, _refuse_newer, recipe)
    sums = _read(directory / SUMS)
    contents = {
        name: _read(directory / name)
        for name in _LISTED
        # What a model can lack is both in the list and in the directory, or in none.
        if name not in _OPTIONAL or name.encode() in sums or (directory / name).exists()
    }
    if sums != _sums(contents):
        raise InputError(
            f"{directory / _damaged(sums, contents)}: truncated or changed since it "
            f"was saved (its SHA-256 is not the one in {SUMS}); copy the model again"
        )

    def parsed(name: str, parse: Callable[[bytes], T]) -> T:
        return _parsed(directory / name, parse, contents[name])

    def fitted(name: str, parse: Callable[[bytes], T]) -> T | None:
        return parsed(name, parse) if name in contents else None

    bundle = Bundle(
        recipe=parsed(RECIPE, _recipe),
        weights=parsed(WEIGHTS, load_tensors),
        labels=parsed(LABELS, _labels),
        history=parsed(HISTORY, _history),
        calibration=fitted(CALIBRATION, _calibration),
        quality=fitted(QUALITY, _quality),
    )
    n_classes, calibration = bundle.recipe.data.n_classes, bundle.calibration
    if calibration is not None and len(calibration.weight) != n_classes:
        raise InputError(
            f"{directory / CALIBRATION}: scales {len(calibration.weight)} classes, but "
            f"the model has {n_classes}; calibrate it again"
        )
    return bundle


def is_finished(
    directory: Path, checkpoints: Path, epochs: int, max_minutes: float | None
) -> bool:
    """Whether a model is the end of a training that would go on from its checkpoints.

    Args:
        directory: the model's directory, which may be missing.
        checkpoints: folder of the training's checkpoints.
        epochs, max_minutes: what is asked for now. A training that was asked for less
            is not finished.
    """
    if not (directory / SUMS).is_file():
        return False
    saved = load(directory)
    asked = saved.recipe.training.epochs, saved.recipe.training.max_minutes
    rows = read_history(checkpoints)
    return asked == (epochs, max_minutes) and list(saved.history) == rows


def digest(path: str | Path) -> str:
    """The SHA-256 by which a model, with its calibration, is told from all others.

    Args:
        path: a model's directory, or a file with a checkpoint.
    """
    path = Path(path)
    data = _read(path) if path.is_file() else _read(_find(path) / SUMS)
    return hashlib.sha256(data).hexdigest()


def is_taken(target: Path, *, overwrite: bool) -> bool:
    """Whether a model is there that may be replaced.

    Raises `InputError` for what must be kept. A model that a killed save has left
    beside its place is put back first.
    """
    kept = _find(target)
    if kept != target:
        # Where it cannot be, nothing can be saved either, which comes out then.
        with suppress(OSError):
            kept.rename(target)
    if not target.exists():
        return False
    if not target.is_dir():
        raise InputError(f"{target}: is a file; choose another directory")
    names = {entry.name for entry in target.iterdir()}
    if not names:
        return False
    sums = _read(target / SUMS) if (target / SUMS).is_file() else b""
    listed = {line[66:].decode(errors="replace") for line in sums.splitlines()}
    # What a model has written is in its list, and nothing but files. Many folders have
    # a README or a recipe.json that is somebody's own.
    ours = {n for n in {*_LISTED} & listed | {SUMS} if (target / n).is_file()}
    foreign = sorted(names - ours)
    if foreign or not {RECIPE, WEIGHTS} <= names:
        raise InputError(
            f"{target}: holds files that are not a model's "
            f"({', '.join(foreign or sorted(names))}); choose another directory"
        )
    if not overwrite:
        raise InputError(
            f"{target}: a model is already there: give another directory, or "
            "overwrite=True to replace it"
        )
    return True


def _beside(target: Path, kind: str) -> Path:
    """A name beside a model's for the time of saving, which says who saves."""
    return target.with_name(f".{target.name}.{os.getpid()}{kind}")


def _siblings(target: Path, kind: str) -> list[Path]:
    """What `_beside` named for a model, in any process."""
    if not target.parent.is_dir():
        return []
    pattern = re.compile(rf"\.{re.escape(target.name)}\.\d+{re.escape(kind)}")
    return [p for p in target.parent.iterdir() if pattern.fullmatch(p.name)]


def _find(directory: Path) -> Path:
    """Where a model lies: beside its place if a save was killed at the worst moment."""
    if directory.exists():
        return directory
    return next(iter(_siblings(directory, OLD)), directory)


def _clear(target: Path) -> None:
    """Take away what killed saves have left beside a model."""
    for kind in (NEW, OLD):
        for path in _siblings(target, kind):
            pid = int(path.name.split(".")[-2])
            # A name of this process is that of an earlier one with its number.
            if pid == os.getpid() or not psutil.pid_exists(pid):
                _remove(path)


def _remove(directory: Path) -> None:
    """Remove a model's files and then the directory, if nothing else is in it."""
    with suppress(OSError):
        for name in (*_LISTED, SUMS):
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()


def pack_weights(weights: Mapping[str, torch.Tensor]) -> bytes:
    """A network's state, by name, as the bytes of its file in a bundle."""
    # Cloned, because safetensors refuses tensors that share memory.
    return save_tensors(
        {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in weights.items()
        }
    )


def _contents(bundle: Bundle) -> dict[str, bytes]:
    history = "".join(json.dumps(row) + "\n" for row in bundle.history).encode()
    contents = {
        WEIGHTS: pack_weights(bundle.weights),
        RECIPE: bundle.recipe.to_json().encode(),
        LABELS: bundle.labels.to_tsv().encode(),
        HISTORY: history,
    }
    if bundle.calibration is not None:
        contents[CALIBRATION] = bundle.calibration.to_json().encode()
    if bundle.quality is not None:
        contents[QUALITY] = bundle.quality.to_json().encode()
    contents[CARD] = model_card(
        bundle.recipe,
        bundle.labels,
        bundle.calibration,
        bundle.quality,
        n_epochs=len(bundle.history),
    ).encode()
    safetensors = "https://huggingface.co/docs/safetensors"
    json_type = "application/json"
    epochs = fields_of(_history(history))
    about: tuple[tuple[str, str, str, tuple[Field, ...]], ...] = (
        (WEIGHTS, safetensors, "State of the network, by parameter name.", ()),
        (RECIPE, json_type, "How the model was made.", ()),
        (LABELS, "text/tab-separated-values", "The classes.", _LABEL_FIELDS),
        (HISTORY, "application/jsonlines", "Training, one row per epoch.", epochs),
        (CALIBRATION, json_type, "How its probabilities are scaled.", ()),
        (QUALITY, json_type, "How the quality of its results is predicted.", ()),
        (CARD, "text/markdown", "The model card: what to know before using it.", ()),
    )
    files = [
        FileEntry(
            name=name,
            sha256=hashlib.sha256(contents[name]).hexdigest(),
            size_bytes=len(contents[name]),
            encoding_format=encoding_format,
            description=description,
            fields=fields,
        )
        for name, encoding_format, description, fields in about
        if name in contents
    ]
    contents[CROISSANT] = to_json(model_metadata(bundle.recipe, files)).encode()
    contents[SUMS] = _sums(contents)
    return contents


def _sums(contents: Mapping[str, bytes]) -> bytes:
    """The text that `sha256sum` would print for the files."""
    lines = (
        f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n"
        for name in _LISTED
        if name in contents
    )
    return "".join(lines).encode()


def _damaged(sums: bytes, contents: Mapping[str, bytes]) -> str:
    """The file to blame for checksums that are not those of the contents."""
    recorded, actual = sums.split(b"\n"), _sums(contents).split(b"\n")
    if len(recorded) == len(actual):
        rows = zip(contents, recorded, actual, strict=False)
        return next((n for n, was, now in rows if was != now), SUMS)
    unlisted = [name for name in contents if name.encode() not in sums]
    # A list without a file that every model has is itself the damaged one.
    return unlisted[0] if unlisted and {*unlisted} <= {*_OPTIONAL} else SUMS


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        # Some file systems report a full disk only here.
        os.fsync(stream.fileno())


def _read(path: Path) -> bytes:
    # A pipe would be waited for, and a device has no end.
    if path.exists() and not path.is_file():
        raise InputError(
            f"{path}: cannot be read (it is no regular file); copy the model again"
        )
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: missing, so this is not a whole model; give a model's "
            "directory or copy the model again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check the file"
        ) from error


def _parsed(path: Path, parse: Callable[[bytes], T], data: bytes) -> T:
    try:
        return parse(data)
    except (ValueError, SafetensorError) as error:  # JSON, Unicode, InputError
        raise InputError(f"{path}: {error}") from error


def _refuse_newer(data: bytes) -> None:
    try:
        raw = parse_json(data, "recipe")
    except InputError:
        return  # Damage is the checksum's to report.
    refuse_newer(raw)


def _recipe(data: bytes) -> Recipe:
    return Recipe.from_json(data.decode())


def _labels(data: bytes) -> LabelTable:
    return LabelTable.from_tsv(data.decode())


def _calibration(data: bytes) -> Calibration:
    return Calibration.from_json(data.decode())


def _quality(data: bytes) -> QualityModel:
    return QualityModel.from_json(data.decode())


def _history(data: bytes) -> tuple[dict[str, Any], ...]:
    return check_history([parse_json(line, "history") for line in data.splitlines()])
