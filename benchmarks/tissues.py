"""Skull-stripped heads with labels of tissues, segmented by a model of structures.

    python benchmarks/tissues.py --data DIR

`--data` is a folder with two files for each head on one grid: NAME_SS.nii.gz, a scan
without skull, and NAME_classified.nii.gz, whose values are 1 fluid, 2 grey matter and
3 white matter, as in OASIS-1. The structures of the model are grouped: cerebral and
cerebellar white matter with the corpus callosum; the cortices of both and the deep grey
matter, see `benchmarks/brains.py`.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch

import nobrainer as nb
from brains import GREY, WHITE
from nobrainer.io import read_labels

TISSUES = {"white": (3, WHITE), "grey": (2, GREY)}


def main() -> None:
    """Print the Dice of each tissue of each head, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="brain")
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = nb.Segmentation.load(args.model)
    rows = []
    for scan in sorted(args.data.glob("*_SS.nii.gz")):
        found = model.predict(scan, n_samples=args.draws, seed=0, verbose=False)
        ids = np.asarray(found.label.dataobj)
        truth = read_labels(
            scan.with_name(scan.name.replace("_SS", "_classified"))
        ).data
        row = {}
        for tissue, (value, members) in TISSUES.items():
            own, true = np.isin(ids, members), truth == value
            row[tissue] = float(2 * (own & true).sum() / (own.sum() + true.sum()))
        rows.append(row)
        print(scan.name, {name: round(dice, 3) for name, dice in row.items()})
    if not rows:
        raise SystemExit(f"{args.data}: there is no NAME_SS.nii.gz")
    for tissue in TISSUES:
        dice = [row[tissue] for row in rows]
        print(
            f"{tissue}: median {statistics.median(dice):.3f} of {len(dice)}, "
            f"{min(dice):.3f} to {max(dice):.3f}"
        )


if __name__ == "__main__":
    main()
