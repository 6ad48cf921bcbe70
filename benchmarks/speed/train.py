"""Patches per second of a training step: pass, loss with KL, gradient, Adam."""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from benchmarks.speed import peers
from benchmarks.speed.inputs import network
from benchmarks.speed.limits import CHANNELS_LAST, Limits, work_per_voxel
from benchmarks.speed.measure import Case, Options, Table, Work, alternate, seconds
from monai.networks.nets import VNet as MonaiVNet
from torch import Tensor, nn

from nobrainer import models
from nobrainer.bayes.draws import realise
from nobrainer.memory import kept_memory
from nobrainer.training.objective import Elbo, Supervised

BATCH = 2
NETWORKS = ((8, 2), (16, 4))
OURS, PLAIN = "nobrainer bayesian_vnet", "nobrainer vnet"
MODES = {torch.float32: "float32", torch.bfloat16: "bf16-mixed"}
LAYOUTS = ("contiguous", "channels_last_3d")
N_VOXELS = 10 * 256**3
"""Of the training volumes: what the exact ELBO weighs its KL with."""

Step = Callable[[Tensor, Tensor], None]


class Total(nn.Module):
    """One of our objectives as a map from image and label to the loss alone."""

    def __init__(self, objective: Elbo | Supervised) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        return self.objective(image, label).total


def our_objective(name: str, base_filters: int, levels: int) -> nn.Module:
    """The project's objective of a model of its registry."""
    torch.manual_seed(0)
    model = models.build(name, base_filters=base_filters, levels=levels)
    loss = nn.CrossEntropyLoss()
    if hasattr(model, "kl_weight"):
        return Total(Elbo(model, loss, N_VOXELS))
    return Total(Supervised(model, loss))


def make_step(
    objective: nn.Module,
    device: torch.device,
    *,
    channels_last: bool,
    mixed: bool = False,
) -> Step:
    """A step of training as the project's loop does it, on a batch."""
    layout = CHANNELS_LAST if channels_last else torch.contiguous_format
    objective = objective.to(device).train()
    objective.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(objective.parameters(), fused=True)

    def step(image: Tensor, label: Tensor) -> None:
        image = torch.empty_like(image, memory_format=layout).copy_(image)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            loss = objective(image, label)
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(f"the loss is {float(loss.detach())}")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def faster_layout(
    build: Callable[[], nn.Module], image: Tensor, label: Tensor, *, mixed: bool
) -> tuple[Step, dict[str, Any]]:
    """A peer's step in the memory format that suits it better."""
    found: list[tuple[float, str, Step]] = []
    for channels_last in (False, True):
        step = make_step(
            build(), image.device, channels_last=channels_last, mixed=mixed
        )
        step(image, label)
        took = min(seconds(partial(step, image, label), image.device) for _ in "ab")
        found.append((took, LAYOUTS[channels_last], step))
    (best_s, layout, step), (other_s, _, _) = sorted(found, key=itemgetter(0))
    return step, {"memory_format": layout, "other_format": other_s / best_s}


def run(options: Options, limits: Limits) -> Iterator[Table]:
    """A table for each network and size of patch."""
    patches = [(BATCH, 32)] if options.quick else [(BATCH, 32), (BATCH, 64)]
    if options.device.type == "cuda" and not options.quick:
        patches.append((1, 128))
    for shape in NETWORKS:
        for patch in patches:
            yield _table(options, limits, shape, *patch)


def _table(
    options: Options,
    limits: Limits,
    network_shape: tuple[int, int],
    batch: int,
    size: int,
) -> Table:
    base_filters, levels = network_shape
    device = options.device
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 1, size, size, size)
    image = torch.randn(shape, generator=generator).to(device)
    label = torch.randint(0, 2, (batch, *shape[2:]), generator=generator).to(device)
    # Forward, gradient of the input and gradient of the weights.
    passes = 3 * batch * size**3
    plain = realise(network(base_filters=base_filters, levels=levels), 0)
    flop = work_per_voxel(plain, torch.float32).flop
    steps: dict[str, Step] = {}
    works: dict[str, Work] = {}
    facts: dict[str, dict[str, Any]] = {}
    unet, width = peers.unet_of(flop, levels)
    others = {f"MONAI UNet, {width} filters (not Bayesian)": unet}
    if (base_filters, levels) == NETWORKS[-1]:
        others["MONAI VNet (not Bayesian)"] = MonaiVNet(3, 1, 2)
    for dtype in options.dtypes:
        mixed = dtype is torch.bfloat16
        made: dict[str, tuple[nn.Module, Step, dict[str, Any]]] = {}
        for name, model in ((OURS, "bayesian_vnet"), (PLAIN, "vnet")):
            objective = our_objective(model, base_filters, levels)
            step = make_step(objective, device, channels_last=True, mixed=mixed)
            made[name] = plain, step, {"memory_format": LAYOUTS[True]}
        for name, build in peers.bayesian(base_filters, levels, image, label).items():
            made[name] = plain, *faster_layout(build, image, label, mixed=mixed)
        for name, peer in others.items():
            supervised = Total(Supervised(peer, nn.CrossEntropyLoss()))
            build = partial(copy.deepcopy, supervised)
            made[name] = peer, *faster_layout(build, image, label, mixed=mixed)
            relative = work_per_voxel(peer, torch.float32).flop / flop
            made[name][-1]["flop_over_ours"] = relative
        for name, (net, step, fact) in made.items():
            row = f"{name}, {MODES[dtype]}"
            steps[row], facts[row] = step, fact
            works[row] = work_per_voxel(net, dtype).times(passes)
    for step in steps.values():
        step(image, label)
    start = limits.probe()
    # As our loop has it; the peers gain by it too.
    with kept_memory():
        samples = alternate(
            {
                row: partial(seconds, partial(step, image, label), device)
                for row, step in steps.items()
            },
            options.repeats,
        )
    reference = f"{OURS}, float32"
    return Table(
        "train",
        f"train/{base_filters}x{levels}/{size}",
        f"Training step: base_filters {base_filters}, levels {levels}, "
        f"{batch} {'patches' if batch > 1 else 'patch'} of {size}³",
        "patches/s",
        reference,
        {
            row: Case(times, batch, work=works[row], facts=facts[row])
            for row, times in samples.items()
        },
        limits.around(start),
    )
