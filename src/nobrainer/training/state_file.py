"""The state of a training in one safetensors file: whole, and without code."""

import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nobrainer.compat import refuse_old_model
from nobrainer.errors import InputError
from nobrainer.json_records import parse_json


def write_state(
    tensors: Mapping[str, Tensor], texts: Mapping[str, str], path: Path
) -> None:
    """Write tensors and texts, or leave the file that was there before.

    Args:
        tensors: the tensors by name.
        texts: the texts by name; "sha256" is taken for the checksum.
        path: path of the file; missing folders are made.

    Raises: InputError where it cannot be written.
    """
    # Clones: safetensors refuses tensors that share memory.
    own = {name: _own(tensor) for name, tensor in tensors.items()}
    meta = dict(texts)
    meta["sha256"] = _digest(own, meta)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Trainings that were killed have left their unfinished files.
        for other in path.parent.glob(f".{path.name}.*"):
            other.unlink()
        save_file(own, partial, meta)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot write the checkpoint: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_state` wrote, without a look at the checksum.

    Returns: the tensors and the texts, for `check_state`.
    Raises: InputError where the file is missing or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"{path}: cannot read the checkpoint: {error}") from error
    except SafetensorError as error:
        refuse_old_model(path)
        raise InputError(
            f"{path}: cannot read the checkpoint: {error}: it is damaged, or none: "
            "give the directory of a model, or a checkpoint that training wrote"
        ) from error
    return tensors, texts


def check_state(tensors: dict[str, Tensor], texts: dict[str, str], path: Path) -> None:
    """Check what `read_state` gave against its checksum, which is taken out.

    Raises: InputError where anything has changed.
    """
    if texts.pop("sha256", None) != _digest(tensors, texts):
        raise InputError(f"{path}: the checkpoint has been damaged or changed")


@contextmanager
def held_together(path: Path, problem: str = "") -> Iterator[None]:
    """Name the file in errors of what is made inside of its tensors and texts.

    Args:
        path: path of the file.
        problem: what the message says before a mistake of the user's.

    Raises: InputError in place of itself and of what made-up content raises.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {problem}{error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: does not hold together ({type(error).__name__}: {error}): it was "
            "not written by nobrainer"
        ) from error


def find_change(
    old: object, new: object, parts: Iterable[str], free: Container[str]
) -> str:
    """The first setting in which the recipes of two trainings differ, in words.

    Args:
        old, new: the recipes.
        parts: their fields that are looked at.
        free: names of settings that may differ.

    Returns: an empty text where there is none.
    """
    for part in parts:
        before, after = getattr(old, part), getattr(new, part)
        for name, value in vars(before).items():
            if name not in free and (now := getattr(after, name)) != value:
                return f"{part}.{name} was {value!r} and now is {now!r}"
    return ""


def pack_optimizer(
    state: Mapping[str, Any], prefix: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An optimiser's `state_dict()` as tensors and texts.

    Args:
        state: what `state_dict` gave.
        prefix: what the names of the tensors begin with, "optimizer" for example.

    Returns: the tensors, and the texts "groups" and "scalars".
    """
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}/{index}/{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    groups = json.dumps(state["param_groups"])
    return tensors, {"groups": groups, "scalars": json.dumps(scalars)}


def unpack_optimizer(
    tensors: Mapping[str, Tensor], prefix: str, groups: str, scalars: str
) -> dict[str, Any]:
    """The `state_dict()` that `pack_optimizer` packed.

    Args:
        tensors: tensors by name; those without the prefix are left out.
        prefix: what the names of the optimiser's tensors begin with.
        groups, scalars: the two texts.

    Raises: InputError where a text is not JSON.
    """
    read: Any = parse_json(scalars, "checkpoint")
    state = {int(index): dict(values) for index, values in read.items()}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == prefix:
            index, key = rest.split("/", 1)
            state.setdefault(int(index), {})[key] = tensor
    return {"state": state, "param_groups": parse_json(groups, "checkpoint")}


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix and a slash, without these."""
    start = f"{prefix}/"
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }


def _own(tensor: Tensor) -> Tensor:
    return (
        tensor.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
    )


def _digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 of everything in a file: safetensors keeps no checksum."""
    digest = sha256(json.dumps(texts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
