"""Compare ways to draw weights in training after equal time, on embedded data.

python benchmarks/estimators.py --seconds 60 --seeds 0 1 2
"""

import argparse
import csv
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

import nobrainer as nb
from nobrainer.bayes.layers import ESTIMATORS

FIGURES = ("dice", "nll", "nll/foreground", "ece/foreground")


def train_and_test(estimator: str, seed: int, seconds: float) -> dict[str, float]:
    """Figures on two unseen subjects, mean, and the optimiser steps made."""
    torch.set_num_threads(1)
    with open(nb.get_data(source="embedded"), newline="") as file:
        files = [(row["features"], row["labels"]) for row in csv.DictReader(file)]
    segmentation = nb.Segmentation(
        "bayesian_vnet", {"base_filters": 8, "levels": 2, "estimator": estimator}
    )
    segmentation.fit(
        nb.Dataset.from_files(files[:8]).batch(4).binarize().patches(per_volume=16),
        epochs=10_000,
        seed=seed,
        max_minutes=seconds / 60,
    )
    patches = sum(
        row["patches_per_s"] * row["seconds"] for row in segmentation.history_
    )
    rows = segmentation.evaluate(nb.Dataset.from_files(files[8:]).binarize())
    return nb.summarise(rows) | {"steps": patches / 4}


def main() -> None:
    """Print a table of medians and ranges over seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    nb.get_data(source="embedded")
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        # Seeds outside, so that estimators that are compared run side by side.
        jobs = {
            (name, seed): pool.submit(train_and_test, name, seed, args.seconds)
            for seed in args.seeds
            for name in ESTIMATORS
        }
        results = {key: job.result() for key, job in jobs.items()}
    print("| estimator | steps |", " | ".join(FIGURES), "|")
    print("|---|---|" + "---|" * len(FIGURES))
    for name in ESTIMATORS:
        runs = [results[name, seed] for seed in args.seeds]
        cells = [f"{statistics.median(r['steps'] for r in runs):.0f}"]
        for figure in FIGURES:
            values = [run[figure] for run in runs]
            middle = statistics.median(values)
            cells.append(f"{middle:.4f} ({min(values):.4f} to {max(values):.4f})")
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
