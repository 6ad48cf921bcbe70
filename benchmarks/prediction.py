"""What the way of computing changes in a prediction: tiles, and the number format.

    python benchmarks/prediction.py tiles
    python benchmarks/prediction.py formats --model MODEL --scan SCAN
    python benchmarks/prediction.py compiled
    python benchmarks/prediction.py adaptive --model MODEL --scan SCAN

For tiles the network is untrained, with base_filters 8 and levels 2, and the image an
ellipsoid of noise as large as a head in an empty field. `adaptive`: what is saved,
and lost, where each tile stops drawing once the 95 % interval of every voxel's mean
probability is inside a tolerance.
"""

import argparse
from functools import partial
from timeit import repeat, timeit

import numpy as np
import torch
from torch import nn

import nobrainer as nb
from nobrainer import models
from nobrainer.bayes.draws import realise
from nobrainer.inference.predict import Sampling, TileResult
from nobrainer.inference.predictor import Predictor

CPU = torch.device("cpu")


def head(size: int) -> np.ndarray:
    """An ellipsoid of noise, 150 × 190 × 160 of 256 voxels, in zeros."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 3, indexing="ij")
    radii = (150 / 256, 190 / 256, 160 / 256)
    inside = sum((x / r) ** 2 for x, r in zip(axes, radii, strict=True)) < 1
    noise = np.random.default_rng(0).normal(size=inside.shape)
    return np.where(inside, noise, 0).astype(np.float32)


def network(n_classes: int, base_filters: int = 8, levels: int = 2) -> nn.Module:
    """The Bayesian network that is measured, in eval mode."""
    torch.manual_seed(0)
    return models.build(
        "bayesian_vnet", n_classes=n_classes, base_filters=base_filters, levels=levels
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

    Predictor(model, n_classes, sampling, CPU, dtype)(image, 0.0, keep)
    return maps


def tiles(args: argparse.Namespace) -> None:
    """Compare tile shapes with one window for the whole volume."""
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


def compiled(args: argparse.Namespace) -> None:
    """A draw as a plain network: `torch.compile` against eager, a window of 96³."""
    print("| network | number format | compiling, s | eager, ms | compiled, ms |")
    print("|---|---|---|---|---|")
    for base_filters, levels in ((8, 2), (16, 4)):
        for dtype in (torch.float32, torch.bfloat16):
            draw = realise(network(2, base_filters, levels), 0).to(dtype)
            draw.to(memory_format=torch.channels_last_3d)
            window = torch.randn(1, 1, 96, 96, 96, dtype=dtype)
            # Its layers call oneDNN by name, which cannot be compiled: as many
            # convolutions by PyTorch's own, without the norms that a draw has folded.
            plain = models.build("vnet", base_filters=base_filters, levels=levels)
            for module in [*plain.modules()]:
                for name, child in module.named_children():
                    if isinstance(child, nn.BatchNorm3d):
                        setattr(module, name, nn.Identity())
            plain.eval().to(dtype, memory_format=torch.channels_last_3d)
            fast = torch.compile(plain)
            with torch.inference_mode():
                compiling = timeit(partial(fast, window), number=1)
                turns = [
                    [repeat(partial(run, window), number=1, repeat=3) for run in pair]
                    for pair in 3 * [(draw, fast)]
                ]
            eager, new = (1000 * np.median(rows) for rows in zip(*turns, strict=True))
            print(
                f"| {base_filters}, {levels} | {dtype} | {compiling:.0f} | {eager:.0f} "
                f"| {new:.0f} |"
            )


def formats(args: argparse.Namespace) -> None:
    """Compare bfloat16 with float32 on a scan, for a trained model."""
    model = nb.Segmentation.load(args.model)
    wide, narrow = (
        model.predict(args.scan, n_samples=10, seed=0, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    same = wide.label.get_fdata() == narrow.label.get_fdata()
    print(f"labels that agree: {same.mean():.5f}")
    brain = wide.label.get_fdata() > 0
    for name in ("variance", "entropy", "mutual_information"):
        one, other = (getattr(p, name).get_fdata() for p in (wide, narrow))
        gap = np.abs(one - other)
        print(
            f"{name}: mean {one.mean():.5f}, in the brain {one[brain].mean():.5f}; "
            f"difference: mean {gap.mean():.5f}, in the brain {gap[brain].mean():.5f}, "
            f"99.9 % of voxels below {np.quantile(gap, 0.999):.4f}"
        )
    for one, other in zip(wide.structures, narrow.structures, strict=True):
        change = other.volume_mm3 / one.volume_mm3 - 1
        print(f"volume of {one.name}: {100 * change:+.3f} %")


def adaptive(args: argparse.Namespace) -> None:
    """Stop each tile of 32³ at 3, 5 or 10 of 20 draws, by tolerances."""
    model = nb.Segmentation.load(args.model)
    stops = (3, 5, 10, 20)
    maps = {}
    for n in stops:
        # The first draws of a seed are the same for every number.
        p = model.predict(args.scan, n_samples=n, seed=0, precision="float32")
        names = ("label", "entropy", "variance")
        maps[n] = {name: getattr(p, name).get_fdata() for name in names}
    full = maps[stops[-1]]
    corners = np.ndindex(*(-(-side // 32) for side in full["label"].shape))
    tiles = [tuple(slice(32 * c, 32 * c + 32) for c in corner) for corner in corners]
    tiles = [tile for tile in tiles if full["entropy"][tile].max() > 1e-3]
    print(
        "| tolerance | draws of a tile | labels that change | largest entropy error |"
    )
    print("|---|---|---|---|")
    for tolerance in (0.05, 0.1, 0.2, 0.4):
        used, changed, worst = [], 0, 0.0
        for tile in tiles:
            for n in stops:
                error = 1.96 * np.sqrt(maps[n]["variance"][tile].max() / (n - 1))
                if error < tolerance or n == stops[-1]:
                    break
            used.append(n)
            changed += int((maps[n]["label"][tile] != full["label"][tile]).sum())
            gap = np.abs(maps[n]["entropy"][tile] - full["entropy"][tile]).max()
            worst = max(worst, float(gap))
        print(f"| {tolerance} | {np.mean(used):.1f} of 20 | {changed} | {worst:.3f} |")


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    commands = parser.add_subparsers(required=True)
    for run in (tiles, compiled, formats, adaptive):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        if run in (formats, adaptive):
            command.add_argument("--model", required=True)
            command.add_argument("--scan", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.run(args)


if __name__ == "__main__":
    main()
