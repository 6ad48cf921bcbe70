"""What the way of computing changes in a prediction: tiles, and the number format.

    python benchmarks/prediction.py tiles
    python benchmarks/prediction.py formats --model MODEL --scan SCAN

For tiles the network is untrained, with base_filters 8 and levels 2, and the image an
ellipsoid of noise as large as a head in an empty field.
"""

import argparse

import numpy as np
import torch
from torch import nn

import nobrainer as nb
from nobrainer import models
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


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    commands = parser.add_subparsers(required=True)
    for run in (tiles, formats):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        if run is formats:
            command.add_argument("--model", required=True)
            command.add_argument("--scan", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.run(args)


if __name__ == "__main__":
    main()
