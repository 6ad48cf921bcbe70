"""How much wider volumes spread when a draw of the weights holds for the whole scan.

The same draws of the same tiles are added up in three ways: tile by tile the same
draw (as prediction does), another draw in each tile, another draw in each batch of
8 tiles. Which draws meet is a random permutation for each tile or batch.

    python benchmarks/coherence.py --model BUNDLE --scan FILE

With several models or scans, the table holds medians over all pairs of them.
"""

import argparse
import math
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from compare import spread, write_json

import nobrainer as nb
from nobrainer.data.preprocess import background_value, preprocess_image
from nobrainer.inference.predict import Sampling
from nobrainer.inference.predictor import Predictor
from nobrainer.io import read_image

BLOCK = (32, 32, 32)
TILES_PER_BATCH = 8
N_PERMUTATIONS = 1000
COLUMNS = {
    "mean_ml": ("mean, ml", 1),
    "sd_coherent_ml": ("SD coherent, ml", 3),
    "sd_batch_ml": ("SD per batch, ml", 3),
    "sd_tile_ml": ("SD per tile, ml", 3),
    "ratio_batch": ("coherent / per batch", 2),
    "ratio_tile": ("coherent / per tile", 2),
    "variance_ml2": ("variance coherent, ml²", 4),
    "tile_variances_ml2": ("sum of tile variances, ml²", 4),
    "tile_covariances_ml2": ("sum of tile covariances, ml²", 4),
}


def volumes_of_tiles(
    segmentation: nb.Segmentation, scan: Path, n_samples: int, seed: int
) -> np.ndarray:
    """Volume (draws, tiles, classes) in ml of each class in each tile of each draw."""
    volume = preprocess_image(read_image(scan), segmentation.recipe_.preprocess)
    n_classes = segmentation.recipe_.data.n_classes
    counts: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)

    def count(
        draw: int, where: tuple[slice, slice, slice], logits: torch.Tensor
    ) -> None:
        labels = logits.argmax(0).flatten()
        tile = tuple(part.start for part in where)
        counts[tile].append(torch.bincount(labels, minlength=n_classes).numpy())

    sampling, cpu = Sampling(seed, n_samples, BLOCK), torch.device("cpu")
    Predictor(segmentation.model_, n_classes, sampling, cpu)(
        volume.data,
        background_value(volume.data),
        lambda tile: None,
        on_logits=count,
    )
    voxel_ml = volume.geometry.voxel_mm3 / 1000
    return np.stack(list(counts.values()), axis=1) * voxel_ml


def redrawn_sd(tiles: np.ndarray, per_batch: int, seed: int) -> float:
    """Root mean square SD of volumes whose draw changes every `per_batch` tiles.

    Args:
        tiles: (draws, tiles) volumes of one class.
    """
    rng = np.random.default_rng(seed)
    starts = np.arange(0, tiles.shape[1], per_batch)
    batches = np.add.reduceat(tiles, starts, axis=1)
    variances = [
        rng.permuted(batches, axis=0).sum(1).var(ddof=1) for _ in range(N_PERMUTATIONS)
    ]
    return float(np.sqrt(np.mean(variances)))


def compare_ways(
    model: Path, scan: Path, n_samples: int, seed: int
) -> dict[str, dict[str, float]]:
    """The figures of each structure of one scan."""
    torch.set_num_threads(1)
    segmentation = nb.Segmentation.load(model)
    volumes = volumes_of_tiles(segmentation, scan, n_samples, seed)
    figures = {}
    for index, name in list(enumerate(segmentation.labels_.names))[1:]:
        tiles = volumes[:, :, index]
        whole = tiles.sum(1)
        sd = float(whole.std(ddof=1))
        sd_batch = redrawn_sd(tiles, TILES_PER_BATCH, seed)
        sd_tile = redrawn_sd(tiles, 1, seed)
        covariance = np.cov(tiles, rowvar=False, ddof=1)
        figures[name] = {
            "mean_ml": float(whole.mean()),
            "sd_coherent_ml": sd,
            "sd_batch_ml": sd_batch,
            "sd_tile_ml": sd_tile,
            "ratio_batch": sd / sd_batch if sd_batch else math.nan,
            "ratio_tile": sd / sd_tile if sd_tile else math.nan,
            "variance_ml2": sd**2,
            "tile_variances_ml2": float(covariance.trace()),
            "tile_covariances_ml2": float(covariance.sum() - covariance.trace()),
        }
    return figures


def main() -> None:
    """Print a table, a structure a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, nargs="+", required=True)
    parser.add_argument("--scan", type=Path, nargs="+", required=True)
    parser.add_argument("--n-samples", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the raw figures to this file")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        jobs = {
            (model, scan): pool.submit(
                compare_ways, model, scan, args.n_samples, args.seed
            )
            for model, scan in product(args.model, args.scan)
        }
        results = {pair: job.result() for pair, job in jobs.items()}
    rows = [
        {"model": str(model), "scan": str(scan), "structure": structure} | figures
        for (model, scan), structures in results.items()
        for structure, figures in structures.items()
    ]
    write_json(args.json, rows)
    print("| structure |", " | ".join(title for title, _ in COLUMNS.values()), "|")
    print("|---|" + "---|" * len(COLUMNS))
    for structure in dict.fromkeys(row["structure"] for row in rows):
        mine = [row for row in rows if row["structure"] == structure]
        cells = [
            spread([float(row[column]) for row in mine], digits)
            for column, (_, digits) in COLUMNS.items()
        ]
        print(f"| {structure} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
