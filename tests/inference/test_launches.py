"""What prediction asks of a GPU, as far as it can be seen without one."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from launches import CPU, META, Launches
from nobrainer import models
from nobrainer.bayes import draws
from nobrainer.inference import moments, predict, slabs
from nobrainer.inference.intensities import N_BINS, Likelihood
from nobrainer.inference.predict import Sampling, Scaling, TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.inference.windows import make_stream

GIB = 2**30


def _build(name: str, n_classes: int, **args: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build(name, n_classes=n_classes, **args).eval()


def _head(side: int) -> np.ndarray:
    """A box as large as a head, in an empty field."""
    image = np.zeros((side,) * 3, np.float32)
    i, j, k = (slice((side - n) // 2, (side + n) // 2) for n in (150, 190, 160))
    image[i, j, k] = 1
    return image


@pytest.mark.parametrize(
    ("name", "n_classes", "args", "most"),
    [
        ("bayesian_vnet", 2, {"base_filters": 8, "levels": 2}, 39),
        ("bayesian_vnet", 50, {"base_filters": 8, "levels": 2}, 39),
        ("bayesian_vnet", 33, {"base_filters": 16, "levels": 4}, 69),
        ("kwyk", 50, {}, 40),
    ],
)
def test_a_draw_takes_few_launches_and_waits_for_none(name, n_classes, args, most):
    after: list[tuple[int, int]] = []

    def keep(done: int, total: int) -> None:
        after.append((launches.counts.total(), launches.to_cpu))

    predictor = Predictor(
        _build(name, n_classes, **args),
        n_classes,
        Sampling(0, 3, memory_bytes=64 * GIB),
        META,
        torch.bfloat16,
        on_pass=keep,
    )
    tiles: list[TileResult] = []
    with Launches() as launches:
        predictor(_head(256), 0.0, tiles.append)
    # The passes of a draw are its content, in one slab, and the field if there is one.
    n_passes = len(after) // 3
    assert n_passes <= 2
    (before, _), (end, to_cpu) = after[-1 - n_passes], after[-1]
    assert end - before <= most, launches.counts
    assert to_cpu == 0
    # After the last draw its counts leave, and the maps when they are asked for.
    assert launches.to_cpu == 1
    assert tiles[0].statistics.label.is_meta


def _maps(
    model: nn.Module, memory_bytes: int, n_draws: int = 3, **how: Any
) -> tuple[np.ndarray, ...]:
    """All maps of a small head, and the counts."""
    image = np.zeros((40, 44, 36), np.float32)
    image[9:29, 8:31, 7:24] = np.random.default_rng(0).normal(size=(20, 23, 17))
    maps = [np.full(image.shape, np.nan, np.float32) for _ in range(4)]
    classes = np.full((2, 3, *image.shape), np.nan, np.float32)

    def keep(tile: TileResult) -> None:
        names = ("label", "variance", "entropy", "mutual_information")
        for whole, name in zip(maps, names, strict=True):
            whole[tile.where] = getattr(tile, name)
        classes[0][:, *tile.where] = tile.probabilities
        classes[1][:, *tile.where] = tile.votes

    sampling = Sampling(5, n_draws, memory_bytes=memory_bytes)
    predictor = Predictor(model, 3, sampling, torch.device("cpu"), **how)
    counts = predictor(image, 0.0, keep)
    return counts, *maps, *classes


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("bayesian_vnet", {"base_filters": 4, "levels": 2}),
        ("vnet", {"base_filters": 4, "levels": 2, "dropout_rate": 0.5}),
        ("kwyk", {"base_filters": 4, "dilations": [1, 2]}),
        ("unet", {"base_filters": 4, "levels": 2}),
    ],
)
def test_the_way_of_a_gpu_gives_the_same(monkeypatch, name, args):
    model = _build(name, 3, **args)
    table = np.linspace(-1, 1, 3 * N_BINS, dtype=np.float32).reshape(N_BINS, 3)
    how = {
        "scaling": Scaling((1.2, 0.9, 1.0), (0.0, 0.3, -0.2)),
        "evidence": Likelihood(-2.0, 2.0, torch.from_numpy(table)),
    }
    expected = _maps(model, GIB, **how)
    for module in (draws, moments, predict, slabs):
        monkeypatch.setattr(module, "is_remote", lambda device: True)
    monkeypatch.setattr(slabs, "_LEAST_SLAB_BYTES", 1)
    for memory_bytes in (GIB, 3_000_000):
        found = _maps(model, memory_bytes, **how)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_a_single_draw_may_be_handed_over_plane_by_plane(monkeypatch):
    model = _build("bayesian_vnet", 3, base_filters=4, levels=2)
    table = np.linspace(-1, 1, 3 * N_BINS, dtype=np.float32).reshape(N_BINS, 3)
    how = {"evidence": Likelihood(-2.0, 2.0, torch.from_numpy(table))}
    whole = _maps(model, GIB, 1, **how)
    planes: list[int] = []
    begin = moments.RunningMoments._begin

    def note(self: Any, n_classes: int, shape: torch.Size, device: Any) -> None:
        planes.append(shape[0])
        begin(self, n_classes, shape, device)

    monkeypatch.setattr(moments.RunningMoments, "_begin", note)
    monkeypatch.setattr(predict, "_PIECE_BYTES", 1)
    thin = _maps(model, GIB, 1, **how)
    # The field around the content is a pattern of its own, of two planes.
    assert len(planes) > 20 and set(planes) <= {1, 2}
    for one, other in zip(thin, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_the_memory_decides_how_thick_slabs_are():
    model = _build("bayesian_vnet", 50, base_filters=8, levels=2)
    network = draws.Draws(model).network
    stream = make_stream(network, CPU, torch.float32, network)
    core, halo, width = (186, 226, 196), 8, 8

    def slabs_for(
        memory_bytes: int, device: torch.device, n_passes: int = 2
    ) -> slabs.Slabs:
        size = halo, width, 50, n_passes, device, 4, 1, memory_bytes
        return slabs.Slabs(stream, *size)

    assert slabs_for(64 * GIB, META).planes(core) == 186
    assert slabs_for(8 * GIB, META).planes(core) == 93
    assert slabs_for(8 * GIB, META).fit(core)
    # Slabs of about 64 MB are the thinnest, and the statistics alone take 2.1 GB.
    assert slabs_for(1, META).planes(core) == 6
    assert not slabs_for(2_100_000_000, META).fit(core)
    # Those of a single draw leave slab by slab.
    assert slabs_for(500_000_000, META, 1).fit(core)
    # On a CPU the cache decides: 5 planes of 8 channels are 7.1 MB.
    assert slabs_for(64 * GIB, CPU).planes(core) == 5
