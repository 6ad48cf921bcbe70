"""Averaged weights against their closed form, by themselves and in a training."""

from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from nobrainer.processing.segmentation import Segmentation
from nobrainer.training import loop
from nobrainer.training.averaging import WeightAverage
from nobrainer.training.checkpoint import BEST, LAST, read_checkpoint
from trainings import STEPS, FailsAt, fit, parameters, same_weights, timeless


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


class Recording(torch.optim.SGD):
    """Keeps the parameters after each step of the last training."""

    seen: list[torch.Tensor]

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        Recording.seen = []

    def step(self, closure=None):
        result = super().step(closure)
        (group,) = self.param_groups
        flat = [weight.detach().flatten() for weight in group["params"]]
        Recording.seen.append(torch.cat(flat).double())
        return result


def test_training_leaves_the_model_with_the_average(train, tmp_path):
    run = partial(fit, train, epochs=2, optimizer=Recording, opt_args={"lr": 0.3})
    fitted = run(averaging=0.8, folder=tmp_path)
    seen = torch.stack(Recording.seen)
    shares = 0.8 ** torch.arange(len(seen) - 1, -1, -1, dtype=torch.float64)
    expected = (shares[:, None] * seen).sum(0) / shares.sum()
    found = parameters(fitted).double()
    assert float((found - expected).norm()) < 1e-5 * float(expected.norm())
    assert float((found - seen[-1]).norm()) > 1e-3 * float(expected.norm())
    assert torch.equal(parameters(run()).double(), seen[-1])
    # The last state has both: to go on with, and to predict with.
    assert same_weights(Segmentation.load(tmp_path / LAST), fitted)
    kept = read_checkpoint(tmp_path / LAST)
    assert kept.n_averaged == 2 * STEPS
    assert not torch.equal(kept.weights["head.bias"], kept.average["head.bias"])


def test_the_average_is_what_is_validated(train, validate, tmp_path):
    options = {"epochs": 3, "schedule": "constant", "opt_args": {"lr": 0.05}}
    fitted = fit(train, validate, averaging=0.9, folder=tmp_path, **options)
    best = Segmentation.load(tmp_path / BEST)
    assert same_weights(best, fitted)
    score = max(row["validation_dice"] for row in fitted.history_)
    subject = validate.data[0]
    label = np.asarray(best.predict(subject.image).dataobj) > 0
    truth = np.asarray(nib.load(subject.label).dataobj) > 0
    overlap = 2 * np.sum(label & truth) / (np.sum(label) + np.sum(truth))
    assert overlap == pytest.approx(score, abs=1e-12)


def test_a_resumed_training_averages_on(train, validate, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    run = partial(
        *(fit, train.shuffle(), validate),
        model="bayesian_vnet",
        epochs=None,
        max_steps=3 * STEPS - 1,
        averaging=0.9,
    )
    straight = run(loss=FailsAt())
    with pytest.raises(RuntimeError, match="power cut"):
        run(folder=tmp_path, loss=FailsAt(2 * STEPS))
    loss = FailsAt()
    resumed = run(folder=tmp_path, loss=loss, resume=True)
    assert loss.calls == STEPS
    assert same_weights(resumed, straight)
    assert timeless(resumed.history_) == timeless(straight.history_)
