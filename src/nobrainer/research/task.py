"""What a study repeats: train and judge a recipe; later, score it on the test split."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nobrainer import bundle
from nobrainer.evaluation import Evaluation, summarise
from nobrainer.glossary import OF_RUNS
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.segmentation import Segmentation
from nobrainer.recipe import DEFAULT_LEARNING_RATE, SearchRecord
from nobrainer.research.folder import MODEL
from nobrainer.research.journal import Size
from nobrainer.research.records import (
    Report,
    Rows,
    Scores,
    Settings,
    describe_values,
)
from nobrainer.research.size import count_size
from nobrainer.research.space import Setting, Space
from nobrainer.research.split import make_dataset
from nobrainer.training.engine import default_device, gpu_ids

JUDGE_SEED = 0
"""Seed of the draws on validation and test scans: the same for all runs."""


@dataclass(frozen=True)
class SegmentationTask:
    """Training and judging of segmentation networks on one split of labelled scans.

    space: the space that is searched.
    train, validate: what `list_scans` gives of each scan; the test split is not
        here, so that no training can see it.
    settings: the settings of the study: how labels are made into classes, how long each
        training lasts, by how many draws it is judged.
    """

    space: Space
    train: Rows
    validate: Rows
    settings: Settings

    def run(
        self, values: Mapping[str, Any], seed: int, folder: str, report: Report
    ) -> dict[str, float]:
        """Train with these values, judge on the validation scans, save the model.

        Args:
            values: values of parameters of the space; the others keep their defaults.
            seed: seed of the training.
            folder: folder of the run; the model goes into `MODEL` inside.
            report: gets a point of the curve after each epoch.

        Returns: figures, means over the validation subjects: "dice"; "nll", "aurc",
            "ece" and "auroc" near the foreground; "dice/NAME" of each structure; and
            "train_s" (without validation), "judge_s", "steps" and "n_synthetic",
            the training scans that say that they are synthetic.
        """
        setting = self.space.setting(values)
        train = self._dataset(self.train, setting)
        validate = self._dataset(self.validate, setting)
        curve = _Curve(self, setting, train.batch_size, report)
        recipe = describe_values(dict(values)) or "the unchanged recipe"
        print(f"{setting.model}, seed {seed}: {recipe}", flush=True)
        segmentation = Segmentation(setting.model, setting.model_args).fit(
            train,
            validate,
            epochs=self.settings.epochs,
            opt_args={"lr": setting.learning_rate or DEFAULT_LEARNING_RATE},
            loss=setting.loss,
            seed=seed,
            verbose=False,
            gradient_clip=setting.gradient_clip,
            max_minutes=self.settings.train_minutes,
            on_epoch=curve.add,
        )
        # Training has chosen its best epoch on these scans, so they count as seen.
        started = time.monotonic()
        evaluation = self._evaluate(segmentation, validate, allow_seen=True)
        judge_s = time.monotonic() - started
        print(f"judged on {len(validate)} scans in {judge_s:.1f} s", flush=True)
        segmentation.save(Path(folder) / MODEL)
        found = _figures(evaluation)
        return found | {
            "train_s": curve.train_s,
            "judge_s": judge_s,
            "steps": float(curve.steps),
            "n_synthetic": float(segmentation.recipe_.provenance.n_synthetic),
        }

    def score(self, folders: Mapping[str, str], test: Rows, report: Report) -> Scores:
        """Apply trained models to the test scans.

        Args:
            folders: folder of each run, by the name of its model.
            test: what `list_scans` gives of each scan.
            report: unused; nothing here can be ended early.

        Returns: for each name the "figures", as `run` returns them, and of "subjects"
            the mean Dice of the structures of each subject.
        """
        scores: Scores = {}
        for name, folder in folders.items():
            segmentation = Segmentation.load(Path(folder) / MODEL)
            dataset = self._dataset(test, self.space.setting({}))
            evaluation = self._evaluate(segmentation, dataset)
            scores[name] = {
                "figures": _figures(evaluation),
                "subjects": _subjects(evaluation, dataset),
            }
        return scores

    def _evaluate(
        self, segmentation: Segmentation, scans: Dataset, *, allow_seen: bool = False
    ) -> Evaluation:
        """Judge a model; all models of a study are judged by draws of the same seed."""
        return segmentation.evaluate(
            scans,
            n_samples=segmentation.n_draws(self.settings.n_draws),
            seed=JUDGE_SEED,
            surfaces=False,
            allow_seen=allow_seen,
            verbose=False,
        )

    def size(self, values: Mapping[str, Any]) -> Size:
        """Count the network of these values and the work of training and judging it."""
        setting = self.space.setting(values)
        data = self._dataset(self.train, setting)
        return count_size(
            setting.model,
            setting.model_args,
            n_classes=self.settings.n_classes,
            batch_size=data.batch_size,
            block_shape=data.block_shape,
            judge_shapes=[
                scan.geometry.shape
                for scan in make_dataset(self.validate, self.settings).data
            ],
            n_draws=self.settings.n_draws,
        )

    def n_steps(self, values: Mapping[str, Any]) -> int:
        """Optimiser steps in all epochs, those of all members of an ensemble."""
        setting = self.space.setting(values)
        data = self._dataset(self.train, setting)
        patches = len(data) * data.config.patches_per_volume
        n_steps = self.settings.epochs * math.ceil(patches / data.batch_size)
        return n_steps * _n_members(setting)

    def publish(self, folder: Path, best: Path, search: SearchRecord) -> None:
        """Copy a run's model to where the best one is kept, with its record of search.

        Args:
            folder: folder of the run.
            best: folder of the best model, which is replaced.
            search: record of the search, which the copy gets.
        """
        found = bundle.load(folder / MODEL)
        made = replace(found.recipe.provenance, search=search)
        story = replace(found, recipe=replace(found.recipe, provenance=made))
        bundle.save(story, best, overwrite=True)

    def gpus(self) -> bool:
        """Whether this machine has GPUs, one of which each worker should own."""
        return default_device().type == "cuda"

    def _dataset(self, rows: Rows, setting: Setting) -> Dataset:
        dataset = make_dataset(rows, self.settings)
        if setting.block_shape is not None:
            config = replace(dataset.config, block_shape=setting.block_shape)
            dataset = replace(dataset, config=config)
        if setting.batch_size is not None:
            dataset = dataset.batch(setting.batch_size)
        if setting.augment is not None:
            dataset = dataset.augment(setting.augment)
        return dataset.shuffle().patches(
            per_volume=setting.patches_per_volume, foreground=setting.foreground
        )


def _n_members(setting: Setting) -> int:
    return len(setting.model_args.get("members", (None,)))


def list_gpus(report: Report) -> list[str]:
    """List the GPUs of this machine; run in a process of its own: asking uses one."""
    return gpu_ids()


class _Curve:
    """Reports a training epoch by epoch; the members of an ensemble come in turn."""

    def __init__(
        self,
        task: SegmentationTask,
        setting: Setting,
        batch_size: int,
        report: Report,
    ) -> None:
        self._settings = task.settings
        self._n_members = _n_members(setting)
        self._batch_size = batch_size
        self._report = report
        self._seconds: dict[int, float] = defaultdict(float)
        self.train_s = 0.0
        self.steps = 0

    def add(self, row: Mapping[str, Any]) -> None:
        member = row.get("member", 0)
        self.steps += row["steps"]
        self.train_s += row["steps"] * self._batch_size / row["patches_per_s"]
        self._seconds[member] += row["seconds"]
        share = row["epoch"] / self._settings.epochs
        if self._settings.train_minutes is not None:
            limit_s = 60 * self._settings.train_minutes / self._n_members
            share = max(share, self._seconds[member] / limit_s)
        share = (member + min(1.0, share)) / self._n_members
        # Goes into the log of the run.
        print(
            f"epoch {row['epoch']}"
            + (f" of member {member}" if self._n_members > 1 else "")
            + f": loss {row['loss']:.4f}, Dice {row['dice']:.3f}, validation Dice "
            f"{row['validation_dice']:.3f}, learning rate {row['learning_rate']:.2g}, "
            f"{row['seconds']:.1f} s",
            flush=True,
        )
        self._report((share, row["validation_dice"]))


def _figures(evaluation: Evaluation) -> dict[str, float]:
    means = summarise(evaluation)
    found = {
        name: means[metric.source]
        for name, metric in OF_RUNS.items()
        if metric.source in means
    }
    return found | {k: v for k, v in means.items() if k.startswith("dice/")}


def _subjects(evaluation: Evaluation, dataset: Dataset) -> dict[str, float]:
    """The mean Dice of each subject's structures, in all of the subject's scans."""
    whom = dataset.shown_subjects
    scores: dict[str, list[float]] = defaultdict(list)
    for row in evaluation:
        if row.metric == "dice":
            scores[whom[row.subject]].append(row.value)
    return {subject: float(np.mean(found)) for subject, found in scores.items()}
