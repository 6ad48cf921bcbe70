"""What half precision of a model's file changes in its predictions.

The model is saved in each format, loaded, and applied to a scan with the same draws.
It must be one whose file is float32.

    python benchmarks/half.py --model BUNDLE --scan FILE
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

import nobrainer as nb
from nobrainer.recipe import WeightsFormat


class Maps(NamedTuple):
    """Label, entropy and variance of every voxel, and the size of the model's file."""

    label: np.ndarray
    entropy: np.ndarray
    variance: np.ndarray
    size_mb: float


def predict(
    model: nb.Segmentation, kept: WeightsFormat, scan: Path, n_samples: int, seed: int
) -> Maps:
    """The maps of a scan after the model went through a file of this format."""
    with tempfile.TemporaryDirectory() as folder:
        saved = model.save(Path(folder) / "model", weights=kept)
        size_mb = (saved / "weights.safetensors").stat().st_size / 1e6
        loaded = nb.Segmentation.load(saved)
    label, variance, entropy = loaded.predict(scan, n_samples=n_samples, seed=seed)
    return Maps(
        np.asarray(label.dataobj),
        entropy.get_fdata(dtype=np.float32),
        variance.get_fdata(dtype=np.float32),
        size_mb,
    )


def least_dice(one: np.ndarray, other: np.ndarray) -> float:
    """The Dice of the structure on which two label maps agree least."""
    scores = []
    for value in np.unique(one)[1:]:
        in_one, in_other = one == value, other == value
        shared = 2 * np.count_nonzero(in_one & in_other)
        scores.append(shared / (np.count_nonzero(in_one) + np.count_nonzero(in_other)))
    return min(scores)


def main() -> None:
    """Print a table, a format a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--n-samples", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = nb.Segmentation.load(args.model)
    whole, *halves = get_args(WeightsFormat)
    single = predict(model, whole, args.scan, args.n_samples, args.seed)
    titles = (
        *("format", "MB", f"labels that differ, of {np.count_nonzero(single.label)}"),
        *("least Dice", "entropy, most", "entropy, mean", "variance, most"),
    )
    print("|", " | ".join(titles), "|")
    print("|---" * len(titles) + "|")
    print(f"| {whole} | {single.size_mb:.2f}", "| " * (len(titles) - 1) + "|")
    for kept in halves:
        half = predict(model, kept, args.scan, args.n_samples, args.seed)
        entropy = np.abs(half.entropy - single.entropy)
        cells = (
            kept,
            f"{half.size_mb:.2f}",
            f"{np.count_nonzero(half.label != single.label)}",
            f"{least_dice(single.label, half.label):.4f}",
            f"{entropy.max():.4f}",
            f"{entropy.mean(dtype=float):.1e}",
            f"{np.abs(half.variance - single.variance).max():.1e}",
        )
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
