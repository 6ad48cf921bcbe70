"""The start from a trained network."""

import pytest
import torch

from bayesian_cases import same_weights, weights_of
from nobrainer import models
from nobrainer.bayes.draws import realise
from nobrainer.bayes.kl import model_divergence
from nobrainer.bayes.layers import (
    BayesianLayer,
)
from nobrainer.bayes.warm_start import warm_start
from nobrainer.errors import InputError


@pytest.mark.parametrize("family", ["vnet", "meshnet"])
@pytest.mark.parametrize(
    "dropout",
    [
        {"dropout_rate": 0.3},
        {"dropout_rate": 0.3, "dropout_type": "concrete"},
    ],
)
def test_a_warm_start_moves_the_posterior_to_the_trained_weights(family, dropout):
    args = {"base_filters": 4, "n_classes": 3} | dropout
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = models.build(family, **args)
        bayesian = models.build(f"bayesian_{family}", **args)
        trained(3 * torch.randn(2, 1, 16, 16, 16) + 1)
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
            trained.head.weight[0, 0] = 0.0
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    warm_start(bayesian, trained, delta=0.1)
    assert realise(bayesian, None)(x).equal(realise(trained, None)(x))
    assert same_weights(trained.state_dict(), before)
    for name, layer in bayesian.named_modules():
        if isinstance(layer, BayesianLayer):
            for kind, q in layer.posteriors().items():
                scale = (0.1 * before[f"{name}.{kind}"].abs()).clamp_min(1e-6)
                torch.testing.assert_close(q.scale, scale, rtol=1e-4, atol=0.0)
    assert model_divergence(bayesian).isfinite()
    # The prior is still the one of the arguments.
    assert bayesian.head.prior().loc == 0
    assert bayesian.head.prior().scale == 1


def test_a_warm_start_is_near_to_the_trained_network():
    trained = models.build("meshnet", base_filters=4, dilations=[1, 2]).eval()
    bayesian = models.build("bayesian_meshnet", base_filters=4, dilations=[1, 2])
    x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    distance, expected = {}, realise(trained, None)(x)
    for delta in (0.01, 0.3):
        warm_start(bayesian, trained, delta)
        off = [(realise(bayesian, s)(x) - expected).abs().mean() for s in range(8)]
        distance[delta] = sum(float(o) for o in off) / 8
    assert 0 < 10 * distance[0.01] < distance[0.3]


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        (
            ("meshnet", {"base_filters": 5}),
            r"'layers.0.weight' it has \(5, 1, 3, 3, 3\) where bayesian has "
            r"\(4, 1, 3, 3, 3\)",
        ),
        (("vnet", {"base_filters": 4}), "'layers.0.weight' it has nothing where"),
        (
            ("meshnet", {"dilations": [1, 2, 3]}),
            r"'layers.8.weight' it has \(4, 4, 3, 3, 3\) where bayesian has nothing",
        ),
        (
            ("meshnet", {"dropout_type": "concrete", "dropout_rate": 0.5}),
            r"'layers.3.logit' it has \(4,\) where bayesian has nothing",
        ),
    ],
)
def test_a_warm_start_names_the_first_place_that_does_not_match(trained, message):
    small = {"base_filters": 4, "dilations": [1, 2]}
    bayesian = models.build("bayesian_meshnet", **small)
    before = weights_of(bayesian)
    name, args = trained
    other = models.build(name, **(args if name == "vnet" else small | args))
    with pytest.raises(InputError, match=message):
        warm_start(bayesian, other)
    assert same_weights(bayesian.state_dict(), before)


@pytest.mark.parametrize("delta", [0, -0.1, float("nan"), "0.1"])
def test_a_warm_start_refuses_a_scale_that_is_not_positive(delta):
    model = models.build("bayesian_meshnet", base_filters=4)
    with pytest.raises(InputError, match="delta"):
        warm_start(model, models.build("meshnet", base_filters=4), delta)


def test_a_warm_start_is_of_a_bayesian_network():
    model = models.build("meshnet", base_filters=4)
    with pytest.raises(InputError, match="Bayesian layers"):
        warm_start(model, model)
