"""The checkpoint of a training: all that it needs to go on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.json_records import check_history, parse_json
from nobrainer.recipe import Recipe
from nobrainer.training.state_file import (
    check_state,
    find_change,
    held_together,
    pack_optimizer,
    read_state,
    unpack_optimizer,
    with_prefix,
    write_state,
)
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
    tally: figures of the epoch under way, or of one that a limit cut short; None
        between epochs.
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
    tensors = {f"model/{k}": v for k, v in checkpoint.weights.items()}
    tensors |= {f"average/{k}": v for k, v in (checkpoint.average or {}).items()}
    moments, texts = pack_optimizer(checkpoint.optimizer, "optimizer")
    meta = {
        "recipe": checkpoint.recipe.to_json(),
        "history": json.dumps(checkpoint.history),
        "labels": checkpoint.labels.to_tsv(),
        "best": json.dumps(checkpoint.best),
        "n_averaged": str(checkpoint.n_averaged),
        "tally": "" if checkpoint.tally is None else checkpoint.tally.to_json(),
    }
    write_state(tensors | moments, meta | texts, path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that `write_checkpoint` wrote.

    Raises: InputError where it is missing, damaged, or of a newer version.
    """
    tensors, meta = read_state(path)
    if "recipe" not in meta:
        raise InputError(f"{path}: is not a checkpoint of nobrainer")
    # The recipe comes first: a newer format may have other rules for the rest.
    try:
        recipe = Recipe.from_json(meta["recipe"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    check_state(tensors, meta, path)
    with held_together(path):
        return _assemble(recipe, tensors, meta)


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
    parts = ("model", "data", "preprocess", "training")
    length = ("epochs", "max_steps", "max_minutes", "patience")
    if change := find_change(old, new, parts, length):
        raise InputError(
            f"{directory}: cannot resume: {change}; give the old value or another "
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


def check_same_optimizer(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check that an optimiser has the arguments that it had in an earlier training.

    Args:
        old: the optimiser's state in a checkpoint.
        new: its state as the training that is to go on begins.

    Raises:
        InputError: an argument differs that changes the result.
    """
    groups = zip(old["param_groups"], _as_stored(new["param_groups"]), strict=False)
    for before, after in groups:
        # The rate at the start: that of a checkpoint is the one of its last step.
        free = {"params", "lr", "fused", "foreach"}
        for name in sorted((before.keys() & after.keys()) - free):
            if before[name] != after[name]:
                shown = name.removeprefix("initial_")
                raise InputError(
                    f"cannot resume: {shown} of the optimiser was {before[name]!r} "
                    f"and now is {after[name]!r}; give the old value or another "
                    "checkpoint directory"
                )


def _as_stored(groups: Sequence[Mapping[str, Any]]) -> Any:
    """The groups of an optimiser as a checkpoint has them: lists in place of tuples."""
    return json.loads(json.dumps(groups))


def _assemble(
    recipe: Recipe, tensors: dict[str, Tensor], meta: dict[str, str]
) -> Checkpoint:
    best: Any = parse_json(meta["best"], "checkpoint")
    history: Any = parse_json(meta["history"], "checkpoint")
    return Checkpoint(
        recipe=recipe,
        weights=with_prefix(tensors, "model"),
        optimizer=unpack_optimizer(
            tensors, "optimizer", meta["groups"], meta["scalars"]
        ),
        history=check_history(history),
        labels=LabelTable.from_tsv(meta["labels"]),
        best=None if best is None else (best[0], best[1]),
        average=with_prefix(tensors, "average") or None,
        # Checkpoints of earlier versions have neither of these.
        n_averaged=int(meta.get("n_averaged", "0")),
        tally=Tally.from_json(meta["tally"]) if meta.get("tally") else None,
    )
