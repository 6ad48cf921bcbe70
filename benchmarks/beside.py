"""Prediction and training steps beside other work on the same cores.

    python benchmarks/beside.py --competitors 0 1 4
    python benchmarks/beside.py --threads ours one     # without those that take minutes

Each row is a fresh process that predicts a volume and trains a few steps, with threads
that spin while they wait, with threads that sleep at once, with threads that spin for
microseconds and then sleep (what `import nobrainer` sets up), and with one thread, in
turn. Competitors are processes that compute without end. The ideal share is the
processor time of one thread divided by the cores, times what the competitors take of
them: (cores + competitors) / cores. Where the machine has other work besides, its load
says so, and only rows of one round can be compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Before torch, which would else be set up already.
from nobrainer import models  # isort: skip
import numpy as np
import torch

from nobrainer.cores import count_cores
from nobrainer.inference.predict import Sampling
from nobrainer.inference.predictor import Predictor

THREADS = {
    "spinning": {"OMP_WAIT_POLICY": "active"},
    "sleeping": {"OMP_WAIT_POLICY": "passive"},
    "ours": {"GOMP_SPINCOUNT": "1000"},
    "one": {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "1"},
}


def predict(side: int) -> None:
    """Five draws of a volume of noise."""
    model = models.build("bayesian_vnet", n_classes=2, base_filters=8, levels=2)
    image = np.random.default_rng(0).normal(size=(side,) * 3).astype(np.float32)
    cpu = torch.device("cpu")
    Predictor(model.eval(), 2, Sampling(0, 5), cpu)(image, 0.0, lambda tile: None)


def train(steps: int) -> None:
    """Steps of two patches of 32³ of noise."""
    model = models.build("bayesian_vnet", n_classes=2, base_filters=8, levels=2)
    optimizer = torch.optim.Adam(model.parameters())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 32, 32, 32, generator=generator)
    truth = (image[:, 0] > 0).long()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(image), truth).backward()
        optimizer.step()


def measure(side: int, steps: int) -> dict[str, dict[str, float]]:
    """Seconds on the clock and of the processor of either work, after a warm-up."""
    found = {}
    for name, work in (
        ("predict", lambda: predict(side)),
        ("train", lambda: train(steps)),
    ):
        predict(16)
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found[name] = {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
        }
    return found


@contextmanager
def competitors(number: int) -> Iterator[None]:
    """Processes that compute without end, as many as are asked for."""
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(number)
    ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    """Print a row for each number of competitors and kind of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--competitors", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--side", type=int, default=128, help="voxels of the volume")
    parser.add_argument("--steps", type=int, default=30, help="steps of the training")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", nargs="+", choices=THREADS, default=list(THREADS))
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.side, args.steps)))
        return
    again = [sys.executable, __file__, "--measure", "--side", str(args.side)]
    again += ["--steps", str(args.steps)]
    cores = count_cores()
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f} before\n")
    print("| others | threads | work | wall s | CPU s | / one thread | / ideal share |")
    print("|---|---|---|---|---|---|---|")
    kinds = {kind: THREADS[kind] for kind in dict.fromkeys([*args.threads, "one"])}
    for number in args.competitors:
        rows: dict[str, list[dict[str, dict[str, float]]]] = {k: [] for k in kinds}
        with competitors(number):
            # In turn, so that a slow minute affects all of them.
            for _ in range(args.repeats):
                for kind, variables in kinds.items():
                    run = subprocess.run(
                        again,
                        env=os.environ | variables,
                        stdout=subprocess.PIPE,
                        text=True,
                        check=True,
                    )
                    rows[kind].append(json.loads(run.stdout))
        for work in ("predict", "train"):
            of_one = [found[work] for found in rows["one"]]
            alone = statistics.median(found["cpu_s"] for found in of_one)
            ideal = alone / cores * (cores + number) / cores
            for kind, found in rows.items():
                wall, cpu = (
                    statistics.median(one[work][what] for one in found)
                    for what in ("wall_s", "cpu_s")
                )
                pairs = zip(found, of_one, strict=True)
                ratio = statistics.median(
                    one[work]["wall_s"] / other["wall_s"] for one, other in pairs
                )
                print(
                    f"| {number} | {kind} | {work} | {wall:.2f} | {cpu:.2f} "
                    f"| {ratio:.2f} | {wall / ideal:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
