"""How fast patches come from a store, and in what memory, as its subjects become many.

    python benchmarks/store.py [--subjects 10 100 1000] [--side 96] [--block 32]
        [--folder DIR] [--monai-most 100] [--step]

Makes stores of simulated heads in a temporary folder, which is removed, and reads
patches from them with `Dataset.from_zarr`: CPU milliseconds a patch, bytes that the
process reads a patch, and the memory that the process has more than before. Beside it
MONAI's pipelines over the same files: `CacheDataset`, which keeps volumes in memory,
and `PersistentDataset`, which keeps them on disk and reads one for every four patches.
Their preprocessing is of the same kind: orientation, spacing and normalisation.

`--step` measures a step of training of the usual network (`bayesian_vnet`, 16 filters,
4 levels, batches of 2) in CPU time of one thread, and the share of the time that such
steps wait for patches of the largest store: of the CPU time without a process that cuts
patches, of the time on the clock with one.

Each line is measured in a process of its own. Times are CPU seconds of that process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import torch
from scipy import ndimage

from nobrainer import Dataset, Segmentation

N_BASE = 5
"""Different heads; those of a store are these, again and again."""
N_CLASSES = 5


def write_heads(folder: Path, side: int) -> list[tuple[Path, Path]]:
    """A few heads of noise with labels of `N_CLASSES` shells, as .nii.gz."""
    pairs = []
    radius = np.linalg.norm(np.indices((side,) * 3) - side / 2, axis=0) / side
    for number in range(N_BASE):
        rng = np.random.default_rng(number)
        bumps = ndimage.gaussian_filter(rng.normal(size=(side,) * 3), 6)
        edges = np.linspace(0.1, 0.45, N_CLASSES)
        labels = (N_CLASSES - np.digitize(radius + bumps, edges)).astype(np.uint8)
        image = 100.0 * labels + rng.normal(0, 15, labels.shape) * (labels > 0)
        pair = folder / f"base-{number}.nii.gz", folder / f"base-{number}_seg.nii.gz"
        nib.save(nib.Nifti1Image(image.astype(np.int16), np.eye(4)), pair[0])
        nib.save(nib.Nifti1Image(labels, np.eye(4)), pair[1])
        pairs.append(pair)
    return pairs


def list_heads(folder: Path, n_subjects: int) -> list[tuple[Path, Path]]:
    """Files of many subjects, hard links to those of a few."""
    pairs = []
    for number in range(n_subjects):
        pair = []
        for end in (".nii.gz", "_seg.nii.gz"):
            link = folder / f"sub-{number:04d}{end}"
            if not link.exists():
                link.hardlink_to(folder / f"base-{number % N_BASE}{end}")
            pair.append(link)
        pairs.append((pair[0], pair[1]))
    return pairs


def from_zarr(folder: Path, n_subjects: int, block: int):
    """Patches of a store, in random order."""
    dataset = Dataset.from_zarr(folder / f"{n_subjects}.zarr", block_shape=(block,) * 3)
    mapping = {value: value for value in range(1, N_CLASSES + 1)}
    return iter(dataset.relabel(mapping).shuffle().patches(per_volume=1000).loader())


def monai_pipeline(folder: Path, n_subjects: int, block: int, kind: str):
    """Patches of MONAI, four of a volume as its tutorials take them."""
    from monai import data, transforms  # noqa: PLC0415

    keys = ["image", "label"]
    side = (block,) * 3
    steps = transforms.Compose(
        [
            transforms.LoadImaged(keys, ensure_channel_first=True),
            transforms.Orientationd(keys, "RAS", labels=None),
            transforms.Spacingd(keys, (1, 1, 1), mode=("bilinear", "nearest")),
            transforms.NormalizeIntensityd("image", nonzero=True),
            transforms.RandCropByPosNegLabeld(
                keys, "label", side, pos=1, neg=1, num_samples=4
            ),
        ]
    )
    files = [
        {"image": str(image), "label": str(label)}
        for image, label in list_heads(folder, n_subjects)
    ]
    if kind == "CacheDataset":
        dataset = data.CacheDataset(files, steps, progress=False)
    else:
        dataset = data.PersistentDataset(files, steps, folder / "persistent")
    loader = data.DataLoader(dataset, batch_size=1, shuffle=True)
    while True:
        yield from loader


def measure(kind: str, folder: Path, n_subjects: int, block: int, n: int) -> dict:
    """CPU ms and bytes read a patch, and memory, after a first round."""
    torch.set_num_threads(1)
    process = psutil.Process()
    begin_bytes = process.memory_info().rss
    begin = time.process_time()
    if kind == "from_zarr":
        batches = from_zarr(folder, n_subjects, block)
    else:
        batches = monai_pipeline(folder, n_subjects, block, kind)
    next(batches)
    start_s = time.process_time() - begin
    if kind == "PersistentDataset":
        for _ in range(n_subjects):
            next(batches)
    begin_read = process.io_counters().read_chars
    begin, n_patches = time.process_time(), 0
    while n_patches < n:
        n_patches += len(next(batches)["image"])
    took_s = time.process_time() - begin
    read = process.io_counters().read_chars - begin_read
    return {
        "start_s": start_s,
        "ms": 1e3 * took_s / n_patches,
        "kb": read / n_patches / 1e3,
        "mb": (process.memory_info().rss - begin_bytes) / 1e6,
    }


def step_ms(block: int) -> float:
    """CPU milliseconds a patch of a training step of the usual network."""
    torch.set_num_threads(1)
    model = Segmentation("bayesian_vnet", {"base_filters": 16, "levels": 4})
    rng = np.random.default_rng(0)
    scan = rng.normal(size=(block,) * 3).astype(np.float32)
    label = (scan > 0).astype(np.uint8)
    pair = [((scan, np.eye(4)), (label, np.eye(4)))]
    dataset = Dataset.from_files(pair, (block,) * 3).patches(per_volume=16)
    took_s = []
    # The first training warms up; what a training costs beside its steps falls away.
    for epochs in (1, 1, 3):
        begin = time.process_time()
        model.fit(dataset, epochs=epochs, verbose=False)
        took_s.append(time.process_time() - begin)
    return 1e3 * (took_s[2] - took_s[1]) / 32


def waiting_share(folder: Path, n_subjects: int, block: int, workers: int) -> float:
    """Share of the time that steps, which only keep a core busy, wait for batches."""
    dataset = Dataset.from_zarr(folder / f"{n_subjects}.zarr", block_shape=(block,) * 3)
    dataset = dataset.binarize().shuffle().batch(2).patches(per_volume=1000)
    batches = iter(dataset.loader(num_workers=workers))
    next(batches)
    step_s = 2e-3 * step_ms(block)
    clock = time.perf_counter if workers else time.process_time
    waited_s, begin = 0.0, clock()
    for _ in range(100):
        asked = clock()
        next(batches)
        waited_s += clock() - asked
        busy = time.process_time()
        while time.process_time() - busy < step_s:
            pass
    return waited_s / (clock() - begin)


def in_process(*args: object) -> dict:
    """What this program prints for one measurement, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--patches", type=int, default=300)
    parser.add_argument("--monai-most", type=int, default=100)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--one", nargs=5)
    args = parser.parse_args()
    if args.one:
        kind, folder, *numbers = args.one
        print(json.dumps(measure(kind, Path(folder), *map(int, numbers))))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_heads(folder, args.side)
        print("| reads | subjects | start, s | ms a patch | kB a patch | MB |")
        print("|---|---|---|---|---|---|")
        for n in args.subjects:
            begin = time.process_time()
            Dataset.from_files(list_heads(folder, n)).to_zarr(folder / f"{n}.zarr")
            print(f"<!-- converted {n}: {time.process_time() - begin:.1f} s -->")
            kinds = ["from_zarr"]
            if n <= args.monai_most:
                kinds += ["CacheDataset", "PersistentDataset"]
            for kind in kinds:
                found = in_process(kind, folder, n, args.block, args.patches)
                print(
                    f"| {kind} | {n} | {found['start_s']:.1f} | {found['ms']:.2f} | "
                    f"{found['kb']:.0f} | {found['mb']:.0f} |",
                    flush=True,
                )
        if args.step:
            print(f"step: {step_ms(args.block):.0f} ms a patch")
            for workers in (0, 1):
                share = waiting_share(folder, args.subjects[-1], args.block, workers)
                print(f"waiting with {workers} workers: {100 * share:.1f} %")


if __name__ == "__main__":
    main()
