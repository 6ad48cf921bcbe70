"""What training minimises: modules that map a batch to a loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nobrainer.bayes.kl import model_divergence, n_stochastic_weights
from nobrainer.bayes.layers import one_draw
from nobrainer.types import Images, Labels


class Loss(NamedTuple):
    """A batch's loss and its parts: total = data + weighted divergence.

    `kl` is KL(q‖p) in nats, unweighted; `logits` are (B, C, I, J, K).
    """

    total: Tensor
    data: Tensor
    kl: Tensor
    logits: Tensor


class Supervised(nn.Module):
    """The data term alone."""

    def __init__(
        self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, image: Images, label: Labels) -> Loss:
        """The loss of a batch; no divergence."""
        logits = self.model(image)
        data = self.loss(logits, label)
        return Loss(data, data, torch.zeros_like(data), logits)


class Elbo(nn.Module):
    """The negative evidence lower bound per voxel: data term + weighted KL.

    total = data + kl_weight · KL(q‖p) / n_weights, where n_weights counts the weights
    and gates that the divergence is a sum over. With the mean cross-entropy as data
    term, the exact bound is kl_weight = n_weights / n_voxels. Of a model whose weights
    are points it is the negative log-posterior, and its minimum the maximum a
    posteriori.

    Args:
        model: with `kl_weight`, a number or "elbo" (the exact one). An ensemble has
            none: each of its members has an objective of its own.
        loss: maps logits and labels to a mean per voxel.
        n_voxels: voxels of the training volumes.

    Source: Graves 2011; Blundell et al. 2015, eq. 2.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        n_voxels: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        n_weights = n_stochastic_weights(model)
        weight: Any = model.kl_weight
        exact = n_weights / n_voxels
        self.kl_weight = exact if weight == "elbo" else float(weight)
        self.kl_factor = self.kl_weight / n_weights

    def forward(self, image: Images, label: Labels) -> Loss:
        """The loss of a batch, from one draw of the weights."""
        with one_draw(self.model):
            logits = self.model(image)
            kl = model_divergence(self.model)
        data = self.loss(logits, label)
        return Loss(data + self.kl_factor * kl, data, kl, logits)


def make_objective(
    network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], n_voxels: int
) -> Elbo | Supervised:
    """What training minimises: the `Elbo` of a network with a `kl_weight`.

    Args:
        network: the network to train.
        loss: maps logits and labels to a mean per voxel.
        n_voxels: voxels of the training volumes.
    """
    if hasattr(network, "kl_weight"):
        return Elbo(network, loss, n_voxels)
    return Supervised(network, loss)
