"""Train on real T1 scans and report Dice, NLL and calibration on unseen ones.

Nine skull-stripped scans with manual tissue labels train each model for the same
time, in a process and on a core of its own; three others test it.

    python benchmarks/oasis.py --data DIR --minutes 13
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

import nobrainer as nb

NETWORK = {"n_classes": 4, "base_filters": 8, "levels": 3}
TRAIN, TEST = range(1000, 1009), range(1009, 1012)


def scans(folder: Path, subjects: range) -> nb.Dataset:
    """Scans and labels: 0 background, 1 CSF, 2 grey matter, 3 white matter."""
    files = [
        (folder / f"{n}_SS.nii.gz", folder / f"{n}_classified.nii.gz") for n in subjects
    ]
    return nb.Dataset.from_files(files, block_shape=(48, 48, 48), n_classes=4)


def train_and_test(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Figures of one model, mean over the test scans."""
    torch.set_num_threads(1)
    segmentation = nb.Segmentation(name, NETWORK)
    segmentation.fit(
        scans(args.data, TRAIN).batch(4).patches(per_volume=8),
        epochs=10_000,
        seed=args.seed,
        max_minutes=args.minutes,
        precision=args.precision,
    )
    steps = sum(
        round(row["seconds"] * row["patches_per_s"] / 4)
        for row in segmentation.history_
    )
    if args.save:
        segmentation.save(args.save / name, overwrite=True)
    rows = segmentation.evaluate(scans(args.data, TEST), n_samples=10)
    return nb.summarise(rows) | {"steps": steps}


def main() -> None:
    """Print a table, a model a column."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=13)
    parser.add_argument("--models", nargs="+", default=["bayesian_vnet", "vnet"])
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="keep the models in this folder")
    args = parser.parse_args()
    with ProcessPoolExecutor(len(args.models), get_context("spawn")) as pool:
        jobs = [pool.submit(train_and_test, name, args) for name in args.models]
        columns = [job.result() for job in jobs]
    print("| figure |", " | ".join(args.models), "|")
    print("|---|" + "---|" * len(args.models))
    for figure in columns[0]:
        print(f"| {figure} |", " | ".join(f"{c[figure]:.4f}" for c in columns), "|")


if __name__ == "__main__":
    main()
