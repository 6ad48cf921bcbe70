"""A draw is a network: turn a stochastic model into plain networks.

One draw serves a whole volume, so it is a coherent segmentation, and prediction
needs to know nothing about Bayes.
"""

import copy
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from nobrainer.bayes.drawn_layers import ChannelGate, ChannelMask, DrawnConv3d
from nobrainer.bayes.dropout import ConcreteDropout3d
from nobrainer.bayes.ensemble import EnsembleNetwork
from nobrainer.bayes.layers import BayesianLayer, StochasticLayer
from nobrainer.bayes.transfer import Mirror, is_remote


def mix_seed(seed: int, *names: object) -> int:
    """A seed in [0, 2⁶³) that depends on all arguments, the same on every machine.

    Args:
        seed: seed from which the new one is derived.
        names: what the new seed is for; others give independent random numbers.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def is_stochastic(model: nn.Module) -> bool:
    """Whether two draws of `model` can differ.

    Those of an ensemble do even without noise, as they come from different members.
    """
    if isinstance(model, EnsembleNetwork) and len(model.members) > 1:
        return True
    return any(
        (isinstance(m, StochasticLayer) and m.is_random)
        or (isinstance(m, nn.Dropout3d) and m.p > 0)
        for m in model.modules()
    )


class Draw(NamedTuple):
    """Which network a draw is.

    seed: seed of the weights; None stands for the posterior mean.
    member: number of the ensemble's member; 0 where the model is no ensemble.
    """

    seed: int | None
    member: int = 0


def plan_draws(model: nn.Module, seed: int, n_draws: int) -> list[Draw]:
    """The draws of one prediction, each with a seed of its own.

    Args:
        model: the network; the draws take the members of an ensemble in turn.
        seed: seed of the prediction.
        n_draws: number of draws; 0 is the posterior mean (of each member).

    Returns: `n_draws` draws. An ensemble of deterministic members has no more than
    one for each: more would repeat.
    """
    members = _members(model)
    if n_draws == 0:
        return [Draw(None, member) for member in range(len(members))]
    if len(members) > 1 and not any(map(is_stochastic, members)):
        n_draws = min(n_draws, len(members))
    return [Draw(mix_seed(seed, "draw", n), n % len(members)) for n in range(n_draws)]


def _members(model: nn.Module) -> list[nn.Module]:
    """The members of an ensemble, or the model itself as the only one."""
    return list(model.members) if isinstance(model, EnsembleNetwork) else [model]


@dataclass(frozen=True)
class _Drawn:
    """A layer of the model, its twin, and the batch norm folded into the twin."""

    name: str
    layer: nn.Module
    twin: nn.Module
    norm: nn.BatchNorm3d | None


class Draws:
    """A plain network on `device` whose weights can be set to any draw of `model`.

    Only one draw's weights exist at a time (for each member of an ensemble), so memory
    does not grow with the number of draws. The model is read again by every `set`,
    never changed.

    networks: the plain network of each member.
    network: the one that was set last.
    on_cpu: for each plain network its twin on the CPU, which has the same weights; on
        a CPU that is the network itself.

    Args:
        model: the network, with or without randomness, or an ensemble.
        device: where the plain network lives; None is the CPU.
        dtype: number format of the plain network's weights.
    """

    networks: list[nn.Module]
    network: nn.Module
    on_cpu: dict[nn.Module, nn.Module]
    device: torch.device
    dtype: torch.dtype

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.dtype = dtype
        self._twins = [_Twin(one, self.device, dtype) for one in _members(model)]
        self.networks = [twin.network for twin in self._twins]
        self.network = self.networks[0]
        self.on_cpu = {twin.network: twin.on_cpu for twin in self._twins}

    def set(self, seed: int | None, member: int = 0) -> Self:
        """Make `network` a draw.

        Args:
            seed: seed of the weights; None stands for the posterior mean.
            member: number of the ensemble's member that is drawn.
        """
        twin = self._twins[member]
        twin.set(seed)
        self.network = twin.network
        return self


class _Twin:
    """The plain network of one model, ensembles excluded."""

    # The twins initialise weights that nobody reads: training's random numbers must
    # not depend on whether a draw was made in between.
    @torch.random.fork_rng(devices=[])
    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        norms: dict[int, nn.BatchNorm3d] = {}
        for module in model.modules():
            if isinstance(module, nn.Sequential):
                norms |= {
                    id(conv): norm
                    for conv, norm in pairwise(module)
                    if isinstance(norm, nn.BatchNorm3d)
                }
        replaced: dict[int, nn.Module] = {}
        self._drawn: list[_Drawn] = []
        self._masks: list[tuple[str, ChannelMask]] = []
        self._gates: list[tuple[str, ConcreteDropout3d, ChannelGate]] = []
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout3d):
                mask = ChannelMask(module.p)
                replaced[id(module)] = mask
                self._masks.append((name, mask))
            elif isinstance(module, ConcreteDropout3d):
                gate = ChannelGate(len(module.logit))
                replaced[id(module)] = gate
                self._gates.append((name, module, gate))
            elif isinstance(module, BayesianLayer) or type(module) is nn.Conv3d:
                plain = module.twin() if isinstance(module, BayesianLayer) else module
                norm = norms.get(id(module))
                twin = _fast(plain, bias=norm is not None)
                replaced[id(module)] = twin
                self._drawn.append(_Drawn(name, module, twin, norm))
                if norm is not None:
                    replaced[id(norm)] = nn.Identity()
        # deepcopy takes from its memo what it has "already copied": the twins.
        network = copy.deepcopy(model, dict(replaced)).eval().requires_grad_(False)
        remote = is_remote(device)
        network.to(device="cpu", dtype=torch.float32 if remote else dtype)
        # channels_last_3d was measured up to 1.6 times faster on a CPU.
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.on_cpu: nn.Module = network
        self.network: nn.Module = network
        self._mirror: Mirror | None = None
        if remote:
            self._mirror = Mirror(network, device, dtype)
            self.network = self._mirror.network
            self._masks += [
                (name, self.network.get_submodule(name))  # type: ignore[misc]
                for name, _ in self._masks
            ]

    @torch.no_grad()
    def set(self, seed: int | None) -> None:
        """Put a draw's weights into `network`."""
        for name, mask in self._masks:
            mask.draw(None if seed is None else mix_seed(seed, name))
        for name, dropout, gate in self._gates:
            gate.gate.copy_(dropout.draw(_generator(seed, name, "gate")))
        for drawn in self._drawn:
            weight = _value(drawn, "weight", seed)
            assert weight is not None
            bias = _value(drawn, "bias", seed)
            if drawn.norm is not None:
                weight, bias = _fold(weight, bias, drawn.norm)
            twin_weight, twin_bias = drawn.twin.weight, drawn.twin.bias
            assert isinstance(twin_weight, Tensor)
            twin_weight.copy_(weight)
            if isinstance(twin_bias, Tensor) and bias is not None:
                twin_bias.copy_(bias)
        if self._mirror is not None:
            self._mirror.follow()


def realise(model: nn.Module, seed: int | None, member: int = 0) -> nn.Module:
    """The plain network, in eval mode, that is draw `seed` of `model`.

    Batch norm that directly follows a convolution in an `nn.Sequential` is folded into
    it. The same seed gives the same weights on every device.

    Args:
        model: the network, which is not changed.
        seed: seed of the weights; None stands for the posterior mean.
        member: number of the ensemble's member that is drawn.
    """
    return Draws(model).set(seed, member).network


def _fast(plain: nn.Module, *, bias: bool) -> nn.Module:
    """A copy of a plain layer for inference, with a bias if asked or present."""
    if not isinstance(plain, nn.Conv3d):
        return copy.deepcopy(plain)
    return DrawnConv3d(
        plain.in_channels,
        plain.out_channels,
        plain.kernel_size,  # type: ignore[arg-type]
        plain.stride,  # type: ignore[arg-type]
        plain.padding,  # type: ignore[arg-type]
        plain.dilation,  # type: ignore[arg-type]
        plain.groups,
        bias=bias or plain.bias is not None,
        padding_mode=plain.padding_mode,
    )


def _value(drawn: _Drawn, name: str, seed: int | None) -> Tensor | None:
    """The value of a layer's weight or bias in a draw."""
    if not isinstance(drawn.layer, BayesianLayer):
        return getattr(drawn.layer, name)
    posterior = drawn.layer.posteriors().get(name)
    if posterior is None:
        return None
    return posterior.draw(_generator(seed, drawn.name, name))


def _generator(seed: int | None, *names: str) -> torch.Generator | None:
    """The generator of one quantity of a draw; None for the posterior mean."""
    if seed is None:
        return None
    return torch.Generator().manual_seed(mix_seed(seed, *names))


def _fold(
    weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm3d
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does `norm(conv(x))` in eval mode."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    offset = -norm.running_mean if bias is None else bias - norm.running_mean
    return weight * factor[:, None, None, None, None], offset * factor + norm.bias
