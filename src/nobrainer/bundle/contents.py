"""The files of a model: the records and weights as bytes, and back."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from nobrainer.recipe import Recipe, WeightsFormat, refuse_newer

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
# Some models lack these: what is fitted after training, and the card of older models.
OPTIONAL = (CALIBRATION, QUALITY, CARD)
LISTED = (WEIGHTS, RECIPE, LABELS, HISTORY, *OPTIONAL, CROISSANT)

_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_LABEL_FIELDS = (
    Field("index", "sc:Integer"),
    Field("name", "sc:Text"),
    Field("color", "sc:Text"),
    Field("original", "sc:Integer"),
)


@dataclass(frozen=True)
class Bundle:
    """A trained model: how it was made, its weights, its classes, its training.

    `weights` is the network's state by name, in the network's own number formats
    whatever the file has (`recipe.model.weights`); a row of `history` is one epoch and
    holds what JSON can hold. `calibration` and `quality` are None until they are
    fitted.
    """

    recipe: Recipe
    weights: dict[str, torch.Tensor]
    labels: LabelTable
    history: tuple[dict[str, Any], ...]
    calibration: Calibration | None = None
    quality: QualityModel | None = None


def pack(bundle: Bundle) -> dict[str, bytes]:
    """All files of a model, the list of checksums last."""
    contents = {
        WEIGHTS: pack_weights(bundle.weights, bundle.recipe.model.weights),
        RECIPE: bundle.recipe.to_json().encode(),
        LABELS: bundle.labels.to_tsv().encode(),
        HISTORY: pack_history(bundle.history),
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
    metadata = model_metadata(bundle.recipe, describe_files(contents))
    contents[CROISSANT] = to_json(metadata).encode()
    contents[SUMS] = list_checksums(contents)
    return contents


def pack_history(history: Iterable[Mapping[str, Any]]) -> bytes:
    """The history of a training as the bytes of its file, a line a row."""
    return "".join(json.dumps(row) + "\n" for row in history).encode()


def describe_files(contents: Mapping[str, bytes]) -> list[FileEntry]:
    """What the files of a model are, for its metadata.

    Args:
        contents: the files by name.
    """
    safetensors = "https://huggingface.co/docs/safetensors"
    json_type = "application/json"
    epochs = fields_of(read_history(contents[HISTORY]))
    about: tuple[tuple[str, str, str, tuple[Field, ...]], ...] = (
        (WEIGHTS, safetensors, "State of the network, by parameter name.", ()),
        (RECIPE, json_type, "How the model was made.", ()),
        (LABELS, "text/tab-separated-values", "The classes.", _LABEL_FIELDS),
        (HISTORY, "application/jsonlines", "Training, one row per epoch.", epochs),
        (CALIBRATION, json_type, "How its probabilities are scaled.", ()),
        (QUALITY, json_type, "How the quality of its results is predicted.", ()),
        (CARD, "text/markdown", "The model card: what to know before using it.", ()),
    )
    return [
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


def pack_weights(weights: Mapping[str, torch.Tensor], kept: WeightsFormat) -> bytes:
    """A network's state as the bytes of its file in a bundle.

    Args:
        weights: the tensors, by name.
        kept: number format in which the file has the float32 tensors of two or more
            axes: the kernels, with their means and scales. Vectors, such as biases and
            the running figures of batch norm, stay as they are: they are a thousandth
            of the file.

    Raises:
        InputError: the numbers of a tensor do not fit into the format, or a tensor has
            that half-precision format already, so that the file could not tell which
            were changed.
    """
    packed = {}
    for name, tensor in weights.items():
        # Cloned, because safetensors refuses tensors that share memory.
        own = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        packed[name] = _in_format(name, own, kept)
    return save_tensors(packed)


def _in_format(name: str, tensor: torch.Tensor, kept: WeightsFormat) -> torch.Tensor:
    """A tensor as the file keeps it, see `pack_weights`."""
    half = _HALF.get(kept)
    if half is None or tensor.ndim < 2:
        return tensor
    if tensor.dtype == half:
        raise InputError(
            f"{name!r} is {kept} in the network itself: give weights='float32', which "
            "keeps every tensor as it is"
        )
    if tensor.dtype != torch.float32:
        return tensor
    rounded = tensor.to(half)
    if not rounded.isfinite().equal(tensor.isfinite()):
        raise InputError(
            f"{name!r} holds numbers that are too large for {kept}: give "
            "weights='float32'"
        )
    return rounded


def unpack_weights(data: bytes, kept: WeightsFormat) -> dict[str, torch.Tensor]:
    """The state that `pack_weights` packed, with the tensors that it rounded widened.

    Args:
        data: the bytes of the file.
        kept: the format that it was packed in.
    """
    half = _HALF.get(kept)
    return {
        name: tensor.float() if tensor.dtype == half and tensor.ndim > 1 else tensor
        for name, tensor in load_tensors(data).items()
    }


def unpack(directory: Path, contents: Mapping[str, bytes]) -> Bundle:
    """The model whose files these are.

    Args:
        directory: where they come from, for messages.
        contents: the files by name, without the list of checksums.

    Raises:
        InputError: a file is not what it should be, or does not fit the others.
    """

    def parsed(name: str, parse: Callable[[bytes], T]) -> T:
        return parse_file(directory / name, parse, contents[name])

    def fitted(name: str, parse: Callable[[bytes], T]) -> T | None:
        return parsed(name, parse) if name in contents else None

    recipe = parsed(RECIPE, lambda data: Recipe.from_json(data.decode()))
    bundle = Bundle(
        recipe=recipe,
        weights=parsed(
            WEIGHTS, lambda data: unpack_weights(data, recipe.model.weights)
        ),
        labels=parsed(LABELS, lambda data: LabelTable.from_tsv(data.decode())),
        history=parsed(HISTORY, read_history),
        calibration=fitted(
            CALIBRATION, lambda data: Calibration.from_json(data.decode())
        ),
        quality=fitted(QUALITY, lambda data: QualityModel.from_json(data.decode())),
    )
    n_classes, calibration = bundle.recipe.data.n_classes, bundle.calibration
    if calibration is not None and len(calibration.weight) != n_classes:
        raise InputError(
            f"{directory / CALIBRATION}: scales {len(calibration.weight)} classes, but "
            f"the model has {n_classes}; calibrate it again"
        )
    return bundle


def list_checksums(contents: Mapping[str, bytes]) -> bytes:
    """The text that `sha256sum` would print for the files."""
    lines = (
        f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n"
        for name in LISTED
        if name in contents
    )
    return "".join(lines).encode()


def find_damaged(sums: bytes, contents: Mapping[str, bytes]) -> str:
    """The file to blame for checksums that are not those of the contents.

    Args:
        sums: the list of checksums as it was saved.
        contents: the files by name, as they are now.

    Returns:
        The name of the first file that differs; that of the list itself where it does
        not list the files of a model.
    """
    recorded, actual = sums.split(b"\n"), list_checksums(contents).split(b"\n")
    if len(recorded) == len(actual):
        rows = zip(contents, recorded, actual, strict=False)
        return next((n for n, was, now in rows if was != now), SUMS)
    unlisted = [name for name in contents if name.encode() not in sums]
    # A list without a file that every model has is itself the damaged one.
    return unlisted[0] if unlisted and {*unlisted} <= {*OPTIONAL} else SUMS


def parse_file(path: Path, parse: Callable[[bytes], T], data: bytes) -> T:
    """Parse what a file holds.

    Args:
        path: the file, for the message.
        parse: turns the bytes into what they stand for.
        data: the bytes of the file.

    Raises:
        InputError: the bytes cannot be parsed.
    """
    try:
        return parse(data)
    except (ValueError, SafetensorError) as error:  # JSON, Unicode, InputError
        raise InputError(f"{path}: {error}") from error


def refuse_newer_recipe(data: bytes) -> None:
    """Check that this software knows the format of a recipe; damage passes.

    Args:
        data: the bytes of `recipe.json`.

    Raises:
        InputError: the format is newer than this software's.
    """
    try:
        raw = parse_json(data, "recipe")
    except InputError:
        return  # The checksums report a damaged file.
    refuse_newer(raw)


def read_history(data: bytes) -> tuple[dict[str, Any], ...]:
    """The rows that `pack_history` packed.

    Raises:
        InputError: a line is no such row.
    """
    return check_history([parse_json(line, "history") for line in data.splitlines()])
