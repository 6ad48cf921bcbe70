"""Start a Bayesian network from a trained deterministic one."""

import torch
from torch import Tensor, nn

from nobrainer.bayes.layers import BayesianLayer
from nobrainer.checks import check_positive
from nobrainer.errors import InputError

LEAST_SCALE = 1e-6
"""Lower bound of the standard deviation, for weights w with a smaller delta · |w|."""


def warm_start(bayesian: nn.Module, trained: nn.Module, delta: float = 0.05) -> None:
    """Move every posterior of `bayesian` to the weights of `trained`.

    The mean becomes the trained weight w, the standard deviation delta · |w|. All
    else (batch norm) is copied. Unlike in the source, the prior stays as it is: it is
    an argument of the model, which its recipe must be able to rebuild.

    Args:
        bayesian: network with Bayesian layers, which is changed in place.
        trained: the same network with plain layers.
        delta: standard deviation as a fraction of the weight, positive.

    Raises: InputError where the networks differ, or `bayesian` has no Bayesian layer.
    Source: Krishnan, Subedar, Tickoo 2020, MOPED, arXiv:1906.05323, section 3.
    """
    check_positive("delta", delta)
    posteriors = {
        f"{name}.{kind}": posterior
        for name, layer in bayesian.named_modules()
        if isinstance(layer, BayesianLayer)
        for kind, posterior in layer.posteriors().items()
    }
    if not posteriors:
        raise InputError(
            "bayesian must be a network with Bayesian layers: build bayesian_vnet, "
            "for instance"
        )
    others = {
        place: value
        for place, value in bayesian.state_dict(keep_vars=True).items()
        if "_posterior." not in place
    }
    source = trained.state_dict()
    _check_match({p: q.mean for p, q in posteriors.items()} | others, source)
    with torch.no_grad():
        for place, posterior in posteriors.items():
            weight = source[place]
            posterior.assign(weight, (delta * weight.abs()).clamp_min(LEAST_SCALE))
        for place, value in others.items():
            value.copy_(source[place])


def _check_match(target: dict[str, Tensor], source: dict[str, Tensor]) -> None:
    """Raise unless both networks have the same shapes at the same places."""
    for place in [*target, *source]:
        shapes = [
            tuple(side[place].shape) if place in side else "nothing"
            for side in (target, source)
        ]
        if shapes[0] != shapes[1]:
            raise InputError(
                "trained must be the same network as bayesian, but at "
                f"{place!r} it has {shapes[1]} where bayesian has {shapes[0]}: train "
                "one with the same arguments"
            )
