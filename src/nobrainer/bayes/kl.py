"""KL(q‖p) of a model: a function of its parameters alone, valid before any forward."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, kl_divergence

from nobrainer.bayes.layers import StochasticLayer


def divergence(q: Distribution, p: Distribution) -> Tensor:
    """KL(q‖p) summed over all weights, in nats.

    Exact where `torch.distributions` has a closed form (gates; Normal and Laplace
    priors). Where q is a point w it is -log p(w), the KL up to a constant that is
    infinite: minimising it gives the maximum a posteriori. Else one Monte-Carlo
    sample per weight, unbiased and differentiable through the reparameterised sample
    (torch's global generator).
    """
    return _total([(q, p)])


def model_divergence(model: nn.Module) -> Tensor:
    """`divergence` summed over the stochastic layers of `model`; 0 without any."""
    return _total(_factors(model))


def n_stochastic_weights(model: nn.Module) -> int:
    """Of how many weights and gates `model_divergence` is the sum."""
    return sum(q.batch_shape.numel() for q, _ in _factors(model))


def _factors(model: nn.Module) -> Iterator[tuple[Distribution, Distribution]]:
    for layer in model.modules():
        if isinstance(layer, StochasticLayer):
            yield from layer.factors()


def _total(factors: Iterable[tuple[Distribution, Distribution]]) -> Tensor:
    gaussian: list[tuple[Normal, Normal]] = []
    terms: list[Tensor] = []
    for q, p in factors:
        if isinstance(q, Normal) and isinstance(p, Normal) and _is_constant(p):
            gaussian.append((q, p))
        else:
            terms.append(_term(q, p))
    if gaussian:
        parts = zip(
            *((q.loc, q.scale, p.loc, p.scale) for q, p in gaussian), strict=True
        )
        means, scales, locs, spreads = parts
        priors = torch.stack(locs), torch.stack(spreads)
        terms.append(_GaussianDivergence.apply(*priors, *means, *scales))
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _term(q: Distribution, p: Distribution) -> Tensor:
    try:
        return kl_divergence(q, p).sum()
    except NotImplementedError:
        w = q.rsample()
        return (q.log_prob(w) - p.log_prob(w)).sum()


def _is_constant(p: Normal) -> bool:
    """Whether p is one distribution for all weights, with nothing to be learned."""
    return not p.batch_shape and not (p.loc.requires_grad or p.scale.requires_grad)


class _GaussianDivergence(torch.autograd.Function):
    """KL(N(mean, scale²)‖N(loc, spread²)) summed over layers, the priors held fixed.

    What `kl_divergence` gives, which keeps a dozen tensors of the weights' size for
    its gradient where the closed form needs two.
    """

    @staticmethod
    def forward(ctx: Any, loc: Tensor, spread: Tensor, *parameters: Tensor) -> Tensor:
        """`loc` and `spread` (layers,); `parameters`: all means, then all scales."""
        ctx.save_for_backward(loc, spread, *parameters)
        means, scales = parameters[: len(loc)], parameters[len(loc) :]
        norm = torch.linalg.vector_norm
        apart = torch.stack([norm(m - at) for m, at in zip(means, loc, strict=True)])
        wide = torch.stack([norm(scale) for scale in scales])
        logs = torch.stack([scale.log().sum() for scale in scales])
        sizes = loc.new_tensor([mean.numel() for mean in means])
        squares = (apart / spread).square() + (wide / spread).square()
        return (squares / 2 - logs + sizes * (spread.log() - 0.5)).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        loc, spread, *parameters = ctx.saved_tensors
        means, scales = parameters[: len(loc)], parameters[len(loc) :]
        factors = gradient / spread.square()
        by_means = [
            (mean - at).mul_(factor)
            for mean, at, factor in zip(means, loc, factors, strict=True)
        ]
        by_scales = [
            (scale * factor).sub_(gradient / scale)
            for scale, factor in zip(scales, factors, strict=True)
        ]
        return None, None, *by_means, *by_scales
