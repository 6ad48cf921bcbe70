"""The objectives that training minimises: modules that map a batch to a loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nobrainer.bayes.kl import model_divergence, n_stochastic_weights
from nobrainer.bayes.layers import one_draw
from nobrainer.types import Images, Labels


class Loss(NamedTuple):
    """A batch's loss and its parts: total = data + weighted divergence.

    total: the loss to minimise, a scalar.
    data: the term that looks at the labels, a mean over voxels.
    kl: KL(q‖p) in nats, unweighted.
    logits: the network's output (B, C, I, J, K).
    """

    total: Tensor
    data: Tensor
    kl: Tensor
    logits: Tensor


class Supervised(nn.Module):
    """The data term alone.

    Args:
        model: maps images (B, 1, I, J, K) to logits (B, C, I, J, K).
        loss: maps logits and labels (B, I, J, K) to a mean over voxels.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, image: Images, label: Labels) -> Loss:
        """The loss of a batch, whose divergence is 0.

        Args:
            image: images (B, 1, I, J, K).
            label: class of each voxel (B, I, J, K).
        """
        logits = self.model(image)
        data = self.loss(logits, label)
        return Loss(data, data, torch.zeros_like(data), logits)


class Elbo(nn.Module):
    """The negative evidence lower bound per voxel: data term + weighted KL.

    total = data + kl_weight · KL(q‖p) / n_weights, where n_weights is the number of
    weights and gates that the divergence sums over. With the mean cross-entropy as data
    term, kl_weight = n_weights / n_voxels gives the exact bound. For a model whose
    weights are points, the loss is the negative log-posterior, and its minimum the
    maximum a posteriori.

    Args:
        model: a network with a `kl_weight`, a number or "elbo" (the exact one). Members
            of an ensemble are trained with an objective each.
        loss: maps logits and labels (B, I, J, K) to a mean over voxels.
        n_voxels: number of voxels of all training volumes.

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
        """The loss of a batch, from one draw of the weights.

        Args:
            image: images (B, 1, I, J, K).
            label: class of each voxel (B, I, J, K).
        """
        with one_draw(self.model):
            logits = self.model(image)
            kl = model_divergence(self.model)
        data = self.loss(logits, label)
        return Loss(data + self.kl_factor * kl, data, kl, logits)


def make_objective(
    network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], n_voxels: int
) -> Elbo | Supervised:
    """The objective of a network: `Elbo` where it has a `kl_weight`, else `Supervised`.

    Args:
        network: the network to train.
        loss: maps logits and labels (B, I, J, K) to a mean over voxels.
        n_voxels: number of voxels of all training volumes.
    """
    if hasattr(network, "kl_weight"):
        return Elbo(network, loss, n_voxels)
    return Supervised(network, loss)
