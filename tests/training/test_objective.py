"""What training minimises."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from balls import SHAPE
from trainings import SMALL, data_loss, fit, one_batch, still


def soft_dice_loss(logits, label, weight=(1, 1)):
    p = logits.softmax(1)
    y = F.one_hot(label, 2).movedim(-1, 1).double()
    both, sizes = (p * y).sum((2, 3, 4)), (p + y).sum((2, 3, 4))
    terms = 1 - (2 * both + 1e-5) / (sizes + 1e-5)
    return float((terms * torch.tensor(weight).double()).mean())


def weighted_cross_entropy(logits, label, weight):
    log_p = logits.log_softmax(1).movedim(1, -1)
    nll = -log_p.gather(-1, label[..., None])[..., 0]
    w = torch.tensor(weight).double()[label]
    return float((w * nll).sum() / w.sum())


def test_named_losses(train):
    logits, label = one_batch(train)
    plain = weighted_cross_entropy(logits, label, (1, 1))
    overlap = soft_dice_loss(logits, label)
    for options, expected in (
        ({}, plain),
        ({"loss": "cross_entropy"}, plain),
        ({"loss": "dice"}, overlap),
        ({"loss": "dice_ce"}, plain + overlap),
    ):
        assert data_loss(train, **options) == pytest.approx(expected, rel=1e-4)


def test_class_weights_change_the_loss(train):
    logits, label = one_batch(train)
    weights = 1.0, 5.0
    expected = weighted_cross_entropy(logits, label, weights)
    assert data_loss(train, class_weights=weights) == pytest.approx(expected, rel=1e-4)
    assert abs(expected - data_loss(train)) > 0.01
    expected = soft_dice_loss(logits, label, weights)
    found = data_loss(train, loss="dice", class_weights=weights)
    assert found == pytest.approx(expected, rel=1e-4)


def test_automatic_class_weights_are_inverse_frequencies(train):
    inside = np.mean([volume.label.mean() for volume in train.prepare()])
    inverse = np.array([1 / (1 - inside), 1 / inside])
    expected = tuple(2 * inverse / inverse.sum())
    fitted = still(train.batch(8), class_weights="auto")
    assert fitted.recipe_.training.class_weights == pytest.approx(expected, rel=1e-6)
    loss = weighted_cross_entropy(*one_batch(train), expected)
    assert fitted.history_[0]["data_loss"] == pytest.approx(loss, rel=1e-4)


def test_own_loss_is_minimised(train):
    def distance(logits, label):
        return (logits.softmax(1)[:, 1] - label).square().mean()

    logits, label = one_batch(train)
    expected = float((logits.softmax(1)[:, 1] - label).square().mean())
    assert data_loss(train, loss=distance) == pytest.approx(expected, rel=1e-4)
    fitted = fit(train, loss=distance, epochs=5, opt_args={"lr": 0.02})
    assert fitted.history_[-1]["loss"] < 0.5 * fitted.history_[0]["loss"]
    assert fitted.recipe_.training.loss.endswith("distance")


@pytest.mark.parametrize("weight", [0.0, 0.5, "elbo"])
def test_bayesian_loss_adds_the_weighted_divergence(train, weight):
    args = SMALL | {"kl_weight": weight}
    fitted = still(train, model="bayesian_vnet", args=args)
    (row,) = fitted.history_
    kl, n_weights = 0.0, 0
    for module in fitted.model_.modules():
        if hasattr(module, "posteriors"):
            for q in module.posteriors().values():
                mean, scale = q.mean.double(), q.scale.double()
                # KL(N(m, s²) ‖ N(0, 1))
                terms = (scale**2 + mean**2 - 1) / 2 - scale.log()
                kl += float(terms.detach().sum())
                n_weights += mean.numel()
    assert row["kl"] == pytest.approx(kl, rel=1e-5)
    voxels = 2 * math.prod(SHAPE)
    factor = 1 / voxels if weight == "elbo" else weight / n_weights
    added = row["loss"] - row["data_loss"]
    assert added == pytest.approx(factor * kl, rel=1e-3, abs=1e-7)


def test_large_divergence_weight_takes_the_posterior_to_the_prior(train):
    fitted = fit(
        train,
        model="bayesian_vnet",
        args={
            "base_filters": 2,
            "levels": 1,
            "kl_weight": 1e6,
            "prior_args": {"scale": 0.5},
        },
        epochs=60,
        opt_args={"lr": 0.1},
    )
    for module in fitted.model_.modules():
        if hasattr(module, "posteriors"):
            for q in module.posteriors().values():
                assert float(q.mean.detach().abs().max()) < 0.02
                assert torch.allclose(q.scale, torch.tensor(0.5), rtol=0.02)
