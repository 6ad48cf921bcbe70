"""Voxels · draws per second of prediction, beside MONAI's inferer."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import psutil
import torch
from benchmarks.speed.inputs import (
    SMALL,
    content_share,
    head,
    network,
    noise,
    predict,
)
from benchmarks.speed.limits import Limits, work_per_voxel
from benchmarks.speed.measure import Case, Options, Table, alternate, seconds
from benchmarks.speed.peers import SlidingWindows
from torch import nn

from nobrainer.bayes.draws import realise
from nobrainer.training.engine import prediction_bytes

WINDOWS = (32, 64, 96)


LARGE = {"base_filters": 16, "levels": 4}


@dataclass(frozen=True)
class Setting:
    """A network, an image, and the numbers of draws to predict it with.

    full: noise everywhere; otherwise a head in an empty field.
    """

    size: int
    n_classes: int
    draws: tuple[int, ...]
    model: str = "bayesian_vnet"
    args: dict[str, int] = field(default_factory=lambda: SMALL)
    full: bool = False

    def key(self, n_samples: int) -> str:
        """What the goals call it."""
        shape = "x".join(map(str, self.args.values())) or self.model
        kind = "noise" if self.full else "head"
        return f"predict/{shape}/{kind}/{self.size}/{self.n_classes}/{n_samples}"

    def title(self, n_samples: int) -> str:
        """What the table is called."""
        kind = "noise everywhere" if self.full else "head in an empty field"
        args = "".join(f", {k} {v}" for k, v in self.args.items())
        return (
            f"Prediction: {self.size}³ {kind}, {n_samples} draws, "
            f"{self.n_classes} classes, {self.model}{args}"
        )


SETTINGS: tuple[Setting, ...] = (
    Setting(128, 2, (1, 3, 10)),
    Setting(128, 50, (1, 3, 10)),
    Setting(256, 2, (1, 3, 10)),
    Setting(256, 50, (1, 3, 10)),
    Setting(256, 2, (3,), full=True),
    Setting(256, 2, (3,), args=LARGE),
)
ON_GPU = (
    Setting(256, 2, (10,), args=LARGE),
    Setting(256, 50, (10,), "kwyk", {}),
)
"""What would take a CPU too long."""
QUICK: tuple[Setting, ...] = (
    Setting(64, 2, (1, 3)),
    Setting(64, 50, (3,)),
    Setting(64, 2, (3,), full=True),
    Setting(64, 2, (1,), args=LARGE),
)


def our_row(dtype: torch.dtype) -> str:
    """What our prediction in a number format is called."""
    return f"nobrainer, {str(dtype).removeprefix('torch.')}"


PLAIN, REDRAWN = "MONAI, one draw as plain network", "MONAI, Bayesian network"
HALVED = f"{PLAIN}, bfloat16"


def run(options: Options, limits: Limits) -> Iterator[Table]:
    """A table for each setting and number of draws."""
    settings = QUICK if options.quick else SETTINGS
    if options.device.type == "cuda" and not options.quick:
        settings += ON_GPU
    for setting in settings:
        yield from _tables(options, limits, setting)


def _tables(options: Options, limits: Limits, setting: Setting) -> list[Table]:
    device = options.device
    model = network(setting.model, n_classes=setting.n_classes, **setting.args)
    plain = realise(model, 0).to(device)
    image = (noise if setting.full else head)(setting.size)
    # A draw of 50 classes at 256³ takes MONAI a minute on two cores.
    long = setting.size >= 256 and device.type == "cpu"
    many_classes = setting.n_classes > 10
    repeats = options.repeats
    if long:
        repeats = max(1, options.few - many_classes)

    def ours(n_samples: int, dtype: torch.dtype) -> Callable[[], object]:
        how = model, image, n_samples, setting.n_classes, device, dtype
        return partial(predict, *how, memory_bytes=prediction_bytes(device))

    cases: dict[tuple[str, int], Callable[[], float]] = {
        (our_row(dtype), n): partial(seconds, ours(n, dtype), device)
        for n in setting.draws
        for dtype in options.dtypes
    }
    for dtype in options.dtypes:
        ours(1, dtype)()
    peers: dict[str, Peer] = {}
    if enough_memory(setting, device):
        networks = {PLAIN: plain, REDRAWN: copy.deepcopy(model).to(device)}
        if options.bfloat16 and not (long and many_classes):
            halved = realise(model, 0).to(device, torch.bfloat16)
            networks[HALVED] = halved
        for row, other in networks.items():
            peers[row] = Peer(other, image, setting.n_classes, device)
        window = peers[PLAIN].fastest_window()
        for row, peer in peers.items():
            peer.windows.window = window
            cases[row, 1] = peer.draw_s
            if not long:
                peer.draw_s()
    start = limits.probe()
    samples = alternate(cases, repeats)
    rates = limits.around(start)
    share = content_share(image, int(model.halo))  # type: ignore[arg-type]
    tables = []
    for n in setting.draws:
        amount = image.size * n
        rows = {}
        for dtype in options.dtypes:
            work = work_per_voxel(plain, dtype).times(amount)
            rows[our_row(dtype)] = Case(
                samples[our_row(dtype), n],
                amount / 1e6,
                work=work,
                content=work.times(share),
            )
        for row, peer in peers.items():
            dtype = torch.bfloat16 if "bfloat16" in row else torch.float32
            rows[row] = Case(
                [peer.fixed_s + n * s for s in samples[row, 1]],
                amount / 1e6,
                work=work_per_voxel(plain, dtype).times(amount),
                facts={"window": peer.windows.window, "scaled_from_one_draw": n > 1},
            )
        tables.append(
            Table(
                "predict",
                setting.key(n),
                setting.title(n),
                "Mvoxel·draws/s",
                our_row(options.dtypes[-1]),
                rows,
                rates,
            )
        )
    return tables


class Peer:
    """Times a draw of MONAI's inferer, and what comes once however many draws.

    The number format is that of the network.
    """

    def __init__(
        self,
        model: nn.Module,
        image: np.ndarray,
        n_classes: int,
        device: torch.device,
    ) -> None:
        dtype = next(model.parameters()).dtype
        x = torch.from_numpy(image)[None, None].to(device, dtype)
        self.device = device
        self.windows = SlidingWindows(model, x, n_classes, WINDOWS[0])
        self.fixed_s = 0.0

    def fastest_window(self) -> int:
        """The fastest of `WINDOWS` that the image is not smaller than."""

        def took_s(window: int) -> float:
            self.windows.window = window
            return self.draw_s()

        side = max(self.windows.image.shape)
        return min((w for w in WINDOWS if w <= side), key=took_s)

    def draw_s(self) -> float:
        """Seconds of one draw; keeps the last seconds of all the rest."""
        start_s = seconds(self.windows.start, self.device)
        draw_s = seconds(self.windows.draw, self.device)
        self.fixed_s = start_s + seconds(self.windows.finish, self.device)
        return draw_s


def enough_memory(setting: Setting, device: torch.device) -> bool:
    """Whether MONAI's way fits: about five arrays of all classes' float32 at once."""
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    return free > 5 * 4 * setting.n_classes * setting.size**3
