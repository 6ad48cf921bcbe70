"""Compare Bayesian layers, dropout, one network and an ensemble after equal time.

Time is counted in optimiser steps, at rates measured side by side: what else the
machine does meanwhile hits every model alike.

    python benchmarks/compare.py rates > rates.json
    python benchmarks/compare.py train --rates rates.json --minutes 10 --output DIR
    python benchmarks/compare.py score --models DIR

`--data-set oasis --data DIR` goes with each for real scans instead of the embedded
heads: files N_SS.nii.gz and N_classified.nii.gz for N from 1000 to 1011.
"""

import argparse
import csv
import json
import math
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import nobrainer as nb

MODELS = ("bayesian_vnet", "dropout", "vnet", "ensemble")
N_MEMBERS = 3
ROUNDS, ROUND_MINUTES = 3, 0.2
FIGURES = {
    "dice": "Dice",
    "nll/foreground": "NLL",
    "brier/foreground": "Brier",
    "ece/foreground": "ECE",
    "ece": "ECE, whole",
    "auroc_entropy/foreground": "AUROC",
    "auroc_entropy": "AUROC, whole",
    "aurc_entropy/foreground": "AURC",
}


@dataclass(frozen=True)
class Task:
    """What is trained on, what is tested on, and the network for it."""

    train: nb.Dataset
    test: nb.Dataset
    network: dict[str, Any]
    precision: str

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        config = self.train.config
        return len(self.train) * config.patches_per_volume // config.batch_size


def read_task(data_set: str, folder: Path | None) -> Task:
    """The embedded heads (brain against the rest), or OASIS (three tissues)."""
    if data_set == "embedded":
        with open(nb.get_data(source="embedded"), newline="") as file:
            files = [(row["features"], row["labels"]) for row in csv.DictReader(file)]
        return Task(
            nb.Dataset.from_files(files[:7]).batch(4).binarize().patches(per_volume=16),
            nb.Dataset.from_files(files[7:]).binarize(),
            {"base_filters": 8, "levels": 2},
            "32-true",
        )
    if folder is None:
        raise SystemExit("--data-set oasis needs --data, the folder of its files")
    scans = [
        (folder / f"{n}_SS.nii.gz", folder / f"{n}_classified.nii.gz")
        for n in range(1000, 1012)
    ]
    train = nb.Dataset.from_files(scans[:9], block_shape=(48, 48, 48), n_classes=4)
    return Task(
        train.batch(4).patches(per_volume=8),
        nb.Dataset.from_files(scans[9:], n_classes=4),
        {"n_classes": 4, "base_filters": 8, "levels": 3},
        "bf16-mixed",
    )


def build(name: str, network: dict[str, Any]) -> nb.Segmentation:
    """One of the models that are compared, untrained."""
    if name == "ensemble":
        return nb.Ensemble("vnet", network, n_members=N_MEMBERS)
    if name == "dropout":
        return nb.Segmentation("vnet", network | {"dropout_rate": 0.1})
    return nb.Segmentation(name, network)


def bundle_of(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Where a trained model is kept."""
    return args.models / args.data_set / f"{name}-{seed}"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median and range of the values that are defined, as a cell of a table."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "n/a"
    low, middle, high = (
        f"{value:.{digits}f}"
        for value in (min(known), statistics.median(known), max(known))
    )
    return f"{middle} ({low} to {high})"


def write_json(path: Path | None, rows: object) -> None:
    """Keep raw figures, if asked to."""
    if path is not None:
        path.write_text(json.dumps(rows, indent=1) + "\n")


def rates(args: argparse.Namespace) -> None:
    """Print optimiser steps a minute of each model on one thread, as JSON."""
    torch.set_num_threads(1)
    task = read_task(args.data_set, args.data)
    found: dict[str, list[float]] = {name: [] for name in MODELS if name != "ensemble"}
    for _ in range(ROUNDS):
        for name, per_minute in found.items():
            history = (
                build(name, task.network)
                .fit(
                    task.train,
                    epochs=10_000,
                    verbose=False,
                    max_minutes=args.round_minutes,
                    precision=task.precision,
                )
                .history_
            )
            patches = sum(row["patches_per_s"] * row["seconds"] for row in history)
            minutes = sum(row["seconds"] for row in history) / 60
            per_minute.append(patches / task.train.batch_size / minutes)
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(json.dumps(medians))


def train_one(name: str, seed: int, epochs: int, args: argparse.Namespace) -> str:
    """Train a model and keep it."""
    torch.set_num_threads(1)
    task = read_task(args.data_set, args.data)
    segmentation = build(name, task.network)
    segmentation.fit(
        task.train,
        epochs=epochs,
        seed=seed,
        verbose=False,
        precision=task.precision,
    )
    path = segmentation.save(bundle_of(args, name, seed))
    seconds = sum(row["seconds"] for row in segmentation.history_)
    return f"{path}: {epochs} epochs, {seconds:.0f} s in all"


def train(args: argparse.Namespace) -> None:
    """Train every model of every seed that is not there yet."""
    steps_a_minute = json.loads(args.rates.read_text())
    steps_per_epoch = read_task(args.data_set, args.data).steps_per_epoch
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        jobs = []
        # Seeds outside, so that models that are compared run side by side.
        for seed in args.seeds:
            for name in MODELS:
                if bundle_of(args, name, seed).exists():
                    continue
                # The members share the time of one model.
                alone = name != "ensemble"
                rate = steps_a_minute[name if alone else "vnet"]
                minutes = args.minutes / (1 if alone else N_MEMBERS)
                epochs = max(1, round(rate * minutes / steps_per_epoch))
                jobs.append(pool.submit(train_one, name, seed, epochs, args))
        for job in jobs:
            print(job.result(), flush=True)


def score_one(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Figures of one model, mean over the test scans."""
    torch.set_num_threads(1)
    task = read_task(args.data_set, args.data)
    segmentation = nb.Segmentation.load(bundle_of(args, name, seed))
    return nb.summarise(segmentation.evaluate(task.test, n_samples=10, surfaces=False))


def score(args: argparse.Namespace) -> None:
    """Print a table of medians and ranges over seeds."""
    read_task(args.data_set, args.data)  # makes the embedded heads, once
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        jobs = {
            (name, seed): pool.submit(score_one, name, seed, args)
            for seed in args.seeds
            for name in MODELS
        }
        results = {key: job.result() for key, job in jobs.items()}
    rows = [
        {"model": name, "seed": seed} | figures
        for (name, seed), figures in results.items()
    ]
    write_json(args.json, rows)
    print("| model |", " | ".join(FIGURES.values()), "|")
    print("|---|" + "---|" * len(FIGURES))
    for name in MODELS:
        runs = [results[name, seed] for seed in args.seeds]
        cells = [spread([run[figure] for run in runs], 4) for figure in FIGURES]
        print(f"| {name} |", " | ".join(cells), "|")


def add_data(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what is segmented."""
    parser.add_argument("--data-set", choices=("embedded", "oasis"), default="embedded")
    parser.add_argument("--data", type=Path, help="folder of the OASIS scans")


def main() -> None:
    """Run one of the three parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for run in (rates, train, score):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        add_data(command)
        if run is rates:
            command.add_argument("--round-minutes", type=float, default=ROUND_MINUTES)
            continue
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        command.add_argument("--processes", type=int, default=2)
        if run is train:
            command.add_argument("--rates", type=Path, required=True)
            command.add_argument("--minutes", type=float, required=True)
            command.add_argument("--output", type=Path, required=True, dest="models")
        else:
            command.add_argument("--models", type=Path, required=True)
            command.add_argument("--json", type=Path, help="write raw figures to it")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
