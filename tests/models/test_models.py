"""Every registry entry: gradients, arguments, draws, reach, Pyro; and the losses."""

import inspect
import json
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

from nobrainer import models
from nobrainer.bayes.draws import is_stochastic, plan_draws, realise
from nobrainer.bayes.dropout import ConcreteDropout3d
from nobrainer.bayes.kl import model_divergence, n_stochastic_weights
from nobrainer.bayes.layers import ESTIMATORS, BayesianLayer
from nobrainer.errors import InputError
from nobrainer.losses import LOSSES, inverse_frequency
from nobrainer.models import MODELS
from nobrainer.models.meshnet import MeshNet
from nobrainer.models.vnet import VNet

SMALL = {"base_filters": 4, "levels": 2, "dilations": [1, 2]}
MEMBERS = [
    ["vnet", {"base_filters": 4, "levels": 2}],
    ["meshnet", {"base_filters": 4, "dilations": [1, 2]}],
]
CONCRETE = {"dropout_type": "concrete", "dropout_rate": 0.2}
FAMILIES = ["unet", "vnet", "meshnet", "bayesian_vnet", "bayesian_meshnet"]
# What is tested: a name and the arguments that make it what it is.
CASES: dict[str, tuple[str, dict[str, Any]]] = (
    {name: (name, {}) for name in FAMILIES}
    | {f"{name}_concrete": (name, CONCRETE) for name in FAMILIES}
    | {
        "kwyk": ("kwyk", {"n_classes": 2}),
        "kwyk_bernoulli": ("kwyk", {"n_classes": 2, "variant": "bernoulli"}),
        "kwyk_map": ("kwyk", {"n_classes": 2, "variant": "map"}),
        "ensemble": ("ensemble", {"members": MEMBERS}),
    }
)


def _arguments(case: str) -> set[str]:
    """The arguments that a user gives to the model of `case`."""
    return set(inspect.signature(MODELS[CASES[case][0]]).parameters) - {"conv"}


def _small_args(case: str) -> dict[str, Any]:
    known = _arguments(case)
    return {k: v for k, v in SMALL.items() if k in known} | CASES[case][1]


def _small(case: str, **args: Any) -> nn.Module:
    """The model of `case` at a small size, initialised with a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build(CASES[case][0], **_small_args(case) | args)


def _lived(model: nn.Module) -> nn.Module:
    """Give batch norms statistics, and filters lengths and scales, as of training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("posterior.a"):
                parameter.fill_(0.05)
            elif name.endswith("weight_posterior.g"):
                parameter.mul_(3)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm3d):
            n = norm.num_features
            with torch.no_grad():
                norm.running_mean.copy_(torch.randn(n, generator=generator) / 3)
                norm.running_var.copy_(0.3 + torch.rand(n, generator=generator))
                norm.weight.copy_(0.5 + torch.rand(n, generator=generator))
                norm.bias.copy_(torch.randn(n, generator=generator) / 3)
    return model


def _image(channels: int = 1, batch: int = 2, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, channels, side, side, side, generator=generator)


def _means(model: nn.Module) -> dict[str, Tensor]:
    """Site name -> posterior mean, of weights and of gates."""
    means: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, ConcreteDropout3d):
            means[f"{name}.gate"] = layer.keep_probability.detach()
        elif isinstance(layer, BayesianLayer):
            means |= {f"{name}.{w}": q.mean for w, q in layer.posteriors().items()}
    return means


BAYESIAN = [c for c in CASES if c.startswith("bayesian") or c == "kwyk"]
DETERMINISTIC = [c for c in CASES if not is_stochastic(_small(c))]
every_model = pytest.mark.parametrize("name", CASES)
every_bayesian = pytest.mark.parametrize("name", BAYESIAN)


def test_every_model_is_tested():
    assert {name for name, _ in CASES.values()} == set(MODELS)
    assert models.available_models() == sorted(MODELS)
    assert set(DETERMINISTIC) == {"unet", "vnet", "meshnet", "kwyk_map"}
    assert {n for n in MODELS if "dropout_type" in _arguments(n)} == set(FAMILIES)


def test_an_unknown_model_names_the_near_miss():
    with pytest.raises(InputError, match="did you mean 'bayesian_vnet'"):
        models.get("bayesian_vnett")


@every_model
def test_gradient_reaches_every_parameter(name):
    model = _lived(_small(name)).train()
    for module in model.modules():
        # A bias just before batch statistics has none.
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Most of the cold gates are so far open or shut that they have none.
        for _ in range(20):
            logits = model(_image())
            LOSSES["cross_entropy"]()(logits, (_image()[:, 0] > 0).long()).backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None, parameter
        assert (value.grad != 0).any(), parameter


@every_bayesian
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_trains_every_scale(name, estimator):
    model = _lived(_small(name, estimator=estimator)).train()
    image = _image()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(20):
            logits = model(image)
            LOSSES["cross_entropy"]()(logits, (image[:, 0] > 0).long()).backward()
    for parameter, value in model.named_parameters():
        assert (value.grad != 0).any(), parameter


@every_bayesian
def test_gradient_of_kl_reaches_every_weight(name):
    model = _small(name)
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
    model = _small(name, prior_type=prior_type)
    normal = model_divergence(_small(name)).item()
    kl = model_divergence(model).item()
    assert math.isfinite(kl)
    assert (kl == normal) == (prior_type == "standard_normal")


@every_bayesian
def test_every_weight_of_a_bayesian_model_is_stochastic(name):
    model = _small(name)
    plain = [
        m
        for m in model.modules()
        if isinstance(m, nn.Conv3d | nn.ConvTranspose3d | nn.Linear)
    ]
    assert not plain
    assert n_stochastic_weights(model) > 500


@pytest.mark.parametrize("name", ["bayesian_vnet", "bayesian_meshnet"])
def test_posterior_scale_is_a_fraction_of_the_spread_of_the_means(name):
    narrow, wide = (_small(name, posterior_scale=s) for s in (0.01, 0.2))
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
    args = defaults | _small_args(name)
    model = _lived(models.build(CASES[name][0], **args)).eval()
    again = models.build(CASES[name][0], **json.loads(json.dumps(args))).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    image = _image()
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
    ("name", "right"), [(c, a) for c in CASES for a in NAMES if a in _arguments(c)]
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
    [(m, a, v) for m in CASES for a, v in BAD if a in _arguments(m)],
)
def test_a_bad_value_is_refused(name, argument, value):
    with pytest.raises(InputError):
        _small(name, **{argument: value})


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.96])
def test_a_learned_rate_starts_within_its_bounds(name, rate):
    with pytest.raises(InputError, match=r"\[0.05, 0.95\].*dropout_type='concrete'"):
        _small(name, dropout_type="concrete", dropout_rate=rate)


@every_model
def test_only_what_has_a_divergence_carries_its_weight(name):
    model = _small(name)
    has_prior = n_stochastic_weights(model) > 0
    assert hasattr(model, "kl_weight") == has_prior
    assert not has_prior or model.kl_weight == "elbo"
    assert (model_divergence(model).item() > 0) == has_prior


@every_model
def test_output_has_the_classes_and_grid_asked_for(name):
    model = _small(name, in_channels=2, n_classes=5)
    image = torch.randn(2, 2, 8, 12, 4 * model.stride)
    assert model(image).shape == (2, 5, 8, 12, 4 * model.stride)


@pytest.mark.parametrize("name", [c for c in CASES if "base_filters" in _arguments(c)])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_base_filters_and_levels_change_the_network(name, levels):
    def size(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    assert size(_small(name, base_filters=8)) > 1.9 * size(_small(name))
    if "levels" in _arguments(name) and levels > 1:
        assert _small(name, levels=levels).stride == 2 ** (levels - 1)


@pytest.mark.parametrize("name", [c for c in CASES if c not in DETERMINISTIC])
def test_two_draws_differ_and_one_repeats(name):
    model = _lived(_small(name)).eval()
    image = _image()
    first, second = plan_draws(model, 3, 2)
    draws = (first, second, first)
    one, two, again = (realise(model, *draw)(image) for draw in draws)
    assert one.equal(again)
    assert (one - two).abs().mean() > 1e-3


@every_bayesian
def test_two_passes_of_the_model_itself_differ(name):
    model = _lived(_small(name)).eval()
    assert (model(_image()) - model(_image())).abs().mean() > 1e-3


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_model_has_one_draw(name):
    model = _lived(_small(name)).eval()
    image = _image()
    assert realise(model, 1)(image).equal(realise(model, 2)(image))
    torch.testing.assert_close(
        realise(model, None)(image), model(image), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", [c for c in CASES if c != "ensemble"])
def test_the_mean_draw_is_the_model_with_its_posterior_means(name):
    dropout = {"dropout_rate": 0.4} if "dropout_rate" in _arguments(name) else {}
    model = _lived(_small(name, **dropout)).eval()
    image = _image()
    with torch.no_grad():
        expected = poutine.condition(model, _means(model))(image)
    found = realise(model, None)(image)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_rate_makes_draws_differ_by_whole_channels(name):
    model = _lived(_small(name, dropout_rate=0.4, base_filters=32))
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
        model.train()(_image(batch=4))
    # 128 channels or more in every layer.
    assert torch.stack(off).mean().item() == pytest.approx(0.4, abs=0.1)
    image = _image(side=4)
    plain = _lived(_small(name, dropout_rate=0.4))
    assert not realise(plain, 0)(image).equal(realise(plain, 1)(image))


def _reach(model: nn.Module) -> tuple[int, int]:
    """Voxels left and right of a stride-aligned core that its output depends on.

    With positive weights and a positive image every unit is active, so the gradient
    shows all dependencies.
    """
    for parameter in model.parameters():
        parameter.data.abs_().add_(0.01)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm3d):
            norm.running_mean.zero_()
    network = realise(model, None)
    stride = model.stride
    start = 3 * model.halo
    across = 2 * stride
    image = torch.rand(1, 1, 2 * start + stride, across, across) + 0.1
    image.requires_grad_()
    network(image)[:, :, start : start + stride].sum().backward()
    assert image.grad is not None
    (used,) = torch.nonzero(image.grad.sum((0, 1, 3, 4)), as_tuple=True)
    return start - int(used[0]), int(used[-1]) - (start + stride - 1)


REACHES = [
    (name, {key: value})
    for name in [*FAMILIES, "kwyk"]
    for key, value in [
        ("levels", 1),
        ("levels", 2),
        ("levels", 3),
        ("levels", 4),
        ("dilations", [1]),
        ("dilations", [2, 1, 3]),
    ]
    if key in _arguments(name) and (name, value) != ("unet", 1)
]


@pytest.mark.parametrize(("name", "args"), REACHES, ids=str)
def test_the_halo_is_as_wide_as_the_reach(name, args):
    model = _small(name, **args, base_filters=1)
    needed = max(_reach(model))
    assert needed <= model.halo <= 2 * needed
    assert model.halo % model.stride == 0


@every_model
def test_nothing_beyond_the_halo_changes_the_core(name):
    model = _lived(_small(name))
    network = model.eval() if name == "ensemble" else realise(model, 0)
    halo, stride = model.halo, model.stride
    core = 2 * stride
    generator = torch.Generator().manual_seed(0)
    side = core + 2 * halo + 2 * stride
    image = torch.randn(1, 1, side, side, side, generator=generator)
    a, b = halo + stride, halo + stride + core
    other = 100 * torch.randn(image.shape, generator=generator)
    kept = (..., *(slice(a - halo, b + halo),) * 3)
    other[kept] = image[kept]
    inner = (..., *(slice(a, b),) * 3)
    assert network(other)[inner].equal(network(image)[inner])
    # And what lies inside of it does.
    other[..., a, a, a] += 1
    assert not network(other)[inner].equal(network(image)[inner])


def test_instance_norm_has_no_halo():
    model = _small("unet", norm="instance")
    assert model.halo is None
    norms = [m for m in model.modules() if isinstance(m, nn.InstanceNorm3d)]
    assert norms and not any(isinstance(m, nn.BatchNorm3d) for m in model.modules())
    image = _image()
    torch.testing.assert_close(realise(model, None)(image), model.eval()(image))


@pytest.mark.parametrize(("network", "name"), [(VNet, "vnet"), (MeshNet, "meshnet")])
def test_a_bayesian_model_is_its_plain_model_with_other_convolutions(network, name):
    plain, bayesian = _small(name), _small(f"bayesian_{name}")
    shapes = sorted(
        tuple(p.shape)
        for n, p in bayesian.named_parameters()
        if not n.endswith("posterior.rho")
    )
    assert shapes == sorted(tuple(p.shape) for p in plain.parameters())
    assert type(bayesian) is network


@every_bayesian
def test_a_trace_has_a_site_for_every_weight(name):
    model = _small(name).eval()
    trace = poutine.trace(model).get_trace(_image())
    sites = {n: trace.nodes[n]["value"].shape for n in trace.stochastic_nodes}
    assert sites == {n: mean.shape for n, mean in _means(model).items()}
    assert len(sites) > 3
    trace.compute_log_prob()
    for site, mean in _means(model).items():
        node = trace.nodes[site]
        if site.endswith(".gate"):
            q = torch.distributions.Bernoulli(mean)
            assert set(node["value"].tolist()) <= {0.0, 1.0}
        else:
            q = torch.distributions.Normal(mean, node["fn"].base_dist.scale)
        torch.testing.assert_close(node["log_prob"], q.log_prob(node["value"]).sum())


@every_bayesian
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_replay_reproduces_the_output(name, estimator):
    model = _small(name, estimator=estimator).train()
    image = _image()
    # Flipout's signs are not weights; in eval mode it has none.
    model.train(estimator != "flipout")
    trace = poutine.trace(model).get_trace(image)
    output = trace.nodes["_RETURN"]["value"]
    assert poutine.replay(model, trace=trace)(image).equal(output)
    assert not model(image).equal(output)


def _drawn_weights(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """What `realise(model, seed)` drew, read off with batch norm made an identity."""
    copy = {k: v.clone() for k, v in model.state_dict().items()}
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm3d):
            norm.reset_parameters()
            norm.running_var.fill_(1 - norm.eps)
    drawn = realise(model, seed).state_dict()
    model.load_state_dict(copy)
    return {site: drawn[site] for site in _means(model)}


@every_bayesian
def test_conditioning_on_a_draw_gives_its_output(name):
    model = _lived(_small(name)).eval()
    image = _image()
    weights = _drawn_weights(model, 7)
    output = poutine.condition(model, weights)(image)
    torch.testing.assert_close(realise(model, 7)(image), output, rtol=1e-4, atol=1e-5)
    assert (realise(model, 8)(image) - output).abs().max() > 1e-3


@every_bayesian
def test_block_hides_the_sites(name):
    model = _small(name)
    hidden = poutine.trace(poutine.block(model)).get_trace(_image())
    assert not hidden.stochastic_nodes
    some = poutine.block(model, hide=["head.weight"])
    nodes = poutine.trace(some).get_trace(_image()).stochastic_nodes
    assert set(nodes) == set(_means(model)) - {"head.weight"}


@every_bayesian
def test_two_models_with_the_same_sites_leave_each_other_alone(name):
    pyro.clear_param_store()
    first, second = _lived(_small(name)).eval(), _lived(_small(name)).eval()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)
    image = _image()

    def output(model: nn.Module) -> Tensor:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            return model(image)

    before = output(first)
    other = output(second)
    assert not before.equal(other)
    poutine.trace(second).get_trace(image)
    model_divergence(second).backward()
    assert output(first).equal(before)
    assert output(second).equal(other)
    assert len(pyro.get_param_store()) == 0


@every_bayesian
def test_a_user_can_plug_in_a_guide(name):
    model = _lived(_small(name)).eval()
    image = _image()
    values = {site: torch.randn_like(mean) / 10 for site, mean in _means(model).items()}

    def guide(_image: Tensor) -> None:
        for site, value in values.items():
            pyro.sample(site, dist.Delta(value).to_event())

    trace = poutine.trace(guide).get_trace(image)
    output = poutine.replay(model, trace=trace)(image)
    assert output.equal(poutine.condition(model, values)(image))
    assert not output.equal(model(image))


LOGITS = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))
TARGET = torch.tensor([0, 1, 1])


def _voxels(rows: Tensor) -> Tensor:
    """Rows (voxel, class) as logits (1, C, voxels, 1, 1)."""
    return rows.T[None, :, :, None, None]


def test_cross_entropy_by_hand():
    loss = LOSSES["cross_entropy"]()(_voxels(LOGITS), TARGET[None, :, None, None])
    expected = -(math.log(0.5) + math.log(0.8) + math.log(0.2)) / 3
    assert loss.item() == pytest.approx(expected)


def test_weighted_cross_entropy_by_hand():
    weighted = LOSSES["cross_entropy"](torch.tensor([3.0, 1.0, 7.0]))
    loss = weighted(_voxels(LOGITS), TARGET[None, :, None, None])
    expected = -(3 * math.log(0.5) + math.log(0.8) + math.log(0.2)) / 5
    assert loss.item() == pytest.approx(expected)


# Soft Dice 2 Σ p t / (Σ p + Σ t) of each class of LOGITS and TARGET.
SOFT_DICE = [2 * 0.5 / (0.8 + 1), 2 * (0.8 + 0.2) / (1.25 + 2), 0.0]


def test_dice_by_hand():
    loss = LOSSES["dice"]()(_voxels(LOGITS), TARGET[None, :, None, None])
    assert loss.item() == pytest.approx(1 - sum(SOFT_DICE) / 3, abs=1e-4)


def test_weighted_dice_by_hand():
    weight = torch.tensor([1.0, 0.5, 0.0])
    loss = LOSSES["dice"](weight)(_voxels(LOGITS), TARGET[None, :, None, None])
    expected = ((1 - SOFT_DICE[0]) + 0.5 * (1 - SOFT_DICE[1])) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("weight", [None, torch.tensor([3.0, 1.0, 0.5])])
def test_dice_ce_is_the_sum_of_both(weight):
    args = _voxels(LOGITS), TARGET[None, :, None, None]
    parts = LOSSES["dice"](weight)(*args) + LOSSES["cross_entropy"](weight)(*args)
    torch.testing.assert_close(LOSSES["dice_ce"](weight)(*args), parts)


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_answer_costs_nothing_and_its_logits_get_gradients(name):
    target = torch.randint(
        0, 3, (2, 4, 4, 4), generator=torch.Generator().manual_seed(0)
    )
    perfect = 100 * nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert LOSSES[name]()(perfect, target).item() == pytest.approx(0, abs=1e-4)
    logits = torch.zeros(2, 3, 4, 4, 4, requires_grad=True)
    LOSSES[name]()(logits, target).backward()
    assert (logits.grad.abs() > 0).all()


def test_inverse_frequency_by_hand():
    # Frequencies 3/4, 0, 1/4: inverses 4/3 and 4, scaled to mean 1.
    weights = inverse_frequency(torch.tensor([300, 0, 100]))
    assert weights.tolist() == pytest.approx([0.5, 0.0, 1.5])
    assert weights.dtype == torch.float32
    equal = inverse_frequency(torch.full((4,), 10**12))
    assert equal.tolist() == pytest.approx([1.0] * 4)
