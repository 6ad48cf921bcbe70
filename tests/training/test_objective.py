"""What training minimises."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from balls import SHAPE
from bayesian_cases import small_batch, tiny
from nobrainer import models
from nobrainer.bayes.kl import model_divergence
from nobrainer.bayes.layers import (
    BayesianLayer,
)
from nobrainer.losses import LOSSES
from nobrainer.training.objective import Elbo, Supervised
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


@pytest.mark.parametrize("kl_weight", [0.0, 1e-3, 2.0, "elbo"])
@pytest.mark.parametrize("prior_type", ["standard_normal", "laplace"])
def test_elbo_is_the_data_term_plus_weighted_kl(kl_weight, prior_type):
    model = tiny(kl_weight=kl_weight, prior_type=prior_type).eval()
    image, label = small_batch()
    elbo = Elbo(model, LOSSES["cross_entropy"](), n_voxels=5000)
    loss = elbo(image, label)
    # 2 filters of 27 weights, then 2 x 2 weights and 2 biases.
    n_weights = 2 * 27 + 4 + 2
    weight = n_weights / 5000 if kl_weight == "elbo" else kl_weight
    kl = model_divergence(model)
    data = F.cross_entropy(loss.logits, label)
    torch.testing.assert_close(loss.kl, kl)
    torch.testing.assert_close(loss.data, data)
    torch.testing.assert_close(loss.total, data + weight * kl / n_weights)
    assert elbo.kl_weight == pytest.approx(weight)


def test_exact_weight_makes_the_loss_the_elbo_per_voxel():
    model = tiny().eval()
    image, label = small_batch()
    loss = Elbo(model, LOSSES["cross_entropy"](), n_voxels=label.numel())(image, label)
    negative_elbo = F.cross_entropy(
        loss.logits, label, reduction="sum"
    ) + model_divergence(model)
    torch.testing.assert_close(loss.total * label.numel(), negative_elbo)


def test_supervised_has_no_divergence():
    model = models.build("meshnet", base_filters=2, dilations=[1])
    image, label = small_batch()
    loss = Supervised(model, LOSSES["dice_ce"]())(image, label)
    assert loss.kl.item() == 0
    assert loss.total.equal(loss.data)
    torch.testing.assert_close(loss.data, LOSSES["dice_ce"]()(loss.logits, label))


@pytest.mark.parametrize(
    ("prior_type", "scale", "sd"),
    [
        ("standard_normal", 0.5, 0.5),
        ("standard_normal", 1.0, 1.0),
        # KL(N(0, σ²) ‖ Laplace(b)) is least at σ = b √(π/2).
        ("laplace", 0.4, 0.4 * math.sqrt(math.pi / 2)),
    ],
)
def test_a_large_kl_weight_drives_the_posterior_to_the_prior(prior_type, scale, sd):
    model = tiny(kl_weight=1e4, prior_type=prior_type, prior_args={"scale": scale})
    elbo = Elbo(model, LOSSES["cross_entropy"](), n_voxels=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, total_iters=300)
    image, label = small_batch()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(300):
            optimizer.zero_grad()
            elbo(image, label).total.backward()
            optimizer.step()
            schedule.step()
    for layer in model.modules():
        if isinstance(layer, BayesianLayer):
            for q in layer.posteriors().values():
                assert q.mean.abs().max() < 0.03
                assert (q.scale - sd).abs().max() < 0.03


def test_a_zero_kl_weight_lets_the_posterior_shrink():
    image, label = small_batch()
    spread = {}
    for kl_weight in (0.0, 1.0):
        model = tiny(kl_weight=kl_weight, posterior_scale=0.5)
        elbo = Elbo(model, LOSSES["cross_entropy"](), n_voxels=1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for _ in range(150):
                optimizer.zero_grad()
                elbo(image, label).total.backward()
                optimizer.step()
        layers = (m for m in model.modules() if isinstance(m, BayesianLayer))
        scales = [q.scale.flatten() for m in layers for q in m.posteriors().values()]
        spread[kl_weight] = torch.cat(scales).mean().item()
    assert spread[0.0] < 0.5 * spread[1.0]
