"""How long an image from a label map takes, against the network that learns from it.

    python benchmarks/synthesis.py [--device cuda] [--side 128] [--batch 1]

Prints seconds of the synthesis of a batch of crops, with all usual steps, and of the
forward pass of `bayesian_vnet` with base_filters 16 and levels 4, both with the same
number of threads where they run on the CPU. There the seconds are those of all threads
together, whatever else the machine does. The map is a ball of shells.
"""

import argparse
from time import perf_counter, process_time

import torch

from nobrainer import models
from nobrainer.data.synthesis import Anatomy, synthesise
from nobrainer.recipe import Synthesis

SIDE_OF_MAP = 256
VALUES = (0, 511, 515, 507, 24, 3, 42, 2, 41, 10, 49, 11, 50, 17, 53, 4, 43)


def ball(device: torch.device) -> tuple[torch.Tensor, Anatomy]:
    """Shells of different labels, as large as a head."""
    anatomy = Anatomy.of(VALUES, {v: n for n, v in enumerate((0, *VALUES[4:]))})
    x = torch.linspace(-1, 1, SIDE_OF_MAP, device=device)
    radius = (x[:, None, None] ** 2 + x[:, None] ** 2 + x**2).sqrt()
    shell = ((0.8 - radius) * 20).clamp(0, len(VALUES) - 1).long()
    order = torch.tensor([anatomy.values.index(v) for v in VALUES], device=device)
    return order[shell][None].to(torch.uint8), anatomy


def seconds(run: object, device: torch.device, repeats: int) -> float:
    """The least time of several runs, after one that warms up."""
    # Other work on the machine makes wall-clock time say little.
    clock = process_time if device.type == "cpu" else perf_counter
    times = []
    for _ in range(repeats + 1):
        begin = clock()
        run()  # type: ignore[operator]
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - begin)
    return min(times[1:])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    device = torch.device(args.device)
    maps, anatomy = ball(device)
    block = (args.side,) * 3
    torch.manual_seed(0)
    network = models.build("bayesian_vnet", n_classes=33, base_filters=16, levels=4)
    network = network.eval().to(device)
    image = torch.randn(args.batch, 1, *block, device=device)

    def make() -> None:
        seeds = range(args.batch)
        which = torch.zeros(args.batch, dtype=torch.int64, device=device)
        synthesise(
            maps,
            anatomy,
            Synthesis(),
            seeds,
            spacing_mm=(1.0, 1.0, 1.0),
            block_shape=block,
            which=which,
        )

    def forward() -> None:
        with torch.no_grad():
            network(image)

    print("| threads | synthesis, s | forward pass, s | ratio |")
    print("|---|---|---|---|")
    for threads in args.threads if device.type == "cpu" else ["device"]:
        if device.type == "cpu":
            torch.set_num_threads(threads)
        made = seconds(make, device, args.repeats)
        passed = seconds(forward, device, args.repeats)
        print(f"| {threads} | {made:.2f} | {passed:.2f} | {made / passed:.2f} |")


if __name__ == "__main__":
    main()
