"""Every registry entry: gradients, arguments, draws."""

import inspect
import json
import math

import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

from nobrainer import models
from nobrainer.bayes.draws import is_stochastic, plan_draws, realise
from nobrainer.bayes.kl import model_divergence, n_stochastic_weights
from nobrainer.bayes.layers import ESTIMATORS, BayesianLayer
from nobrainer.errors import InputError
from nobrainer.losses import LOSSES
from nobrainer.models import MODELS
from nobrainer.models.meshnet import MeshNet
from nobrainer.models.vnet import VNet
from small_models import (
    CASES,
    DETERMINISTIC,
    FAMILIES,
    MONAI,
    arguments_of,
    every_bayesian,
    every_model,
    lived,
    means_of,
    noise,
    small,
    small_args,
)


def test_every_model_is_tested():
    assert {name for name, _ in CASES.values()} == set(MODELS)
    assert models.available_models() == sorted(MODELS)
    assert set(DETERMINISTIC) == {"unet", "vnet", "meshnet", "kwyk_map", *MONAI}
    assert {n for n in MODELS if "dropout_type" in arguments_of(n)} == set(FAMILIES)


def test_an_unknown_model_names_the_near_miss():
    with pytest.raises(InputError, match="did you mean 'bayesian_vnet'"):
        models.get("bayesian_vnett")


@every_model
def test_gradient_reaches_every_parameter(name):
    model = lived(small(name)).train()
    for module in model.modules():
        # A bias just before batch statistics has none.
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = noise(name)
        # Most of the cold gates are so far open or shut that they have none.
        for _ in range(20 if is_stochastic(model) else 1):
            logits = model(image)
            LOSSES["cross_entropy"]()(logits, (image[:, 0] > 0).long()).backward()
    for parameter, value in model.named_parameters():
        if not value.requires_grad:
            assert "cross_attn" in parameter
            continue
        assert value.grad is not None, parameter
        assert (value.grad != 0).any(), parameter


@every_bayesian
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_trains_every_scale(name, estimator):
    model = lived(small(name, estimator=estimator)).train()
    image = noise()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(20):
            logits = model(image)
            LOSSES["cross_entropy"]()(logits, (image[:, 0] > 0).long()).backward()
    for parameter, value in model.named_parameters():
        assert (value.grad != 0).any(), parameter


@every_bayesian
def test_gradient_of_kl_reaches_every_weight(name):
    model = small(name)
    model_divergence(model).backward()
    weights = [(n, p) for n, p in model.named_parameters() if "posterior" in n]
    gates = [(n, p) for n, p in model.named_parameters() if n.endswith(".logit")]
    scales = [(n, p) for n, p in weights if n.endswith((".rho", ".a"))]
    n_gates = sum(p.numel() for _, p in gates)
    assert sum(p.numel() for _, p in scales) + n_gates == n_stochastic_weights(model)
    for parameter, value in weights + gates:
        # A Gaussian prior knows no direction.
        if parameter.endswith(".v"):
            continue
        assert (value.grad != 0).all(), parameter


@every_bayesian
@pytest.mark.parametrize("prior_type", ["standard_normal", "laplace", "spike_and_slab"])
def test_prior_type_reaches_the_divergence(name, prior_type):
    model = small(name, prior_type=prior_type)
    normal = model_divergence(small(name)).item()
    kl = model_divergence(model).item()
    assert math.isfinite(kl)
    assert (kl == normal) == (prior_type == "standard_normal")


@every_bayesian
def test_every_weight_of_a_bayesian_model_is_stochastic(name):
    model = small(name)
    plain = [
        m
        for m in model.modules()
        if isinstance(m, nn.Conv3d | nn.ConvTranspose3d | nn.Linear)
    ]
    assert not plain
    assert n_stochastic_weights(model) > 500


@pytest.mark.parametrize("name", ["bayesian_vnet", "bayesian_meshnet"])
def test_posterior_scale_is_a_fraction_of_the_spread_of_the_means(name):
    narrow, wide = (small(name, posterior_scale=s) for s in (0.01, 0.2))
    for a, b in zip(narrow.modules(), wide.modules(), strict=True):
        if isinstance(a, BayesianLayer):
            p, q = (m.posteriors()["weight"] for m in (a, b))
            torch.testing.assert_close(20 * p.scale, q.scale, rtol=1e-3, atol=0.0)
            torch.testing.assert_close(p.mean, q.mean)


@every_model
def test_arguments_survive_json_and_rebuild_the_model(name):
    defaults = {
        k: p.default
        for k, p in inspect.signature(MODELS[CASES[name][0]]).parameters.items()
        if k != "conv"
    }
    args = defaults | small_args(name)
    model = lived(models.build(CASES[name][0], **args)).eval()
    again = models.build(CASES[name][0], **json.loads(json.dumps(args))).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    image = noise(name)
    for draw in plan_draws(model, 1, 2):
        assert realise(again, *draw)(image).equal(realise(model, *draw)(image))
    assert (again.halo, again.stride, again.width) == (
        model.halo,
        model.stride,
        model.width,
    )


NAMES = ["n_classes", "base_filters", "dropout_rate", "dropout_type", "members"]
NAMES += ["variant", "estimator"]


@pytest.mark.parametrize(
    ("name", "right"), [(c, a) for c in CASES for a in NAMES if a in arguments_of(c)]
)
def test_an_unknown_argument_names_the_near_miss(name, right):
    with pytest.raises(InputError, match=f"{right[:-1]!r}: did you mean {right!r}"):
        models.build(CASES[name][0], **{right[:-1]: 2})


BAD = [
    ("in_channels", 0),
    ("n_classes", 1),
    ("n_classes", 2.0),
    ("base_filters", 0),
    ("base_filters", "8"),
    ("levels", 0),
    ("levels", True),
    ("dropout_rate", 1.5),
    ("dropout_rate", 1.0),
    ("dropout_rate", -0.1),
    ("dropout_rate", float("nan")),
    ("dropout_rate", "0.1"),
    ("dropout_rate", None),
    ("dilations", []),
    ("dilations", [1, 0]),
    ("dilations", 3),
    ("norm", "instanc"),
    ("dropout_type", "concret"),
    ("variant", "spike_and_slap"),
    ("members", "vnet"),
    ("members", [["vnet", {}]]),
    ("members", ["vnet", "vnet"]),
    ("members", [["vnet", {}], ["vnett", {}]]),
    ("members", [["vnet", {}], ["vnet", []]]),
    ("members", [["vnet", {}], [["vnet"], {}]]),
    ("members", [["vnet", {}], ["vnet", {"level": 2}]]),
    ("members", [["vnet", {}], ["vnet", {"n_classes": 7}]]),
    ("members", [["vnet", {}], ["ensemble", {}]]),
    ("kl_weight", -1),
    ("kl_weight", float("nan")),
    ("kl_weight", float("inf")),
    ("kl_weight", "elb"),
    ("kl_weight", None),
    ("prior_type", "laplac"),
    ("prior_args", {"scale": 0}),
    ("prior_args", {"scale": "1"}),
    ("posterior_scale", 0),
    ("posterior_scale", "0.1"),
    ("estimator", "local_reparameterisation"),
]


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [(m, a, v) for m in CASES for a, v in BAD if a in arguments_of(m)],
)
def test_a_bad_value_is_refused(name, argument, value):
    with pytest.raises(InputError):
        small(name, **{argument: value})


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.96])
def test_a_learned_rate_starts_within_its_bounds(name, rate):
    with pytest.raises(InputError, match=r"\[0.05, 0.95\].*dropout_type='concrete'"):
        small(name, dropout_type="concrete", dropout_rate=rate)


@every_model
def test_only_what_has_a_divergence_carries_its_weight(name):
    model = small(name)
    has_prior = n_stochastic_weights(model) > 0
    assert hasattr(model, "kl_weight") == has_prior
    assert not has_prior or model.kl_weight == "elbo"
    assert (model_divergence(model).item() > 0) == has_prior


@every_model
def test_output_has_the_classes_and_grid_asked_for(name):
    model = small(name, in_channels=2, n_classes=5)
    image = noise(name, channels=2, shape=(8, 12, 4 * model.stride))
    assert model(image).shape == (len(image), 5, *image.shape[2:])


@pytest.mark.parametrize("name", [c for c in CASES if "base_filters" in small_args(c)])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_base_filters_and_levels_change_the_network(name, levels):
    def size(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    assert size(small(name, base_filters=8)) > 1.9 * size(small(name))
    if "levels" in arguments_of(name) and levels > 1:
        assert small(name, levels=levels).stride == 2 ** (levels - 1)


@pytest.mark.parametrize("name", [c for c in CASES if c not in DETERMINISTIC])
def test_two_draws_differ_and_one_repeats(name):
    model = lived(small(name)).eval()
    image = noise()
    first, second = plan_draws(model, 3, 2)
    draws = (first, second, first)
    one, two, again = (realise(model, *draw)(image) for draw in draws)
    assert one.equal(again)
    assert (one - two).abs().mean() > 1e-3


@every_bayesian
def test_two_passes_of_the_model_itself_differ(name):
    model = lived(small(name)).eval()
    assert (model(noise()) - model(noise())).abs().mean() > 1e-3


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_model_has_one_draw(name):
    model = lived(small(name)).eval()
    image = noise(name)
    assert realise(model, 1)(image).equal(realise(model, 2)(image))
    torch.testing.assert_close(
        realise(model, None)(image), model(image), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", [c for c in CASES if c not in ("ensemble", *MONAI)])
def test_the_mean_draw_is_the_model_with_its_posterior_means(name):
    dropout = {"dropout_rate": 0.4} if "dropout_rate" in arguments_of(name) else {}
    model = lived(small(name, **dropout)).eval()
    image = noise()
    with torch.no_grad():
        expected = poutine.condition(model, means_of(model))(image)
    found = realise(model, None)(image)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_rate_makes_draws_differ_by_whole_channels(name):
    model = lived(small(name, dropout_rate=0.4, base_filters=32))
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout3d)]
    assert is_stochastic(model)
    assert not any(isinstance(m, nn.Dropout) for m in model.modules())
    off = []

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], y: Tensor) -> None:
        off.append((y == 0).flatten(2).all(2).float().mean())

    for module in dropouts:
        module.register_forward_pre_hook(lambda _m, inputs: (inputs[0].abs() + 1,))
        module.register_forward_hook(record)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model.train()(noise(batch=4))
    # 128 channels or more in every layer.
    assert torch.stack(off).mean().item() == pytest.approx(0.4, abs=0.1)
    image = noise(shape=(4, 4, 4))
    plain = lived(small(name, dropout_rate=0.4))
    assert not realise(plain, 0)(image).equal(realise(plain, 1)(image))


@pytest.mark.parametrize(("network", "name"), [(VNet, "vnet"), (MeshNet, "meshnet")])
def test_a_bayesian_model_is_its_plain_model_with_other_convolutions(network, name):
    plain, bayesian = small(name), small(f"bayesian_{name}")
    shapes = sorted(
        tuple(p.shape)
        for n, p in bayesian.named_parameters()
        if not n.endswith("posterior.rho")
    )
    assert shapes == sorted(tuple(p.shape) for p in plain.parameters())
    assert type(bayesian) is network
