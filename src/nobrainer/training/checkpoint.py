"""A training's state in one safetensors file: written atomically, no pickled code."""

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.json_records import check_history, parse_json
from nobrainer.recipe import Recipe
from nobrainer.training.tally import Tally

LAST, BEST, INTERRUPTED = (
    f"{name}.safetensors" for name in ("last", "best", "interrupted")
)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that training needs to go on from where this was written.

    recipe: recipe of the model that is trained.
    weights: the network's `state_dict()`.
    optimizer: the optimiser's `state_dict()`.
    history: a row for each finished epoch.
    labels: names of the classes.
    best: the best score so far and its epoch, from 1; None without validation.
    average: averaged weights; None where the training does not average.
    n_averaged: number of steps that the average is over.
    tally: figures of the epoch under way; None between epochs.
    """

    recipe: Recipe
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    history: tuple[dict[str, Any], ...]
    labels: LabelTable
    best: tuple[float, int] | None
    average: dict[str, Tensor] | None = None
    n_averaged: int = 0
    tally: Tally | None = None

    @property
    def model_weights(self) -> dict[str, Tensor]:
        """The weights to predict with: the averaged ones where there are any."""
        return self.weights if self.average is None else self.average


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint whole, or leave the file that was there before.

    Args:
        checkpoint: the state of the training.
        path: path of the file; missing folders are made.

    Raises: InputError where it cannot be written.
    """
    # Clones: safetensors refuses tensors that share memory.
    tensors = {f"model/{k}": _own(v) for k, v in checkpoint.weights.items()}
    average = checkpoint.average or {}
    tensors |= {f"average/{k}": _own(v) for k, v in average.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in checkpoint.optimizer["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = _own(value)
            else:
                scalars.setdefault(str(index), {})[key] = value
    meta = {
        "recipe": checkpoint.recipe.to_json(),
        "history": json.dumps(checkpoint.history),
        "labels": checkpoint.labels.to_tsv(),
        "best": json.dumps(checkpoint.best),
        "groups": json.dumps(checkpoint.optimizer["param_groups"]),
        "scalars": json.dumps(scalars),
        "n_averaged": str(checkpoint.n_averaged),
        "tally": "" if checkpoint.tally is None else checkpoint.tally.to_json(),
    }
    meta["sha256"] = _digest(tensors, meta)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Trainings that were killed have left their unfinished files.
        for other in path.parent.glob(f".{path.name}.*"):
            other.unlink()
        save_file(tensors, partial, meta)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot write the checkpoint: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _own(tensor: Tensor) -> Tensor:
    return (
        tensor.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
    )


def _digest(tensors: dict[str, Tensor], meta: dict[str, str]) -> str:
    """SHA-256 of everything in a checkpoint: safetensors keeps no checksum."""
    digest = sha256(json.dumps(meta, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that `write_checkpoint` wrote.

    Raises: InputError where it is missing, damaged, or of a newer version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot read the checkpoint: {error}") from error
    if "recipe" not in meta:
        raise InputError(f"{path}: is not a checkpoint of nobrainer")
    # The recipe comes first: a newer format may have other rules for the rest.
    try:
        recipe = Recipe.from_json(meta["recipe"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if meta.pop("sha256", None) != _digest(tensors, meta):
        raise InputError(f"{path}: the checkpoint has been damaged or changed")
    try:
        return _assemble(recipe, tensors, meta)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: does not hold together ({type(error).__name__}: {error}): it was "
            "not written by nobrainer"
        ) from error


def read_history(directory: Path) -> list[dict[str, Any]]:
    """The history in a folder's last checkpoints, as a bundle keeps it.

    Returns: a row for each epoch; of an ensemble also with the "member", from 0.
    Raises: InputError where a checkpoint is damaged.
    """
    if (directory / LAST).exists():
        return list(read_checkpoint(directory / LAST).history)
    members = {
        int(path.parent.name.removeprefix("member-")): path
        for path in directory.glob(f"member-*/{LAST}")
    }
    return [
        {"member": number, **row}
        for number in sorted(members)
        for row in read_checkpoint(members[number]).history
    ]


def check_continues(old: Recipe, new: Recipe, directory: Path) -> None:
    """Check that a training continues an earlier one, and at most trains for longer.

    Args:
        old: recipe of the earlier training.
        new: recipe of the training that is to continue it.
        directory: folder of the checkpoints, for the message.

    Raises:
        InputError: anything else than the training's length differs.
    """
    for part in ("model", "data", "preprocess", "training"):
        before, after = getattr(old, part), getattr(new, part)
        for name, value in vars(before).items():
            if name in ("epochs", "max_steps", "max_minutes", "patience"):
                continue
            if getattr(after, name) != value:
                raise InputError(
                    f"{directory}: cannot resume: {part}.{name} was {value!r} and now "
                    f"is {getattr(after, name)!r}; give the old value or another "
                    "checkpoint directory"
                )
    if old.provenance.folds != new.provenance.folds:
        raise InputError(
            f"{directory}: cannot resume: the subjects of the folds have changed; give "
            "another checkpoint directory"
        )
    if old.provenance.files != new.provenance.files:
        raise InputError(
            f"{directory}: cannot resume: the training files have changed; give "
            "another checkpoint directory"
        )


def _assemble(
    recipe: Recipe, tensors: dict[str, Tensor], meta: dict[str, str]
) -> Checkpoint:
    read: dict[str, Any] = {
        name: parse_json(meta[name], "checkpoint")
        for name in ("scalars", "best", "groups", "history")
    }
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in read["scalars"].items()
    }
    weights: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}}
    for name, tensor in tensors.items():
        kind, rest = name.split("/", 1)
        if kind in weights:
            weights[kind][rest] = tensor
        else:
            index, key = rest.split("/", 1)
            state.setdefault(int(index), {})[key] = tensor
    best = read["best"]
    return Checkpoint(
        recipe=recipe,
        weights=weights["model"],
        optimizer={"state": state, "param_groups": read["groups"]},
        history=check_history(read["history"]),
        labels=LabelTable.from_tsv(meta["labels"]),
        best=None if best is None else (best[0], best[1]),
        average=weights["average"] or None,
        # Checkpoints of earlier versions have neither of these.
        n_averaged=int(meta.get("n_averaged", "0")),
        tally=Tally.from_json(meta["tally"]) if meta.get("tally") else None,
    )
