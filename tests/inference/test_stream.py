"""Running slab by slab gives what the plain network gives on the whole field."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nobrainer import models
from nobrainer.bayes.draws import Draws
from nobrainer.inference.stream import Stream
from nobrainer.inference.tiles import NOWHERE, Box, outline
from nobrainer.inference.windows import Windows
from nobrainer.models.norm import BatchNorm3d
from small_models import MONAI

CPU = torch.device("cpu")
FIELD = 0.3
SHAPE = (40, 36, 44)
CONTENT: Box = ((9, 30), (11, 25), (8, 35))
WHOLE: Box = ((0, 40), (0, 36), (0, 44))
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "vnet": ("vnet", {"base_filters": 4, "levels": 3}),
    "one level": ("vnet", {"base_filters": 4, "levels": 1}),
    "dropout": ("vnet", {"base_filters": 4, "levels": 2, "dropout_rate": 0.5}),
    "gates": (
        "vnet",
        {
            "base_filters": 4,
            "levels": 2,
            "dropout_rate": 0.5,
            "dropout_type": "concrete",
        },
    ),
    "bayesian_vnet": ("bayesian_vnet", {"base_filters": 4, "levels": 2}),
    "meshnet": ("meshnet", {"base_filters": 5, "dilations": [1, 2, 4, 1]}),
    "kwyk": ("kwyk", {"base_filters": 6, "dilations": [1, 2, 1]}),
    "unet": ("unet", {"base_filters": 4, "levels": 3}),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def _drawn(name: str) -> tuple[nn.Module, int]:
    """A draw with uneven batch norms, and how far around the image it is compared."""
    entry, args = NETWORKS[name]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = models.build(entry, n_classes=3, **args).eval()
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm3d):
                assert norm.running_mean is not None and norm.running_var is not None
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                norm.bias.normal_()
    return Draws(model).set(3).network, model.halo + 2 * model.stride


def _image() -> torch.Tensor:
    image = np.full(SHAPE, FIELD, np.float32)
    inside = tuple(slice(a, b) for a, b in CONTENT)
    image[inside] = np.random.default_rng(0).normal(size=image[inside].shape)
    return torch.from_numpy(image)


@torch.inference_mode()
def _plain(network: nn.Module, margin: int) -> torch.Tensor:
    padded = torch.full([n + 2 * margin for n in SHAPE], FIELD)
    inner = tuple(slice(margin, margin + n) for n in SHAPE)
    padded[inner] = _image()
    return network(padded[None, None])[:, :, *inner]


@torch.inference_mode()
def _streamed(
    stream: Stream | Windows,
    content: Box,
    core: Box,
    planes: int,
    rows: np.ndarray | None = None,
) -> torch.Tensor:
    slabs = stream.plan(content, core, planes, rows)
    layer = stream.last_layer
    made = [
        slab.clone() if layer is None else layer(slab)
        for slab in stream.run(_image(), FIELD)
    ]
    assert [m.shape[2] for m in made] == [b - a for a, b in slabs]
    return torch.cat(made, 2)


@each_network
@pytest.mark.parametrize(
    ("core", "planes"),
    [
        (WHOLE, 40),
        (WHOLE, 7),
        (WHOLE, 1),
        (((8, 24), (16, 36), (3, 44)), 5),
        # No content is here, but some may be in reach.
        (((32, 40), (30, 36), (38, 44)), 4),
    ],
)
def test_slabs_of_any_box_are_those_of_the_whole_field(name, core, planes):
    network, margin = _drawn(name)
    where = tuple(slice(a, b) for a, b in core)
    expected = _plain(network, margin)[:, :, *where]
    found = _streamed(Stream(network, CPU, torch.float32), CONTENT, core, planes)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@each_network
@pytest.mark.parametrize("planes", [1, 7, 40])
def test_only_the_part_of_a_plane_near_content_is_computed(name, planes, monkeypatch):
    corners = _image()
    # What is left of the content lies in two corners of the box that holds it.
    corners[9:21, 16:25] = corners[15:30, :18] = corners[:, :, 18:24] = FIELD
    monkeypatch.setitem(globals(), "_image", lambda: corners)
    network, margin = _drawn(name)
    rows = outline(corners.numpy(), np.float32(FIELD), CONTENT)
    stream = Stream(network, CPU, torch.float32)
    found = _streamed(stream, CONTENT, WHOLE, planes, rows)
    torch.testing.assert_close(found, _plain(network, margin), rtol=0, atol=2e-6)


@each_network
def test_the_size_of_a_slab_does_not_matter(name):
    stream = Stream(_drawn(name)[0], CPU, torch.float32)
    one, other = (_streamed(stream, CONTENT, WHOLE, planes) for planes in (3, 40))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@each_network
def test_content_may_be_taken_to_be_larger_than_it_is(name):
    stream = Stream(_drawn(name)[0], CPU, torch.float32)
    one, other = (_streamed(stream, c, WHOLE, 8) for c in (CONTENT, WHOLE))
    torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


@each_network
def test_a_plan_serves_one_draw_after_another(name):
    entry, args = NETWORKS[name]
    draws = Draws(models.build(entry, n_classes=3, **args).eval())
    stream = Stream(draws.network, CPU, torch.float32)
    stream.plan(CONTENT, WHOLE, 8)
    found = []
    with torch.inference_mode():
        for seed in (1, 2, 1):
            draws.set(seed)
            slabs = stream.run(_image(), FIELD)
            found.append(torch.cat([slab.clone() for slab in slabs], 2))
    assert found[0].equal(found[2])


@each_network
def test_far_from_content_the_output_repeats_with_the_grid(name):
    network, margin = _drawn(name)
    stream = Stream(network, CPU, torch.float32)
    field = _streamed(stream, NOWHERE, WHOLE, 8)
    padded = torch.full((1, 1, *(n + 2 * margin for n in SHAPE)), FIELD)
    inner = (slice(margin, margin + n) for n in SHAPE)
    with torch.inference_mode():
        plain = network(padded)[:, :, *inner]
    torch.testing.assert_close(field, plain, rtol=0, atol=2e-6)
    spread = field.flatten(2).std(2).max()
    assert (spread < 1e-6) == stream.is_constant
    assert stream.is_constant == (name != "unet")


def test_operations_and_memory_are_those_by_hand():
    args = {"base_filters": 5, "dilations": [1, 2]}
    network = Draws(models.build("meshnet", n_classes=3, **args)).network
    stream = Stream(network, CPU, torch.float32)
    core: Box = ((0, 10), (0, 12), (0, 14))
    stream.plan(((-99, 99),) * 3, core, 2)
    # The second layer is wanted in the core, the first one two voxels around it.
    first, second = 14 * 16 * 18, 10 * 12 * 14
    work = 27 * 1 * 5 * first + 27 * 5 * 5 * second + 5 * 3 * second
    assert stream.flop == 2 * work
    # The second layer makes 2 planes of 6 of the first, and these, 2 at a time as well,
    # of 4 of the image; buffers are a quarter larger.
    image, one, two = 5 * 18 * 20, 5 * 7 * 16 * 18, 5 * 2 * 12 * 14
    assert stream.n_bytes == 4 * (image + one + two)


def test_where_nothing_is_to_see_nothing_is_computed():
    stream = Stream(_drawn("vnet")[0], CPU, torch.float32)
    stream.plan(NOWHERE, WHOLE, 8)
    head = 2 * 4 * 3 * int(np.prod(SHAPE))
    assert stream.flop == head
    stream.plan(((0, 1), (0, 1), (0, 1)), ((1000, 1010), (0, 10), (0, 10)), 8)
    assert stream.flop == 2 * 4 * 3 * 1000


@pytest.mark.parametrize("name", sorted(set(models.MODELS) - {"ensemble", *MONAI}))
def test_every_model_of_the_registry_runs_slab_by_slab(name):
    model = models.build(name, n_classes=3)
    assert model.streams
    Stream(Draws(model).network, CPU, torch.float32)


@each_network
@pytest.mark.parametrize("core", [WHOLE, ((5, 24), (16, 35), (3, 44))])
def test_windows_of_a_network_that_is_not_known_are_as_exact(name, core):
    network, margin = _drawn(name)
    carried = {n: getattr(network, n) for n in ("halo", "stride", "width")}
    windows = Windows(network, CPU, torch.float32, **carried)
    where = tuple(slice(a, b) for a, b in core)
    expected = _plain(network, margin)[:, :, *where]
    found = _streamed(windows, CONTENT, core, 7)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_a_norm_that_no_convolution_takes_up_is_an_operation_of_its_own():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), BatchNorm3d(3)]
    layers[2].running_mean.copy_(torch.tensor([0.3, -1.0, 2.0]))
    network = Draws(nn.Sequential(*layers).eval()).network
    assert any(isinstance(m, BatchNorm3d) for m in network.modules())
    found = _streamed(Stream(network, CPU, torch.float32), CONTENT, WHOLE, 7)
    torch.testing.assert_close(found, _plain(network, 2), rtol=0, atol=2e-6)


class _WithUnused(nn.Module):
    """A network with a branch that its output does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused, self.last = (
            nn.Conv3d(n, 2, 3, padding=1) for n in (1, 2, 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        self.unused(torch.relu(x))
        return self.last(x)


def test_what_the_output_does_not_need_is_not_computed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Draws(_WithUnused().eval()).network
    stream = Stream(network, CPU, torch.float32)
    found = _streamed(stream, CONTENT, WHOLE, 7)
    torch.testing.assert_close(found, _plain(network, 4), rtol=0, atol=2e-6)


def test_an_operation_that_is_not_known_to_be_local_is_refused():
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.InstanceNorm3d(2))
    with pytest.raises(NotImplementedError, match="not known to be local"):
        Stream(Draws(network).network, CPU, torch.float32)


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_runs_in_bfloat16():
    network = _drawn("vnet")[0].to(torch.bfloat16)
    found = _streamed(Stream(network, CPU, torch.bfloat16), CONTENT, WHOLE, 8)
    assert found.dtype == torch.bfloat16
    expected = _streamed(
        Stream(_drawn("vnet")[0], CPU, torch.float32), CONTENT, WHOLE, 8
    )
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
    assert (found - expected).abs().mean() < 0.01 * expected.abs().mean()
