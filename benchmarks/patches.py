"""What a training patch costs: an image of a label map, and an augmented patch.

    python benchmarks/patches.py                             # beside MONAI
    python benchmarks/patches.py --other ../earlier/src      # beside another nobrainer
    pip install torchio && python benchmarks/patches.py      # beside TorchIO as well

Each program has a process of its own with one thread, and they take turns, there and
back, so that a slow minute affects all of them. Times are seconds of the processor. The
peers get the closest transforms that they have, on a crop that is cut before. The last
column is the share of these seconds in a step of training with 8 filters, 2 levels and
33 classes: what the step waits for the patch, where nothing makes it beforehand.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from monai import transforms as t

from nobrainer import memory, models
from nobrainer.data import synthesis
from nobrainer.data.augment import Augmentation
from nobrainer.recipe import Synthesis

VALUES = (0, 511, 515, 507, 24, 3, 42, 2, 41, 10, 49, 11, 50, 17, 53, 4, 43)
REPEATS = {32: 24, 48: 24, 64: 16, 96: 8, 128: 5}
Make = Callable[[int], object]
HAS_TORCHIO = find_spec("torchio") is not None
tio = import_module("torchio") if HAS_TORCHIO else None


def shells(side: int) -> torch.Tensor:
    """A head of shells of different labels, as positions in `VALUES`, (I, J, K)."""
    x = torch.linspace(-1, 1, side)
    radius = (x[:, None, None] ** 2 + x[:, None] ** 2 + x**2).sqrt()
    return ((0.8 - radius) * 20).clamp(0, len(VALUES) - 1).to(torch.uint8)


def window(side: int, margin: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch of noise with a margin on each side, and its labels."""
    n = side + 2 * margin
    image = torch.randn(1, n, n, n, generator=torch.Generator().manual_seed(0))
    return image, (image[0] > 0).to(torch.uint8)


def ours(side: int) -> dict[str, Make]:
    """Our images from label maps and our augmented patches."""
    anatomy = synthesis.Anatomy.of(
        VALUES, {v: n for n, v in enumerate((0, *VALUES[4:]))}
    )
    order = torch.tensor([anatomy.values.index(value) for value in VALUES])
    maps = order[shells(256).long()][None].to(torch.uint8)
    block = (side,) * 3
    augmentation = Augmentation.build("standard", block)
    assert augmentation is not None
    image, label = window(side, augmentation.margin[0])
    make = partial(
        synthesis.synthesise,
        maps,
        anatomy,
        Synthesis(),
        spacing_mm=(1.0,) * 3,
        block_shape=block,
    )
    # As a dataset does; earlier builds count in every image.
    if hasattr(synthesis, "count_values"):
        make = partial(make, counts=synthesis.count_values(maps, len(anatomy.values)))
    return {
        "label map": lambda seed: make(seeds=[seed]),
        "augmented": lambda seed: augmentation.apply(
            image, label, floor=-4.0, spread=1.0, seed=seed
        ),
    }


def monai(side: int) -> dict[str, Make]:
    """The closest transforms of MONAI; it has none from labels to intensities."""
    crop = shells(256)[None, :side, :side, :side].float()
    deform = t.Rand3DElastic(
        sigma_range=(5, 7),
        magnitude_range=(50, 150),
        prob=1,
        rotate_range=[0.35] * 3,
        scale_range=[0.15] * 3,
        mode="nearest",
    )
    scan = t.Compose(
        [
            t.RandBiasField(prob=1, coeff_range=(0, 0.3)),
            t.RandGaussianSmooth((0, 0.7), (0, 0.7), (0, 0.7), prob=1),
            t.RandSimulateLowResolution(prob=0.4, zoom_range=(0.3, 1)),
            t.RandRicianNoise(prob=1, std=0.08),
            t.RandAdjustContrast(prob=1, gamma=(1 / 1.5, 1.5)),
        ]
    )

    def from_labels(seed: int) -> object:
        found = deform(crop).as_tensor().long()
        signal = torch.rand(len(VALUES))[found]
        return scan(signal + 0.04 * torch.randn(signal.shape))

    image, label = window(side, 0)
    keys = ["image", "label"]
    change = t.Compose(
        [
            t.RandAffined(
                keys,
                prob=1,
                rotate_range=[0.17] * 3,
                scale_range=[0.1] * 3,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            t.RandBiasFieldd("image", prob=0.3, coeff_range=(0, 0.1)),
            t.RandAdjustContrastd("image", prob=0.3, gamma=(1 / 1.2, 1.2)),
            t.RandGaussianNoised("image", prob=0.3, std=0.1),
            t.RandGaussianSmoothd("image", prob=0.3),
        ]
    )
    return {
        "label map": from_labels,
        "augmented": lambda seed: change({"image": image, "label": label[None]}),
    }


def torchio(side: int) -> dict[str, Make]:
    """The closest transforms of TorchIO."""
    crop = shells(256)[None, :side, :side, :side]
    subject = tio.Subject(label=tio.LabelMap(tensor=crop))
    from_labels = tio.Compose(
        [
            tio.RandomAffine(scales=0.15, degrees=20),
            tio.RandomElasticDeformation(max_displacement=5),
            tio.RandomLabelsToImage(label_key="label", image_key="image"),
            tio.RandomBiasField(coefficients=0.3),
            tio.RandomBlur(std=(0, 0.7)),
            tio.RandomAnisotropy(p=0.4, downsampling=(1.5, 5)),
            tio.RandomNoise(std=(0, 0.08)),
            tio.RandomGamma(log_gamma=0.4),
        ]
    )
    image, label = window(side, 0)
    pair = tio.Subject(
        image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=label[None])
    )
    change = tio.Compose(
        [
            tio.RandomAffine(scales=0.1, degrees=10),
            tio.RandomBiasField(p=0.3, coefficients=0.1),
            tio.RandomGamma(p=0.3, log_gamma=0.2),
            tio.RandomBlur(p=0.3, std=(0, 0.75)),
            tio.RandomNoise(p=0.3, std=(0, 0.1)),
        ]
    )
    return {
        "label map": lambda seed: from_labels(subject),
        "augmented": lambda seed: change(pair),
    }


def step(side: int) -> dict[str, Make]:
    """A step of training a small network with a patch of two."""
    network = models.build("bayesian_vnet", n_classes=33, base_filters=8, levels=2)
    network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters())
    image = torch.randn(2, 1, side, side, side)
    image = torch.empty_like(image, memory_format=torch.channels_last_3d).copy_(image)
    truth = torch.randint(0, 33, (2, side, side, side))

    def train(seed: int) -> object:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), truth).backward()
        return optimizer.step()

    return {"step": train}


MAKERS = {"ours": ours, "MONAI": monai, "TorchIO": torchio, "step": step}


def serve(name: str) -> None:
    """Print the seconds of what is asked for on standard input: a kind and a side."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # Earlier builds have it elsewhere.
    here = hasattr(memory, "kept_memory")
    holder = memory if here else import_module("nobrainer.training.memory")
    made: dict[int, dict[str, Make]] = {}
    for line in sys.stdin:
        kind, side_text = line.rsplit(maxsplit=1)
        side = int(side_text)
        if side not in made:
            made = {side: MAKERS[name](side)}
        make, n = made[side][kind], REPEATS.get(side, 3)
        # As our training does; the memory goes back before another program's turn.
        with holder.kept_memory():
            make(0)
            begin = time.process_time()
            for seed in range(n):
                make(seed)
            took = time.process_time() - begin
        print(took / n, flush=True)


class Side:
    """A process that makes patches."""

    def __init__(self, name: str, source: Path | None = None) -> None:
        variables = {} if source is None else {"PYTHONPATH": str(source.resolve())}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, kind: str, side: int) -> float:
        """Processor seconds of one patch of a kind."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{kind} {side}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, help="`src` of another nobrainer")
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 96, 128])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    programs = {"ours": Side("ours")}
    if args.other:
        programs["other"] = Side("ours", args.other)
    programs["MONAI"] = Side("MONAI")
    if HAS_TORCHIO:
        programs["TorchIO"] = Side("TorchIO")
    steps = Side("step")
    print("| patch | side | program | ms | time / ours | of a step |")
    print("|---|---|---|---|---|---|")
    for kind in ("label map", "augmented"):
        for side in args.sides:
            found: dict[str, list[float]] = {name: [] for name in programs}
            for round_ in range(args.repeats):
                order = list(programs)[:: 1 if round_ % 2 else -1]
                for name in order:
                    found[name].append(programs[name].seconds(kind, side))
            a_step = steps.seconds("step", side) / 2
            for name, times in found.items():
                middle = statistics.median(times)
                pairs = zip(times, found["ours"], strict=True)
                ratio = statistics.median(one / us for one, us in pairs)
                share = middle / (middle + a_step)
                print(
                    f"| {kind} | {side}³ | {name} | {1000 * middle:.1f} | {ratio:.2f} "
                    f"| {share:.1%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
