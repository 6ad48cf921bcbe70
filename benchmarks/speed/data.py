"""What share of a training step is spent waiting for patches cut from .nii.gz files."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.speed.inputs import write_heads
from benchmarks.speed.limits import Limits
from benchmarks.speed.measure import Case, Options, Table, alternate, synchronise
from benchmarks.speed.train import BATCH, NETWORKS, make_step, our_objective
from monai.data import CacheDataset, list_data_collate
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    FgBgToIndicesd,
    LoadImaged,
    NormalizeIntensityd,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
    RandGaussianSmoothd,
)
from torch import Tensor
from torch.utils.data import DataLoader

from nobrainer.memory import kept_memory
from nobrainer.processing.dataset import Dataset

BACKGROUND = "nobrainer Dataset, augmented, in a process beside"

Batches = Iterator[tuple[Tensor, Tensor]]
Pairs = list[tuple[str, str]]


class Ours:
    """`Dataset.loader`, as `Segmentation.fit` uses it."""

    def __init__(
        self, pairs: Pairs, size: int, augment: str, n_steps: int, workers: int = 0
    ) -> None:
        per_volume = -(-BATCH * n_steps // len(pairs))
        dataset = Dataset.from_files(pairs, (size,) * 3).batch(BATCH).binarize()
        dataset = dataset.patches(per_volume=per_volume).augment(augment)
        self.loader = dataset.loader(num_workers=workers)
        self.epoch = 0

    def epoch_of_batches(self) -> Batches:
        self.loader.dataset.set_epoch(self.epoch)  # type: ignore[attr-defined]
        self.epoch += 1
        return ((batch["image"], batch["label"]) for batch in self.loader)


class Monai:
    """A `CacheDataset`, two random crops of a cached volume to a batch."""

    def __init__(self, pairs: Pairs, size: int, augment: str, n_steps: int) -> None:
        keys = ["image", "label"]
        changes = [
            RandAffined(
                keys,
                prob=1.0,
                rotate_range=[0.17] * 3,
                scale_range=[0.1] * 3,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandBiasFieldd("image", prob=0.3, coeff_range=(0.0, 0.1)),
            RandAdjustContrastd("image", prob=0.3, gamma=(1 / 1.2, 1.2)),
            RandGaussianNoised("image", prob=0.3, std=0.1),
            RandGaussianSmoothd("image", prob=0.3),
        ]
        crop = RandCropByPosNegLabeld(
            keys,
            "label",
            [size] * 3,
            num_samples=BATCH,
            fg_indices_key="label_fg_indices",
            bg_indices_key="label_bg_indices",
        )
        dataset = CacheDataset(
            [dict(zip(keys, pair, strict=True)) for pair in pairs],
            Compose(
                [
                    LoadImaged(keys),
                    EnsureChannelFirstd(keys),
                    NormalizeIntensityd("image"),
                    FgBgToIndicesd("label"),
                    crop,
                    *(changes if augment != "none" else []),
                ]
            ),
            progress=False,
        )
        self.n_steps = n_steps
        self.loader = DataLoader(
            dataset, batch_size=1, shuffle=True, collate_fn=list_data_collate
        )

    def epoch_of_batches(self) -> Batches:
        endless = itertools.chain.from_iterable(itertools.repeat(self.loader))
        for batch in itertools.islice(endless, self.n_steps):
            image, label = batch["image"].as_tensor(), batch["label"].as_tensor()
            yield image, label[:, 0].long()


def run(options: Options, _: Limits) -> Iterator[Table]:
    """A table for each network and size of patch; reading once comes apart."""
    side, n_volumes, n_steps = (96, 2, 4) if options.quick else (256, 4, 12)
    settings = [
        (shape, size)
        for shape in (NETWORKS[:1] if options.quick else NETWORKS)
        for size in ((32,) if options.quick else (32, 64))
    ]
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_heads(Path(folder), side, n_volumes)
        for shape, size in settings:
            yield _table(options, pairs, side, n_steps, *shape, size)


def _table(
    options: Options,
    pairs: Pairs,
    side: int,
    n_steps: int,
    base_filters: int,
    levels: int,
    size: int,
) -> Table:
    device = options.device
    pipelines: dict[str, Ours | Monai] = {}
    prepared_s = {}
    for maker, name in ((Ours, "nobrainer Dataset"), (Monai, "MONAI CacheDataset")):
        for augment in ("none", "standard"):
            row = name + (", augmented" if augment != "none" else "")
            started = time.perf_counter()
            pipelines[row] = maker(pairs, size, augment, n_steps)
            prepared_s[row] = time.perf_counter() - started
    started = time.perf_counter()
    pipelines[BACKGROUND] = Ours(pairs, size, "standard", n_steps, workers=1)
    prepared_s[BACKGROUND] = time.perf_counter() - started
    objective = our_objective("bayesian_vnet", base_filters, levels)
    step = make_step(objective, device, channels_last=True)
    shares: dict[str, list[float]] = {row: [] for row in pipelines}
    waits: dict[str, list[float]] = {row: [] for row in pipelines}

    def epoch(row: str) -> float:
        """Seconds of an epoch, the wait for its first batch included."""
        waited, steps, started = 0.0, 0, time.perf_counter()
        asked = started
        for image, label in pipelines[row].epoch_of_batches():
            waited += time.perf_counter() - asked
            step(image.to(device), label.to(device))
            synchronise(device)
            steps += 1
            asked = time.perf_counter()
        waited += time.perf_counter() - asked
        took = time.perf_counter() - started
        shares[row].append(waited / took)
        waits[row].append(waited / steps)
        if row == BACKGROUND:
            # After a fork this process copies each page at its first write, which
            # whichever row came next would pay for.
            for image, label in pipelines["nobrainer Dataset"].epoch_of_batches():
                step(image.to(device), label.to(device))
        return took / steps

    # As our loop has it; the peer gains by it too.
    with kept_memory():
        samples = alternate({r: partial(epoch, r) for r in pipelines}, options.few)
    cases = {
        row: Case(
            times,
            BATCH,
            facts={
                "wait_share": statistics.median(shares[row]),
                "wait_share_samples": shares[row],
                "wait_ms_per_step": 1000 * statistics.median(waits[row]),
                "read_once_s": prepared_s[row],
            },
        )
        for row, times in samples.items()
    }
    return Table(
        "data",
        f"data/{base_filters}x{levels}/{size}",
        f"Waiting for data: {len(pairs)} volumes of {side}³ in .nii.gz, "
        f"{BATCH} patches of {size}³, base_filters {base_filters}, levels {levels}",
        "patches/s",
        "nobrainer Dataset",
        cases,
    )
