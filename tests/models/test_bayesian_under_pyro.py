"""Every Bayesian model under the effect handlers of Pyro."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

from nobrainer.bayes.draws import realise
from nobrainer.bayes.kl import model_divergence
from nobrainer.bayes.layers import ESTIMATORS
from small_models import every_bayesian, lived, means_of, noise, small


@every_bayesian
def test_a_trace_has_a_site_for_every_weight(name):
    model = small(name).eval()
    trace = poutine.trace(model).get_trace(noise())
    sites = {n: trace.nodes[n]["value"].shape for n in trace.stochastic_nodes}
    assert sites == {n: mean.shape for n, mean in means_of(model).items()}
    assert len(sites) > 3
    trace.compute_log_prob()
    for site, mean in means_of(model).items():
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
    model = small(name, estimator=estimator).train()
    image = noise()
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
    return {site: drawn[site] for site in means_of(model)}


@every_bayesian
def test_conditioning_on_a_draw_gives_its_output(name):
    model = lived(small(name)).eval()
    image = noise()
    weights = _drawn_weights(model, 7)
    output = poutine.condition(model, weights)(image)
    torch.testing.assert_close(realise(model, 7)(image), output, rtol=1e-4, atol=1e-5)
    assert (realise(model, 8)(image) - output).abs().max() > 1e-3


@every_bayesian
def test_block_hides_the_sites(name):
    model = small(name)
    hidden = poutine.trace(poutine.block(model)).get_trace(noise())
    assert not hidden.stochastic_nodes
    some = poutine.block(model, hide=["head.weight"])
    nodes = poutine.trace(some).get_trace(noise()).stochastic_nodes
    assert set(nodes) == set(means_of(model)) - {"head.weight"}


@every_bayesian
def test_two_models_with_the_same_sites_leave_each_other_alone(name):
    pyro.clear_param_store()
    first, second = lived(small(name)).eval(), lived(small(name)).eval()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)
    image = noise()

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
    model = lived(small(name)).eval()
    image = noise()
    values = {
        site: torch.randn_like(mean) / 10 for site, mean in means_of(model).items()
    }

    def guide(_image: Tensor) -> None:
        for site, value in values.items():
            pyro.sample(site, dist.Delta(value).to_event())

    trace = poutine.trace(guide).get_trace(image)
    output = poutine.replay(model, trace=trace)(image)
    assert output.equal(poutine.condition(model, values)(image))
    assert not output.equal(model(image))
