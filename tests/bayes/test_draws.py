"""A draw is a plain network."""

import copy
import math

import pyro.poutine as poutine
import pytest
import torch
from torch import nn

from bayesian_cases import same_weights, small_net, weights_of
from launches import Watching
from nobrainer.bayes.drawn_layers import ChannelMask
from nobrainer.bayes.draws import Draws, is_stochastic, mix_seed, realise
from nobrainer.bayes.layers import (
    BayesianLayer,
    BayesianLinear,
    name_sites,
)


class _Channels(Watching):
    """Lists how many channels each convolution of oneDNN makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mkldnn_convolution.default:
            self.made.append(made.shape[1])
        return made


def test_a_seed_alone_decides_the_draw():
    net = small_net()
    first = weights_of(realise(net, 3))
    torch.manual_seed(99)
    torch.randn(10)
    assert same_weights(weights_of(realise(net.eval(), 3)), first)
    assert same_weights(weights_of(realise(net.train(), 3)), first)
    draws = Draws(net)
    for seed in (8, None, 3):
        network = draws.set(seed).network
    assert same_weights(weights_of(network), first)
    assert not same_weights(weights_of(realise(net, 4)), first)
    x = torch.rand(1, 1, 6, 6, 6)
    assert realise(net, 3)(x).equal(network(x))


def test_a_draw_leaves_the_model_and_the_random_state_alone():
    net = small_net().train()
    net.body[4].requires_grad_(False)
    before = weights_of(net)
    flags = [p.requires_grad for p in net.parameters()]
    x = torch.rand(1, 1, 6, 6, 6)
    state = torch.get_rng_state()
    network = realise(net, 0)
    network(x)
    assert torch.get_rng_state().equal(state)
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(7.0)
    assert same_weights(weights_of(net), before)
    assert [p.requires_grad for p in net.parameters()] == flags
    assert net.training and not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_a_draw_is_a_plain_network():
    network = realise(small_net(), 0)
    assert not any(isinstance(m, BayesianLayer) for m in network.modules())
    assert not any(isinstance(m, nn.BatchNorm3d) for m in network.modules())
    assert not is_stochastic(network)
    trace = poutine.trace(network).get_trace(torch.rand(1, 1, 4, 4, 4))
    assert not trace.stochastic_nodes


def test_a_draw_follows_the_posterior_with_independent_noise():
    layers = name_sites(
        nn.Sequential(*(BayesianLinear(40, 50, posterior_scale=1.0) for _ in range(2)))
    )
    noises = []
    for seed in (0, 1):
        network = realise(layers, seed)
        for layer, plain in zip(layers, network, strict=True):
            q = layer.posteriors()["weight"]
            noises.append(((plain.weight - q.mean) / q.scale).detach().flatten())
    noise = torch.stack(noises)
    assert noise.mean(1).abs().max() < 4 / math.sqrt(2000)
    assert (noise.std(1) - 1).abs().max() < 4 / math.sqrt(4000)
    correlation = torch.corrcoef(noise) - torch.eye(4)
    assert correlation.abs().max() < 4 / math.sqrt(2000)


def test_a_draw_gives_what_the_conditioned_model_gives():
    net = small_net().eval()
    net.body[3].p = 0.0
    plain = copy.deepcopy(net)
    # Without the norm, what the draw holds is what was drawn.
    plain.body[1] = nn.Identity()
    values = realise(plain, 5).state_dict()
    x = torch.rand(2, 1, 7, 6, 5)
    sites = poutine.trace(net).get_trace(x).stochastic_nodes
    conditioned = poutine.condition(net, {k: values[k] for k in sites})
    with torch.no_grad():
        torch.testing.assert_close(
            realise(net, 5)(x), conditioned(x), rtol=1e-5, atol=1e-5
        )


def test_the_posterior_mean_is_the_model_with_its_means():
    net = small_net().eval()
    means = {
        f"{name}.{weight}": q.mean
        for name, layer in net.named_modules()
        if isinstance(layer, BayesianLayer)
        for weight, q in layer.posteriors().items()
    }
    x = torch.rand(2, 1, 7, 6, 5)
    with torch.no_grad():
        expected = poutine.condition(net, means)(x)
        torch.testing.assert_close(
            realise(net, None)(x), expected, rtol=1e-5, atol=1e-5
        )


def test_batch_norm_folds_into_a_plain_convolution():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(2, 5, 3, bias=False), nn.BatchNorm3d(5))
    net(3 * torch.randn(4, 2, 6, 6, 6) + 1)
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([-2.0, 0.0, 0.5, 1.0, 3.0]))
        net[1].bias.copy_(torch.randn(5))
    x = torch.randn(1, 2, 6, 6, 6)
    network = realise(net.eval(), None)
    torch.testing.assert_close(network(x), net(x), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm3d) for m in network.modules())


@pytest.mark.parametrize(
    "args",
    [
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "circular", "stride": 2},
        {"padding": "same", "dilation": 2},
        {"groups": 2, "stride": (1, 2, 3), "padding": (0, 1, 2), "bias": False},
    ],
    ids=str,
)
def test_a_plain_convolution_keeps_its_options_in_a_draw(args):
    conv = nn.Conv3d(4, 6, 3, **args)
    x = torch.rand(1, 4, 8, 9, 7)
    torch.testing.assert_close(realise(conv, 0)(x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("args", "side", "makes_pairs"),
    [
        ({"kernel_size": 3}, 8, True),
        ({"kernel_size": 3, "padding": 1, "bias": False}, 6, True),
        ({"kernel_size": 2, "stride": (2, 2, 1), "dilation": (3, 2, 1)}, 9, True),
        ({"kernel_size": (1, 3, 5), "padding": (0, 1, 2)}, 10, True),
        ({"kernel_size": 3}, 9, False),
        ({"kernel_size": 3, "stride": 2}, 9, False),
        ({"kernel_size": 3, "dilation": 2}, 8, False),
        ({"kernel_size": 1}, 8, False),
        ({"kernel_size": 3, "groups": 2}, 8, False),
    ],
    ids=str,
)
def test_pairs_of_voxels_are_what_each_would_be(monkeypatch, args, side, makes_pairs):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    conv = nn.Conv3d(4, 8, **args).requires_grad_(False)
    drawn = realise(conv, 0)
    x = torch.rand(2, 4, 7, 9, side)
    with _Channels() as channels:
        found = drawn(x)
    assert channels.made == [16 if makes_pairs else 8]
    torch.testing.assert_close(found, conv(x), rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


def test_dropout_is_a_fixed_mask_of_whole_channels():
    net = nn.Sequential(nn.Dropout3d(0.3))
    x = torch.rand(2, 64, 3, 4, 5) + 0.5
    assert is_stochastic(net)
    assert not is_stochastic(nn.Sequential(nn.Dropout3d(0.0)))
    assert realise(net, None)(x).equal(x)
    masks = []
    for seed in range(300):
        network = realise(net, seed)
        ratio = network(x) / x
        channels = ratio[0, :, 0, 0, 0]
        torch.testing.assert_close(
            ratio, channels[None, :, None, None, None].expand_as(ratio)
        )
        # Another tile of the same volume: the same channels are off.
        assert (network(x[:1, :, :2] * 3) == 0).equal(
            (channels == 0)[None, :, None, None, None].expand(1, 64, 2, 4, 5)
        )
        masks.append(channels)
    mask = torch.stack(masks)
    n = mask.numel()
    off = (mask == 0).float().mean().item()
    assert off == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / n))
    on = mask[mask > 0]
    torch.testing.assert_close(on, torch.full_like(on, 1 / 0.7))
    standard_error = mask.std().item() / math.sqrt(n)
    assert mask.mean().item() == pytest.approx(1.0, abs=4 * standard_error)


def test_dropout_layers_have_masks_of_their_own():
    net = nn.Sequential(nn.Dropout3d(0.5), nn.Identity(), nn.Dropout3d(0.5))
    first, second = (m for m in realise(net, 0).modules() if isinstance(m, ChannelMask))
    x = torch.ones(1, 64, 1, 1, 1)
    assert not first(x).equal(second(x))


def test_mixed_seeds_depend_on_every_part():
    seeds = [mix_seed(s, a, b) for s in (0, 1) for a in ("a", "b") for b in ("a", "c")]
    assert len(set(seeds)) == 8
    assert all(0 <= s < 2**63 for s in seeds)
    # Fixed for ever, so that a seed gives the same draw in every release.
    assert mix_seed(0, "layers.0", "weight") == 4428837848728619520
