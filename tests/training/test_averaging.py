"""Averaged weights against their closed form."""

import pytest
import torch
from torch import nn

from nobrainer.training.averaging import WeightAverage


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def run(decay, n_steps):
    """An average over so many steps, and the weights after each of them."""
    net = network()
    average = WeightAverage(net, decay)
    seen = []
    for step in range(n_steps):
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(torch.randn(weight.shape) * (step + 1))
        net[1].running_mean.fill_(float(step**2))
        net[1].num_batches_tracked.fill_(step)
        average.update(net)
        seen.append({k: v.detach().double() for k, v in net.state_dict().items()})
    return net, average, seen


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_average_is_the_weighted_mean_of_all_steps(decay):
    torch.manual_seed(0)
    n_steps = 12
    _, average, seen = run(decay, n_steps)
    shares = torch.tensor(
        [decay ** (n_steps - 1 - k) for k in range(n_steps)], dtype=torch.float64
    )
    shares /= shares.sum()
    for name, found in average.weights.items():
        if not found.is_floating_point():
            assert int(found) == n_steps - 1
            continue
        each = torch.stack([weights[name] for weights in seen])
        expected = (shares.view(-1, *(1,) * found.ndim) * each).sum(0)
        assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_first_step_leaves_nothing_of_the_start():
    _, average, seen = run(0.999, 1)
    for name, found in average.weights.items():
        assert torch.equal(found.double(), seen[0][name])


def test_applied_for_a_while():
    net, average, seen = run(0.9, 5)
    with average.applied(net):
        for name, found in net.state_dict().items():
            assert torch.equal(found, average.weights[name])
        net[1].running_mean.fill_(77.0)
    for name, found in net.state_dict().items():
        assert torch.equal(found.double(), seen[-1][name])
    assert float(average.weights["1.running_mean"].max()) < 16


def test_restored_average_goes_on_as_if_nothing_had_happened():
    torch.manual_seed(0)
    net, straight, _ = run(0.9, 6)
    resumed = WeightAverage(network(), 0.9)
    resumed.restore(straight.weights, straight.n_steps)
    for step in range(3):
        with torch.no_grad():
            net[0].weight.fill_(float(step))
        straight.update(net)
        resumed.update(net)
    for name, found in straight.weights.items():
        assert torch.equal(found, resumed.weights[name])
