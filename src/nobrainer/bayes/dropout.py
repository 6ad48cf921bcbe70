"""Dropout of whole channels, by name: at a fixed rate, or at rates that are learned.

Every entry of `DROPOUTS` takes the number of channels and the dropout rate. Where
rates are learned, that is the rate at the start.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro.distributions import Bernoulli, RelaxedBernoulli
from torch import Tensor, nn
from torch.distributions import TransformedDistribution, kl_divergence
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.transforms import SigmoidTransform

from nobrainer.bayes.layers import StochasticLayer
from nobrainer.checks import check_between, check_positive
from nobrainer.errors import InputError
from nobrainer.registry import Registry

LEAST, MOST = 0.05, 0.95
"""Bounds of a learned probability: at 0 or 1 a filter would be lost or certain."""

DROPOUTS: Registry[Callable[[int, float], nn.Module]] = Registry("dropout_type")


@DROPOUTS.register("spatial")
def spatial(channels: int, rate: float) -> nn.Module:
    """Turn every channel off at one fixed rate; divide the others by (1 - rate).

    Args:
        channels: number of channels; the rate is the same for each.
        rate: probability that a channel is off, in [0, 1).

    Raises: InputError where the rate is out of range.
    Source: Tompson et al. 2015; Gal, Ghahramani 2016, with draws at prediction.
    """
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise InputError(f"dropout_rate must lie in [0, 1), got {rate!r}")
    return nn.Dropout3d(rate)


@DROPOUTS.register("concrete")
def concrete(channels: int, rate: float) -> nn.Module:
    """Turn every channel off at a rate of its own, which is learned.

    Args:
        channels: number of channels.
        rate: rate of every channel at the start, in [0.05, 0.95].

    Raises: InputError where the rate is out of range.
    """
    if not isinstance(rate, int | float) or not LEAST <= rate <= MOST:
        raise InputError(
            f"dropout_rate must lie in [{LEAST}, {MOST}] with dropout_type='concrete', "
            f"where learning starts from it, got {rate!r}: give 0.1, for instance"
        )
    return ConcreteDropout3d(channels, 1 - rate)


class ConcreteDropout3d(StochasticLayer):
    """A random gate on each channel, whose probability of being open is learned.

    Parameters. A logit for each channel: the gate is open, b = 1, with the probability
    p = sigmoid(logit), kept within [0.05, 0.95], and else shut, b = 0. So
    q(b) = Πc Bernoulli(bc; pc). The gate belongs to the weights of the filter before
    it: the effective weight is w = b · g. So an open gate is 1, not 1/p as in
    `nn.Dropout3d`: the factor would depend on the parameter that is learned, and q(b)
    would not be the Bernoulli distribution whose divergence is taken.

    Draw. In training a gate is relaxed, drawn for each example and channel:
    b = sigmoid((logit + ln u - ln(1 - u)) / t) with noise u in (0, 1) and the
    temperature t. Outside of training a gate is open or shut and drawn for each
    channel, once for the batch, like a Bayesian layer's weight.

    KL. From a Bernoulli prior with the probability r of being open,
    Σc pc ln(pc / r) + (1 - pc) ln((1 - pc) / (1 - r)).

    Gradient. Through the relaxed gate and the KL to the logits; where p is at a bound,
    only the part that leads back inside.

    Args:
        channels: C of the input.
        keep_probability: initial probability p that a gate is open, in [0.05, 0.95].
        temperature: temperature t of the relaxation, > 0; towards 0 a gate is open or
            shut.
        prior: the prior's probability r that a gate is open, between 0 and 1.

    Input and output (B, C, I, J, K).
    Raises: InputError where an argument is out of range.
    Source: Gal, Hron, Kendall 2017, Concrete dropout, arXiv:1705.07832 (there one rate
    a layer); McClure et al. 2019, doi 10.3389/fninf.2019.00067 (one a filter).
    """

    temperature: float
    prior: float
    logit: nn.Parameter

    def __init__(
        self,
        channels: int,
        keep_probability: float = 0.9,
        temperature: float = 0.1,
        prior: float = 0.5,
    ) -> None:
        super().__init__()
        if not LEAST <= keep_probability <= MOST:
            raise InputError(
                f"keep_probability must lie in [{LEAST}, {MOST}], "
                f"got {keep_probability!r}"
            )
        check_positive("temperature", temperature)
        check_between("prior", prior)
        self.temperature = temperature
        self.prior = prior
        logit = math.log(keep_probability / (1 - keep_probability))
        self.logit = nn.Parameter(torch.full((channels,), logit))

    @property
    def keep_probability(self) -> Tensor:
        """Probability p that each channel's gate is open (C,), in [0.05, 0.95]."""
        # Read around PyroModule's attribute hook, as `BayesianLayer.posteriors` does.
        logit = self._parameters["logit"]
        assert logit is not None
        return _Bounded.apply(torch.sigmoid(logit), LEAST, MOST)

    @property
    def n_weights(self) -> int:
        """Number of gates, C."""
        return self.keep_probability.numel()

    @property
    def is_random(self) -> bool:
        """Whether two draws can differ: always, as no gate is certain."""
        return True

    def forward(self, x: Tensor) -> Tensor:
        """Draw gates and multiply the channels of x (B, C, I, J, K) by them.

        Returns: (B, C, I, J, K).
        """
        p = self.keep_probability
        # No validation, for which the processor would wait; p is within its bounds.
        q = Bernoulli(p, validate_args=False)
        if self.training:
            temperature = p.new_full((), self.temperature)
            q = _Relaxed(temperature, p.expand(len(x), -1))
        gate = pyro.sample(self.site_name("gate"), q.to_event())
        return x * gate.to(x)[..., None, None, None]

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None) -> Tensor:
        """Draw the gate of each channel.

        Args:
            generator: source of the random numbers, on the CPU; None asks for the mean.

        Returns: (C,), 0 for shut and 1 for open; the probabilities p as the mean.
        """
        p = self.keep_probability
        if generator is None:
            return p
        return (torch.rand(p.shape, generator=generator).to(p) < p).to(p)

    def divergences(self) -> Iterator[Tensor]:
        """KL(q‖p) of all gates, in nats."""
        p = self.keep_probability
        prior = Bernoulli(torch.full_like(p, self.prior), validate_args=False)
        yield kl_divergence(Bernoulli(p, validate_args=False), prior).sum()


class _Relaxed(RelaxedBernoulli):
    """A relaxed gate whose parameters are not checked.

    `RelaxedBernoulli` does not hand that wish on to what it is made of.
    """

    def __init__(self, temperature: Tensor, probs: Tensor) -> None:
        base = LogitRelaxedBernoulli(temperature, probs, validate_args=False)
        transform = SigmoidTransform()
        TransformedDistribution.__init__(self, base, transform, validate_args=False)


class _Bounded(torch.autograd.Function):
    """Clamp whose gradient is that of the identity, unless it leads further out.

    With `torch.clamp` a probability that a step took over a bound would have no
    gradient, and stay there for ever.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float, most: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = least, most
        return x.clamp(least, most)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        least, most = ctx.bounds
        # Descent goes against the gradient.
        outward = ((x < least) & (gradient > 0)) | ((x > most) & (gradient < 0))
        return gradient.masked_fill(outward, 0.0), None, None
