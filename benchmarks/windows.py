"""How long a patch of one scan takes, from a compressed file and from Zarr groups.

The scan is a synthetic head of 1 mm with its labels. Milliseconds of the processor for
a pair of patches, the median of three runs.

    python benchmarks/windows.py
"""

import statistics
import tempfile
import time
from pathlib import Path

from nobrainer.data.phantom import write_subjects
from nobrainer.io import nifti_to_zarr
from nobrainer.processing.dataset import PatchDataset

RUNS = 3


def milliseconds(entry: dict[str, Path], block: int, n_patches: int) -> float:
    """Time for a pair of patches: image and labels."""
    patches = PatchDataset([entry], (block,) * 3, n_patches, binarize=True)
    times = []
    for epoch in range(RUNS):
        patches.set_epoch(epoch)
        start = time.process_time()
        for number in range(n_patches):
            patches[number]
        times.append(1000 * (time.process_time() - start) / n_patches)
    return statistics.median(times)


def main() -> None:
    """Print a table, a source a row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        [(image, label)] = write_subjects(folder, 1, 1.0)
        entry = {"image": image, "label": label}
        print("| patches from | 32³, ms | 64³, ms |\n|---|---|---|")
        show(".nii.gz", entry, n_patches=5)
        for side in (32, 64):
            groups = {
                kind: nifti_to_zarr(path, folder / f"{kind}-{side}.zarr", (side,) * 3)
                for kind, path in entry.items()
            }
            show(f"Zarr, chunks of {side}³", groups, n_patches=50)


def show(source: str, entry: dict[str, Path], n_patches: int) -> None:
    """Print the row of a source."""
    small, large = (milliseconds(entry, block, n_patches) for block in (32, 64))
    print(f"| {source} | {small:.1f} | {large:.1f} |", flush=True)


if __name__ == "__main__":
    main()
