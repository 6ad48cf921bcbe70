"""The divergence of a layer and of a model."""

import pytest
import torch
from torch import nn

from bayesian_cases import PRIOR_ARGS, small_conv
from nobrainer.bayes.kl import model_divergence, n_stochastic_weights
from nobrainer.bayes.layers import (
    ESTIMATORS,
)


@pytest.mark.parametrize(("name", "args"), PRIOR_ARGS)
@pytest.mark.parametrize("bias", [True, False])
def test_gradient_of_kl_reaches_every_mean_and_scale(name, args, bias):
    layer = small_conv(bias=bias, prior_type=name, prior_args=args)
    model_divergence(layer).backward()
    parameters = dict(layer.named_parameters())
    assert len(parameters) == (4 if bias else 2)
    assert all((p.grad != 0).all() for p in parameters.values())


def test_each_layer_of_a_model_has_the_divergence_from_its_own_prior():
    priors = [("standard_normal", {"scale": 0.4}), ("laplace", {}), PRIOR_ARGS[0]]
    layers = [small_conv(prior_type=name, prior_args=args) for name, args in priors]
    (model_divergence(nn.Sequential(*layers)) * 3).backward()
    total = 0.0
    for layer in layers:
        for q in layer.posteriors().values():
            kl = torch.distributions.kl_divergence(q.distribution(), layer.prior())
            kl = kl.sum()
            total += kl.item()
            wanted = torch.autograd.grad(kl, [*layer.parameters()], allow_unused=True)
            for parameter, gradient in zip(layer.parameters(), wanted, strict=True):
                if gradient is not None:
                    torch.testing.assert_close(parameter.grad, 3 * gradient)
    kl = model_divergence(nn.Sequential(*layers)).item()
    assert kl == pytest.approx(total, rel=1e-5)


def test_the_number_of_stochastic_weights_counts_weights_and_biases():
    layers = nn.Sequential(small_conv(), nn.BatchNorm3d(3), small_conv(bias=False))
    assert n_stochastic_weights(layers) == 2 * (3 * 2 * 27) + 3
    assert n_stochastic_weights(nn.Linear(3, 3)) == 0
    assert model_divergence(nn.Linear(3, 3)).item() == 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("training", [True, False])
def test_forward_leaves_no_residue_and_kl_needs_no_forward(estimator, training):
    layer = small_conv(estimator=estimator).train(training)
    kl = model_divergence(layer).item()
    closed = sum(
        (q.scale.square() + q.mean.square() - 1 - 2 * q.scale.log()).sum().item() / 2
        for q in layer.posteriors().values()
    )
    assert kl == pytest.approx(closed, rel=1e-5)

    def residue() -> list[tuple[str, list[str]]]:
        return [(n, sorted(vars(m))) for n, m in layer.named_modules()]

    before, state = residue(), {k: v.clone() for k, v in layer.state_dict().items()}
    layer(torch.ones(2, 2, 4, 4, 4))
    assert residue() == before
    assert list(layer.state_dict()) == list(state)
    assert all(layer.state_dict()[k].equal(v) for k, v in state.items())
    assert model_divergence(layer).item() == kl
    with torch.no_grad():
        layer(torch.ones(2, 2, 4, 4, 4))
    assert model_divergence(layer).requires_grad
