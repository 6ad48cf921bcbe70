"""Whether choosing what to label next beats chance, on synthetic heads.

24 heads, each degraded in a random way, are the pool. Training starts with two of
them; after each round a strategy chooses two more by the predictions of the current
model, and a fresh model is trained for the same number of steps. Four other heads,
as they are and degraded, are the test.

    python benchmarks/active.py
"""

import argparse
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from compare import spread, write_json

import nobrainer as nb
from nobrainer.bayes.draws import mix_seed
from nobrainer.data.phantom import make_subject
from nobrainer.data.shifts import SHIFTS, shifted
from nobrainer.io import read_image, read_labels, to_nibabel, write
from nobrainer.ranking import STRATEGIES

BASELINE = "random"
N_POOL, N_TEST = 24, 4
# Seeds of heads that nothing else uses.
FIRST = 7_000
N_LABELLED = (2, 4, 6, 8)
# 96 patches in batches of 4, whatever the number of labelled heads.
PATCHES_PER_EPOCH, BATCH = 96, 4

Head = tuple[Path, Path]
Curve = list[float]


def make_heads(folder: Path, resolution_mm: float) -> tuple[list[Head], list[Head]]:
    """Write the pool, degraded, and the test heads, as they are and degraded."""
    pool, test = [], []
    for number in range(N_POOL + N_TEST):
        rng = np.random.default_rng(FIRST + number)
        subject = make_subject(FIRST + number, resolution_mm)
        image, label = read_image(subject[0]), read_labels(subject[1])
        shift, severity = rng.choice(list(SHIFTS)), 1 - rng.random()
        degraded = shifted(image, label, str(shift), severity, FIRST + number)

        def keep(name: str, volumes: tuple) -> Head:
            image, label = (to_nibabel(v.data, v) for v in volumes)
            return (
                write(image, folder / f"{name}_T1w.nii.gz"),
                write(label, folder / f"{name}_dseg.nii.gz"),
            )

        if number < N_POOL:
            pool.append(keep(f"pool-{number}", degraded))
        else:
            test.append(keep(f"test-{number}-clean", (image, label)))
            test.append(keep(f"test-{number}-degraded", degraded))
    return pool, test


def learn(
    strategy: str,
    seed: int,
    pool: list[Head],
    test: list[Head],
    args: argparse.Namespace,
) -> Curve:
    """Dice of the test heads after each round."""
    torch.set_num_threads(1)
    held_out = nb.Dataset.from_files(test).binarize()
    order = np.random.default_rng(mix_seed(seed, "first")).permutation(len(pool))
    labelled = order[: N_LABELLED[0]].tolist()
    curve: Curve = []
    for n in N_LABELLED:
        train = nb.Dataset.from_files([pool[i] for i in labelled]).binarize()
        segmentation = nb.Segmentation(
            "bayesian_vnet", {"base_filters": 8, "levels": 2}
        ).fit(
            train.batch(BATCH).patches(per_volume=PATCHES_PER_EPOCH // n),
            epochs=args.epochs,
            seed=seed,
            verbose=False,
        )
        rows = segmentation.evaluate(held_out, n_samples=args.n_samples, surfaces=False)
        curve.append(nb.summarise(rows)["dice"])
        if n == N_LABELLED[-1]:
            break
        rest = [i for i in range(len(pool)) if i not in labelled]
        # Images, not paths: chance goes with a scan's name, which is then its place.
        scans = [nib.load(pool[i][0]) for i in rest]
        ranked = segmentation.rank(
            scans,
            strategy,
            n_samples=args.n_samples,
            seed=mix_seed(seed, "round", n),
            verbose=False,
        )
        places = {f"scans[{place}]": i for place, i in enumerate(rest)}
        wanted = N_LABELLED[N_LABELLED.index(n) + 1] - n
        labelled += [places[one.name] for one in ranked[:wanted]]
    return curve


def verdict(curves: dict[str, list[Curve]]) -> str:
    """Which strategies' medians leave the range of the random baseline."""
    found = []
    for strategy, runs in curves.items():
        for place, n in enumerate(N_LABELLED[1:], 1):
            chance = [run[place] for run in curves[BASELINE]]
            middle = statistics.median(run[place] for run in runs)
            if middle > max(chance) or middle < min(chance):
                side = "above" if middle > max(chance) else "below"
                found.append(f"{strategy} is {side} with {n} labelled scans")
    if not found:
        return "No strategy's median lies outside of the random baseline's range."
    return "Medians outside of the random baseline's range: " + "; ".join(found) + "."


def main() -> None:
    """Print a table, a strategy a row, and what it comes to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="of each strategy")
    parser.add_argument("--random-seeds", type=int, default=5, help="of the baseline")
    parser.add_argument("--epochs", type=int, default=10, help="of 24 steps")
    parser.add_argument("--n-samples", type=int, default=5)
    parser.add_argument("--resolution-mm", type=float, default=2.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the raw figures to this file")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(args.processes, get_context("spawn")) as pool,
    ):
        heads = make_heads(Path(folder), args.resolution_mm)
        jobs = {
            strategy: [
                pool.submit(learn, strategy, seed, *heads, args)
                for seed in range(
                    args.random_seeds if strategy == BASELINE else args.seeds
                )
            ]
            for strategy in STRATEGIES
        }
        curves = {name: [job.result() for job in runs] for name, runs in jobs.items()}
    write_json(args.json, {"n_labelled": N_LABELLED, "dice": curves})
    titles = [f"{n} labelled" for n in N_LABELLED]
    print("| strategy | seeds |", " | ".join(titles), "|")
    print("|---|---|" + "---|" * len(titles))
    for strategy, runs in curves.items():
        cells = [spread(values) for values in zip(*runs, strict=True)]
        print(f"| {strategy} | {len(runs)} |", " | ".join(cells), "|")
    print(f"\n{verdict(curves)}")


if __name__ == "__main__":
    main()
