"""Speed, memory and exactness of prediction at 256³, beside MONAI's inferer.

    python benchmarks/prediction.py speed
    python benchmarks/prediction.py memory
    python benchmarks/prediction.py tiles

The network is untrained, with base_filters 8 and levels 2: neither time nor memory
depends on what it has learned. The image is an ellipsoid of noise as large as a head
in an empty field, as a conformed and skull-stripped scan.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from nobrainer import models
from nobrainer.bayes.draws import realise
from nobrainer.inference.predict import Sampling, TileResult, predict_volume

CPU = torch.device("cpu")


def head(size: int) -> np.ndarray:
    """An ellipsoid of noise, 150 × 190 × 160 of 256 voxels, in zeros."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 3, indexing="ij")
    radii = (150 / 256, 190 / 256, 160 / 256)
    inside = sum((x / r) ** 2 for x, r in zip(axes, radii, strict=True)) < 1
    noise = np.random.default_rng(0).normal(size=inside.shape)
    return np.where(inside, noise, 0).astype(np.float32)


def network(n_classes: int) -> nn.Module:
    """The Bayesian network that is measured, in eval mode."""
    torch.manual_seed(0)
    return models.build(
        "bayesian_vnet", n_classes=n_classes, base_filters=8, levels=2
    ).eval()


def ours(
    model: nn.Module,
    image: np.ndarray,
    sampling: Sampling,
    n_classes: int,
    dtype: torch.dtype = torch.float32,
) -> dict[str, np.ndarray]:
    """The maps of our prediction."""
    maps = {
        name: np.zeros(image.shape, np.float32)
        for name in ("label", "variance", "entropy", "mutual_information")
    }

    def keep(tile: TileResult) -> None:
        for name, values in maps.items():
            values[tile.where] = getattr(tile, name)

    predict_volume(
        model,
        image,
        sampling,
        n_classes=n_classes,
        background=0.0,
        device=CPU,
        dtype=dtype,
        on_tile=keep,
    )
    return maps


def monai(
    model: nn.Module, image: np.ndarray, n_samples: int, window: int
) -> list[np.ndarray]:
    """Label, variance and entropy by MONAI's inferer, a pass per draw.

    Weights are drawn again in every call of the network, as a Bayesian layer does.
    """
    x = torch.from_numpy(image)[None, None]
    mean = torch.zeros(2, *image.shape)
    square = torch.zeros_like(mean)
    with torch.inference_mode():
        for _ in range(n_samples):
            logits = sliding_window_inference(x, [window] * 3, 4, model, overlap=0.25)
            probabilities = torch.softmax(logits[0], 0)  # type: ignore[index]
            mean += probabilities / n_samples
            square += probabilities.square() / n_samples
    variance = (square - mean.square()).mean(0)
    entropy = torch.special.entr(mean).sum(0)
    return [mean.argmax(0).numpy(), variance.numpy(), entropy.numpy()]


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def flop_rate() -> float:
    """FLOP/s of a convolution of 32 to 32 channels at 64³, best of five."""
    conv = nn.Conv3d(32, 32, 3, padding=1).to(memory_format=torch.channels_last_3d)
    x = torch.randn(2, 32, 64, 64, 64).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        best = min(seconds(lambda: conv(x)) for _ in range(5))
    return 2 * 27 * 32 * 32 * 2 * 64**3 / best


def flop_per_voxel(model: nn.Module) -> float:
    """Multiplications and additions of a draw's convolutions per voxel."""
    plain = realise(model, 0)
    total = 0.0

    def count(conv: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * conv.weight[0].numel() * output.numel()  # type: ignore[union-attr,index,operator]

    for module in plain.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        plain(torch.zeros(1, 1, 32, 32, 32))
    return total / 32**3


def speed(args: argparse.Namespace) -> None:
    """Alternate both in one run; print medians and their ratio."""
    torch.set_num_threads(args.threads)
    model, image = network(2), head(256)
    sampling = Sampling(seed=0, n_samples=10)
    peers = {f"MONAI, windows of {w}³": w for w in (32, 64)}
    times: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    times |= {name: [] for name in peers}
    for _ in range(args.repeats):
        for name in ("float32", "bfloat16"):
            dtype = getattr(torch, name)
            times[name].append(
                seconds(lambda: ours(model, image, sampling, 2, dtype))  # noqa: B023
            )
        # One of the ten draws: each costs the same.
        for name, window in peers.items():
            times[name].append(
                10 * seconds(lambda: monai(model, image, 1, window))  # noqa: B023
            )
    rate, work = flop_rate(), flop_per_voxel(model) * image.size * 10
    middle = {name: statistics.median(values) for name, values in times.items()}
    best_peer = min(middle[name] for name in peers)
    print(f"{args.threads} threads, 256³, 10 draws, medians of {args.repeats}")
    print("| what | seconds | range | Mvoxel·draws/s | times MONAI | of bound |")
    print("|---|---|---|---|---|---|")
    for name, values in times.items():
        s = middle[name]
        print(
            f"| {name} | {s:.1f} | {min(values):.1f} to {max(values):.1f} "
            f"| {10 * image.size / s / 1e6:.1f} | {best_peer / s:.1f} "
            f"| {work / rate / s:.2f} |"
        )
    print(f"bound: {work / 1e12:.2f} TFLOP over all voxels at {rate / 1e9:.0f} GFLOP/s")


def memory(args: argparse.Namespace) -> None:
    """Peak resident memory of fresh processes."""
    print("| classes | draws | peak, MiB |")
    print("|---|---|---|")
    for n_classes, n_samples in ((2, 2), (2, 20), (50, 2)):
        command = [sys.executable, __file__, "peak", str(n_classes), str(n_samples)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"| {n_classes} | {n_samples} | {done.stdout.strip()} |", flush=True)


def peak(args: argparse.Namespace) -> None:
    """Predict once and print this process's peak."""
    torch.set_num_threads(args.threads)
    sampling = Sampling(seed=0, n_samples=args.n_samples)
    ours(network(args.n_classes), head(256), sampling, args.n_classes)
    with open("/proc/self/status") as status:
        line = next(row for row in status if row.startswith("VmHWM"))
    print(f"{int(line.split()[1]) / 1024:.0f}")


def tiles(args: argparse.Namespace) -> None:
    """Compare tile shapes with one window for the whole volume."""
    torch.set_num_threads(args.threads)
    model, image = network(2), head(128)
    whole = ours(model, image, Sampling(0, 3, (128, 128, 128)), 2)
    print("| block_shape | labels that differ | variance | entropy | MI |")
    print("|---|---|---|---|---|")
    for block in ((32, 32, 32), (48, 64, 40), None):
        maps = ours(model, image, Sampling(0, 3, block), 2)
        gap = {k: float(np.abs(maps[k] - whole[k]).max()) for k in maps}
        differ = int((maps["label"] != whole["label"]).sum())
        print(
            f"| {block} | {differ} | {gap['variance']:.1e} | {gap['entropy']:.1e} "
            f"| {gap['mutual_information']:.1e} |"
        )


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    commands = parser.add_subparsers(required=True)
    for run in (speed, memory, peak, tiles):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        if run is speed:
            command.add_argument("--repeats", type=int, default=3)
        if run is peak:
            command.add_argument("n_classes", type=int)
            command.add_argument("n_samples", type=int)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
