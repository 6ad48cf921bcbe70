"""How often a calibrated interval of a volume holds the true one, on simulated heads.

For each seed a model is trained on ten small synthetic heads, calibrated on a
hundred others, and asked about a hundred further ones.

    python benchmarks/cohort.py
"""

import argparse
import math
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare import spread, write_json

import nobrainer as nb
from nobrainer.data.phantom import make_subject
from nobrainer.metrics.calibration import Coverage, interval_coverage

# Classes of the FreeSurfer ids that the heads have, left and right as one.
STRUCTURES = ("white matter", "grey matter", "other CSF", "lateral ventricles")
RELABEL = {2: 1, 41: 1, 3: 2, 42: 2, 24: 3, 4: 4, 43: 4}
N_TRAIN = 10
COVERAGE, N_SAMPLES = 0.9, 10
# Intervals: name, fields of a structure.
INTERVALS = {
    "conformal, 90 %": ("conformal_low_mm3", "conformal_high_mm3"),
    "over draws, 95 %": ("volume_low_mm3", "volume_high_mm3"),
}
Row = dict[str, Any]


def dataset(first: int, n: int, resolution_mm: float) -> nb.Dataset:
    """Heads `first`, `first` + 1, ..., with five classes."""
    heads = [make_subject(first + i, resolution_mm, structures=False) for i in range(n)]
    files = nb.Dataset.from_files(heads, n_classes=len(STRUCTURES) + 1)
    return files.relabel(RELABEL)


def simulate(seed: int, args: argparse.Namespace) -> tuple[float, list[Row]]:
    """Temperature of one model, and a row for each structure of each test head."""
    torch.set_num_threads(1)
    # Heads of a seed are those of no other one.
    first = 100_000 * (seed + 1)
    train, calibrate, test = (
        dataset(first + 10_000 * part, n, args.resolution_mm)
        for part, n in enumerate((N_TRAIN, args.n_subjects, args.n_subjects))
    )
    segmentation = nb.Segmentation("bayesian_vnet", {"base_filters": 8, "levels": 2})
    segmentation.fit(
        train.batch(4).patches(per_volume=8),
        epochs=args.epochs,
        seed=seed,
        verbose=False,
    )
    segmentation.calibrate(calibrate, coverage=COVERAGE, n_samples=N_SAMPLES)
    rows: list[Row] = []
    for number, truth in enumerate(test.iterate(segmentation.recipe_.preprocess)):
        mm3 = float(np.prod(truth.geometry.spacing_mm))
        true_mm3 = mm3 * np.bincount(truth.label.ravel(), minlength=test.n_classes)
        prediction = segmentation.predict(
            test.data[number].image, n_samples=N_SAMPLES, seed=number, verbose=False
        )
        for found in prediction.structures:
            row: Row = {
                "seed": seed,
                "subject": number,
                "structure": STRUCTURES[found.class_number - 1],
                "true_mm3": float(true_mm3[found.class_number]),
                "volume_mm3": found.volume_mm3,
            }
            for name, (low, high) in INTERVALS.items():
                ends = getattr(found, low), getattr(found, high)
                if found.status == "not found":
                    # It has no interval: what is missed must count as not covered.
                    ends = 0.0, 0.0
                if not math.isnan(ends[0]):
                    row[f"{name}: low"], row[f"{name}: high"] = ends
            rows.append(row)
    return segmentation.calibration_.weight[0], rows


def coverage(rows: list[Row], name: str) -> Coverage:
    """How many of an interval's rows hold the true volume, with its uncertainty."""
    keys = ("true_mm3", f"{name}: low", f"{name}: high")
    return interval_coverage(*([row[key] for row in rows] for key in keys))


def main() -> None:
    """Print a table, a structure a row; medians and ranges are over seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n-subjects", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--resolution-mm", type=float, default=4.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the raw figures to this file")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        jobs = [pool.submit(simulate, seed, args) for seed in args.seeds]
        results = [job.result() for job in jobs]
    weights = [weight for weight, _ in results]
    rows = [row for _, found in results for row in found]
    write_json(args.json, {"weight": weights, "rows": rows})
    temperatures = [1 / weight for weight in weights]
    print(f"Temperature {spread(temperatures, 3)}, of {len(args.seeds)} seeds.\n")
    print(
        "Inside: share of true volumes in the interval, per cent, with its 95 % "
        "Wilson interval over the heads of all seeds. Width: of the median head. "
        "The structures of a head are not independent: the Wilson interval of all "
        "of them is too narrow. What the model misses so often that it has no "
        "interval does not count.\n"
    )
    titles = [
        f"{name}: {what}"
        for name in INTERVALS
        for what in ("inside", "Wilson", "width, ml")
    ]
    print("| structure |", " | ".join(titles), "|")
    print("|---|" + "---|" * len(titles))
    for structure in (*STRUCTURES, "all"):
        mine = [row for row in rows if structure in (row["structure"], "all")]
        cells = []
        for name in INTERVALS:
            low, high = f"{name}: low", f"{name}: high"
            known = [row for row in mine if low in row]
            runs = [[row for row in known if row["seed"] == n] for n in args.seeds]
            shares = [100 * coverage(r, name).share for r in runs if r]
            widths = [
                statistics.median(row[high] - row[low] for row in r) / 1000
                for r in runs
                if r
            ]
            all_seeds = coverage(known, name)
            cells += [
                spread(shares, 1),
                f"{100 * all_seeds.low:.1f} to {100 * all_seeds.high:.1f}",
                # Structures of all sizes have no common width.
                "n/a" if structure == "all" else spread(widths, 2),
            ]
        print(f"| {structure} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
