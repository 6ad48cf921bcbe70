"""A posterior that the library does not have, added in one class."""

import math
from functools import partial

import pyro.poutine as poutine
import pytest
import torch
from pyro.distributions import Laplace
from torch import Tensor, nn

from bayesian_cases import small_batch
from nobrainer.bayes.draws import is_stochastic, realise
from nobrainer.bayes.kl import model_divergence, n_stochastic_weights
from nobrainer.bayes.layers import ESTIMATORS, BayesianConv3d
from nobrainer.bayes.posteriors import POSTERIORS, Posterior
from nobrainer.bayes.warm_start import warm_start
from nobrainer.losses import LOSSES
from nobrainer.models.vnet import VNet
from nobrainer.training.objective import Elbo


class LaplacePosterior(Posterior):
    """Independent Laplace distributions of density exp(-|w - mean| / b) / (2 b)."""

    def __init__(self, mean: Tensor, scale: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.detach().clone())
        self.log_b = nn.Parameter(torch.full_like(mean, math.log(scale / 2**0.5)))

    @property
    def scale(self) -> Tensor:
        return 2**0.5 * self.log_b.exp()

    @torch.no_grad()
    def assign(self, mean: Tensor, scale: Tensor) -> None:
        self.mean.copy_(mean)
        self.log_b.copy_((scale / 2**0.5).log())

    def distribution(self) -> Laplace:
        return Laplace(self.mean, self.log_b.exp())

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            return self.mean.detach()
        share = torch.rand(self.mean.shape, generator=generator).to(self.mean)
        return self.distribution().icdf(share.clamp(1e-6, 1 - 1e-6))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(POSTERIORS, "_entries", dict(POSTERIORS._entries))
    POSTERIORS.register("toy")(LaplacePosterior)


def network(**args) -> nn.Module:
    """A V-Net whose weights have the posterior of this file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = partial(BayesianConv3d, posterior="toy", **args)
        model = VNet(1, 2, base_filters=4, levels=2, conv=conv)
    model.kl_weight = "elbo"
    return model


@pytest.mark.parametrize(
    ("mean", "b", "scale"), [(0.0, 0.4, 0.4), (1.2, 0.3, 0.5), (-0.5, 2.0, 1.0)]
)
def test_its_divergence_is_the_closed_form(mean, b, scale):
    layer = BayesianConv3d(
        1, 2, 1, posterior="toy", prior_type="laplace", prior_args={"scale": scale}
    )
    for q in layer.posteriors().values():
        q.assign(torch.full_like(q.mean, mean), torch.full_like(q.mean, 2**0.5 * b))
    away = abs(mean)
    one = math.log(scale / b) + (away + b * math.exp(-away / b)) / scale - 1
    assert model_divergence(layer).item() == pytest.approx(4 * one, rel=1e-4, abs=1e-5)
    assert n_stochastic_weights(layer) == 4


def test_its_divergence_from_a_mixture_is_estimated():
    layer = BayesianConv3d(64, 64, 3, posterior="toy", prior_type="spike_and_slab")
    q, prior = layer.posteriors()["weight"], layer.prior()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        q.assign(torch.zeros_like(q.mean), torch.full_like(q.mean, 2**0.5 * 0.3))
        found = q.divergence(prior).item() / q.mean.numel()
    w = torch.linspace(-9, 9, 400_001, dtype=torch.float64)
    log_q = -w.abs() / 0.3 - math.log(0.6)
    exact = torch.trapezoid(log_q.exp() * (log_q - prior.log_prob(w)), w).item()
    assert found == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("prior", ["standard_normal", "laplace", "spike_and_slab"])
def test_it_is_trained_like_the_others(estimator, prior):
    model = network(estimator=estimator, prior_type=prior)
    image, label = small_batch()
    elbo = Elbo(model, LOSSES["cross_entropy"](), n_voxels=10**6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(25):
            optimizer.zero_grad()
            loss = elbo(image, label)
            loss.total.backward()
            if not losses:
                assert all((p.grad != 0).any() for p in model.parameters())
            optimizer.step()
            losses.append(loss.data.item())
    assert losses[-1] < 0.6 * losses[0]


def test_one_seed_gives_one_draw_from_it():
    model = network(posterior_scale=1.0).eval()
    image, _ = small_batch()
    assert is_stochastic(model)
    assert realise(model, 3)(image).equal(realise(model, 3)(image))
    assert not realise(model, 3)(image).equal(realise(model, 4)(image))
    q = model.encode[1].second[0].posteriors()["weight"]
    drawn = torch.stack(
        [realise(model, seed).encode[1].second[0].weight for seed in range(20)]
    )
    # Batch norm is folded into the drawn weight: at first it only divides by √(1 + ε).
    away = (drawn * (1 + 1e-5) ** 0.5 - q.mean).abs() / q.log_b.exp()
    # Of a Laplace distribution |w - mean| / b has the mean 1 and the variance 1.
    assert away.mean().item() == pytest.approx(1, abs=5 / away.numel() ** 0.5)
    assert (away > 3).float().mean().item() == pytest.approx(math.exp(-3), abs=0.005)


def test_it_starts_from_a_trained_network_and_is_seen_by_pyro():
    model, trained = network(), VNet(1, 2, base_filters=4, levels=2)
    warm_start(model, trained, delta=0.1)
    q = model.head.posteriors()["weight"]
    torch.testing.assert_close(q.mean, trained.head.weight)
    torch.testing.assert_close(q.scale, 0.1 * trained.head.weight.abs())
    image, _ = small_batch()
    trace = poutine.trace(model.eval()).get_trace(image)
    assert isinstance(trace.nodes["head.weight"]["fn"].base_dist, Laplace)
    assert trace.log_prob_sum().isfinite()
