"""What a training needs beside the network, and what is written down of it."""

import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from nobrainer import models
from nobrainer.appearance import measure, summarise
from nobrainer.bayes.draws import mix_seed
from nobrainer.checks import check_choice
from nobrainer.data.entries import Scan
from nobrainer.data.labels import LabelTable
from nobrainer.data.prepare import Prepared
from nobrainer.data.shifts import SHIFTS, shifted
from nobrainer.errors import InputError
from nobrainer.inference.predict import Sampling, TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.io import is_synthetic, read_image, read_labels
from nobrainer.losses import inverse_frequency
from nobrainer.metrics.overlap import confusion, dice
from nobrainer.models.check import (
    check_block,
    check_reach,
    check_training,
    check_window,
    imagined,
)
from nobrainer.models.ensemble import MEMBERS
from nobrainer.models.registry import FAILURES, MODELS, Model, first_line
from nobrainer.posthoc import Calibration, QualityModel
from nobrainer.processing.dataset import Dataset
from nobrainer.provenance import checksum
from nobrainer.recipe import Cohort, DataConfig, FileRecord, ModelConfig, Recipe
from nobrainer.training.objective import Elbo, Supervised

FUSED = (Adam, AdamW, SGD)
"""The optimisers that torch has as one kernel on every device."""


def members(model: ModelConfig, seed: int) -> dict[int, ModelConfig]:
    """The networks to train one after the other, by the seed of their training.

    A model that is no ensemble is its own only member, under the seed itself.
    """
    if model.name != "ensemble":
        return {seed: model}
    shared = {name: value for name, value in model.args.items() if name != "members"}
    return {
        mix_seed(seed, "member", number): ModelConfig(name, shared | dict(args))
        for number, (name, args) in enumerate(model.args.get("members", MEMBERS))
    }


def initial_network(model: ModelConfig, seed: int, given: Model) -> nn.Module:
    """The network before training, with weights that depend on the seed alone.

    `given` is what `Segmentation` was given: a recipe has only the name of a network of
    one's own. Where it is the network itself, so are its weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(mix_seed(seed, "initial weights"))
        source = given if models.name_of(given) == model.name else model.name
        return models.build(source, **model.args)


def first_network(model: ModelConfig, seed: int, given: Model) -> nn.Module:
    """The whole network before training (all of an ensemble), as `load` builds it.

    One that is too large is refused before it takes much memory.
    """
    if _is_shipped(model.name):
        with imagined():
            models.build(model.name, **model.args)
    return initial_network(model, seed, given)


def check_networks(
    members: Sequence[ModelConfig],
    given: Model,
    data: DataConfig,
    n_patches: int,
    optimizer: type[Optimizer],
    opt_args: Mapping[str, Any],
) -> None:
    """Raise `InputError` where a training would fail for other reasons than its files.

    Args:
        members: the networks to train.
        given: what `Segmentation` was given, see `initial_network`.
        data: how patches are made.
        n_patches: patches that one process sees in an epoch.
        optimizer, opt_args: see `make_optimizer`.
    """
    block, size = data.block_shape, data.batch_size
    # The last batch is what is left.
    sizes = {min(size, n_patches), n_patches % size or min(size, n_patches)}
    for number, member in enumerate(members):
        if member in members[:number]:
            continue

        def build(member: ModelConfig = member) -> nn.Module:
            return initial_network(member, 0, given)

        network = build()
        check_block(network, block)
        check_training(build, block, sorted(sizes), data.n_classes)
        check_window(build)
        # Those of the package are measured by its tests.
        if not _is_shipped(member.name):
            check_reach(network)
        make_optimizer(optimizer, network, opt_args)


def _is_shipped(name: str) -> bool:
    return name in MODELS and models.get(name).__module__.startswith("nobrainer.")


def objective(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    volumes: Sequence[Prepared],
) -> Elbo | Supervised:
    """What training minimises: a network with a `kl_weight` takes the ELBO."""
    if hasattr(network, "kl_weight"):
        return Elbo(network, loss, sum(volume.image.size for volume in volumes))
    return Supervised(network, loss)


def make_optimizer(
    kind: type[Optimizer], network: nn.Module, opt_args: Mapping[str, Any]
) -> Optimizer:
    """The optimiser of a network, in one kernel for all weights where torch has it.

    That was measured three times as fast on a CPU. `opt_args` that say how the
    optimiser runs are left as they are.
    """
    chosen = {"fused", "foreach", "differentiable"} & opt_args.keys()
    fused = {"fused": True} if kind in FUSED and not chosen else {}
    closure = signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise InputError(
            f"{kind.__name__} needs a closure for every step, which training has not: "
            "give another optimizer"
        )
    try:
        return kind(network.parameters(), **{**fused, **opt_args})
    except FAILURES as error:
        raise InputError(
            f"{kind.__name__} cannot be made with opt_args={dict(opt_args)}: "
            f"{first_line(error)}"
        ) from error


def class_weights(
    given: Sequence[float] | str | None, n_classes: int
) -> tuple[float, ...] | None:
    """The weight of each class in the loss, as given.

    None stands for equal weights, and for "auto", whose weights follow from the labels
    (see `automatic_weights`).
    """
    if given is None:
        return None
    if isinstance(given, str):
        check_choice("class_weights", given, ["auto"])
        return None
    # The keys of a mapping would be taken for the weights.
    if isinstance(given, Mapping) or len(given) != n_classes:
        raise InputError(
            f"class_weights must be {n_classes} numbers, one a class, got {given!r}"
        )
    try:
        return tuple(map(float, given))
    except (TypeError, ValueError) as error:
        raise InputError(f"class_weights must be numbers, got {given!r}") from error


def automatic_weights(counts: np.ndarray) -> tuple[float, ...]:
    """The weights of `class_weights` "auto": inverse frequencies.

    Args:
        counts: (subjects, C) voxels of each class.
    """
    return tuple(inverse_frequency(torch.from_numpy(counts.sum(0))).tolist())


def cohort(volumes: Sequence[Prepared], counts: np.ndarray, n_subjects: int) -> Cohort:
    """How large the classes are, see `count_voxels`, and what scans look like."""
    voxel_mm3 = np.array([volume.geometry.voxel_mm3 for volume in volumes])
    sizes = counts * voxel_mm3[:, None]
    mean: list[float | None] = []
    sd: list[float | None] = []
    for found in sizes.T:
        logs = np.log(found[found > 0])
        enough = len(logs) >= 2
        mean.append(float(logs.mean()) if enough else None)
        sd.append(float(logs.std(ddof=1)) if enough else None)
    looks = []
    for volume in volumes:
        assert volume.label is not None
        grid_mm = volume.geometry.spacing_mm
        looks.append(measure(volume.image, volume.label, grid_mm, volume.voxel_mm))
    having = np.count_nonzero(counts, axis=0).tolist()
    return Cohort(
        n_subjects=n_subjects,
        log_mean=tuple(mean),
        log_sd=tuple(sd),
        n_having=tuple(having),
        appearance=summarise(looks),
        n_scans=len(volumes),
    )


def check_seen(counts: np.ndarray, labels: LabelTable) -> None:
    """Warn of classes that no training scan has; refuse where that is all of them.

    Args:
        counts: (subjects, C) voxels of each class.
        labels: names of the C classes.

    Raises:
        InputError: there is nothing but background.
    """
    missing = [labels.names[index] for index in np.flatnonzero(counts.sum(0) == 0)]
    if not counts[:, 1:].any():
        raise InputError(
            "dataset_train has no voxel of a class but background: check its labels, "
            "and what relabel and binarize make of them"
        )
    if missing:
        warnings.warn(
            f"no training scan has a voxel of {', '.join(missing)}: the model cannot "
            "find what it has never seen",
            stacklevel=3,
        )


def count_voxels(volumes: Sequence[Prepared], n_classes: int) -> np.ndarray:
    """(subjects, classes) voxels of each class in the labels."""
    counts = []
    for volume in volumes:
        assert volume.label is not None
        counts.append(np.bincount(volume.label.ravel(), minlength=n_classes))
    return np.array(counts, np.int64)


def validator(
    volumes: list[Prepared], labels: LabelTable, device: torch.device
) -> Callable[[nn.Module], dict[str, float]] | None:
    """What measures Dice on whole volumes with the posterior mean."""
    if not volumes:
        return None
    if not any(volume.label is not None and volume.label.any() for volume in volumes):
        raise InputError("dataset_validate has no voxel of a class but background")
    n_classes = len(labels.names)

    def validate(model: nn.Module) -> dict[str, float]:
        mean_weights = Sampling(seed=0, n_draws=0)
        predictor = Predictor(model, n_classes, mean_weights, device)
        scores = []
        for volume in volumes:
            table = np.zeros((n_classes, n_classes), np.int64)

            def count(
                tile: TileResult, volume: Prepared = volume, table: np.ndarray = table
            ) -> None:
                assert volume.label is not None
                table += confusion(volume.label[tile.where], tile.label, n_classes)

            predictor(volume.image, volume.background, count)
            scores.append(dice(table)[1:])
        per_class = np.ma.masked_invalid(scores).mean(axis=0).filled(np.nan)
        named = zip(labels.names[1:], per_class, strict=True)
        figures = {f"validation_dice_{name}": float(v) for name, v in named if v == v}
        return figures | {"validation_dice": float(np.mean(list(figures.values())))}

    return validate


def mean_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over the members of an ensemble of each figure that all of them have."""
    shared = set(metrics[0]).intersection(*metrics)
    return {
        name: float(np.mean([figures[name] for figures in metrics]))
        for name in metrics[0]
        if name in shared
    }


def final_metrics(
    history: Sequence[Mapping[str, Any]], best: tuple[float, int] | None
) -> dict[str, float]:
    """The figures of the epoch whose weights the model has."""
    row = history[-1] if best is None else history[best[1] - 1]
    keep = ("loss", "dice", "validation_dice")
    return {k: float(v) for k, v in row.items() if k.startswith(keep)}


def records(train: Dataset, validate: Dataset | None) -> tuple[FileRecord, ...]:
    """Name, role and checksum of every file that training reads."""
    found: list[tuple[Path, str]] = []
    for dataset, role in ((train, "train"), (validate, "validate")):
        for scan in dataset.data if dataset else ():
            if scan.paths is not None:
                image, label = scan.paths
                found.append((image, f"{role}-image"))
                if label is not None:
                    found.append((label, f"{role}-label"))
    if not found:
        return ()
    # The names that the user gave: links are not followed to where they point.
    absolute = [Path(os.path.abspath(path)) for path, _ in found]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    records = []
    for path, (_, role) in zip(absolute, found, strict=True):
        digest = checksum(path)
        # Files that share nothing but the root would be named by their absolute paths.
        shared = root != Path(root.anchor)
        name = (path.relative_to(root) if shared else Path(*path.parts[-2:])).as_posix()
        records.append(FileRecord(name, role, digest, path.stat().st_size))  # type: ignore[arg-type]
    return tuple(records)


def count_synthetic(dataset: Dataset) -> int:
    """How many of the scans say that they are synthetic."""
    return sum(is_synthetic(scan.image) for scan in dataset.data)


def count_maps(dataset: Dataset) -> int:
    """How many of the scans are label maps, of which images are made."""
    return sum(scan.is_map for scan in dataset.data)


def used_before(
    dataset: Dataset,
    recipe: Recipe,
    calibration: Calibration | None,
    quality: QualityModel | None,
) -> list[tuple[Scan, str]]:
    """The scans of a dataset that a model has used, and what it used them for.

    Files are told by their checksums: what is in memory is not known, nor are scans
    that a model was calibrated on before that was written down.

    Returns:
        Pairs of a scan and "training", "validation", "calibration" or "quality", the
        first that holds.
    """
    uses: dict[str, str] = {}
    for kind, fitted in (("quality", quality), ("calibration", calibration)):
        for digest in fitted.checksums if fitted is not None else ():
            uses[digest] = kind
    for role, kind in (("validate", "validation"), ("train", "training")):
        for record in recipe.provenance.files:
            if record.role == f"{role}-image":
                uses[record.sha256] = kind
    found = []
    for scan, digest in zip(dataset.data, image_checksums(dataset), strict=True):
        if digest in uses:
            found.append((scan, uses[digest]))
    return found


def image_checksums(dataset: Dataset) -> list[str]:
    """SHA-256 of each scan's file, empty for what is in memory or cannot be read."""
    found = []
    for scan in dataset.data:
        digest = ""
        # Whoever reads the scan says what is wrong with its file.
        with suppress(OSError, InputError):
            if isinstance(scan.image, str | os.PathLike):
                digest = checksum(Path(scan.image))
        found.append(digest)
    return found


def fingerprint(dataset: Dataset) -> tuple[str, ...]:
    """The checksums of a dataset's scans as a record keeps them."""
    return tuple(sorted({*image_checksums(dataset)} - {""}))


def software() -> dict[str, str]:
    """The versions of the software that a training depends on."""
    names = ("nobrainer", "torch", "pyro-ppl", "monai", "lightning-fabric", "nibabel")
    return {name: version(name) for name in names} | {
        "python": platform.python_version()
    }


def versions_of(
    dataset: Dataset, severities: Sequence[float], seed: int
) -> Iterator[tuple[int, bool, Scan]]:
    """Each labelled scan as it is, then under every simulated shift, one at a time.

    Yields the scan's number, whether it is shifted, and the scan.

    Raises:
        InputError: one is a label map.
    """
    for number, scan in enumerate(dataset.data):
        assert scan.label is not None
        if scan.is_map:
            raise InputError(
                f"{scan.name}: is a label map, and shifts are simulated on scans: give "
                "scans with labels"
            )
        yield number, False, scan
        image, label = read_image(scan.image), read_labels(scan.label)
        for name in SHIFTS:
            for severity in severities:
                key = mix_seed(seed, scan.shown, name)
                moved = shifted(image, label, name, severity, key)
                image_entry, label_entry = ((v.data, v.affine) for v in moved)
                yield number, True, replace(scan, image=image_entry, label=label_entry)
