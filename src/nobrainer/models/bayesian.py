"""V-Net and MeshNet with Bayesian convolutions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from nobrainer.bayes.layers import POSTERIOR_SCALE, BayesianConv3d
from nobrainer.checks import check_kl_weight
from nobrainer.models.meshnet import MeshNet
from nobrainer.models.vnet import VNet


def _bayesian(
    network: Callable[..., nn.Module], kl_weight: float | str, **layer: Any
) -> nn.Module:
    """Build `network` with Bayesian convolutions made with the `layer` arguments."""
    check_kl_weight(kl_weight)
    model = network(conv=partial(BayesianConv3d, **layer))
    model.kl_weight = kl_weight  # type: ignore[assignment]
    return model


def bayesian_vnet(
    in_channels: int = 1,
    n_classes: int = 2,
    base_filters: int = 16,
    levels: int = 4,
    dropout_rate: float = 0.0,
    dropout_type: str = "spatial",
    prior_type: str = "standard_normal",
    prior_args: dict[str, Any] | None = None,
    kl_weight: float | str = "elbo",
    posterior_scale: float = POSTERIOR_SCALE,
    estimator: str = "shared",
) -> nn.Module:
    """A `VNet` whose convolution weights have Gaussian posteriors.

    Args:
        in_channels, n_classes, base_filters, levels, dropout_rate,
            dropout_type: see `VNet`.
        prior_type: "standard_normal", "laplace" or "spike_and_slab".
        prior_args: the prior's arguments, {"scale": 1.0} for instance.
        kl_weight: weight of KL/n_weights in the loss; "elbo" is the exact one,
            n_weights / number of training voxels.
        posterior_scale: initial posterior standard deviation as a fraction of that
            of the initial weights.
        estimator: how training draws; see `nobrainer.bayes.layers.ESTIMATORS`.

    Returns: a `VNet`, with the `kl_weight` as an attribute.
    Raises: InputError where an argument is unknown or out of range.
    """
    network = partial(
        VNet,
        in_channels,
        n_classes,
        base_filters,
        levels,
        dropout_rate,
        dropout_type,
    )
    return _bayesian(
        network,
        kl_weight,
        prior_type=prior_type,
        prior_args=prior_args,
        posterior_scale=posterior_scale,
        estimator=estimator,
    )


def bayesian_meshnet(
    in_channels: int = 1,
    n_classes: int = 2,
    base_filters: int = 21,
    dilations: Sequence[int] = (1, 1, 1, 2, 4, 8, 1),
    dropout_rate: float = 0.0,
    dropout_type: str = "spatial",
    prior_type: str = "standard_normal",
    prior_args: dict[str, Any] | None = None,
    kl_weight: float | str = "elbo",
    posterior_scale: float = POSTERIOR_SCALE,
    estimator: str = "shared",
) -> nn.Module:
    """A `MeshNet` whose convolution weights have Gaussian posteriors.

    Args:
        in_channels, n_classes, base_filters, dilations, dropout_rate,
            dropout_type: see `MeshNet`.
        prior_type, prior_args, kl_weight, posterior_scale, estimator: see
            `bayesian_vnet`.

    Returns: a `MeshNet`, with the `kl_weight` as an attribute.
    Raises: InputError where an argument is unknown or out of range.
    """
    network = partial(
        MeshNet,
        in_channels,
        n_classes,
        base_filters,
        dilations,
        dropout_rate,
        dropout_type,
    )
    return _bayesian(
        network,
        kl_weight,
        prior_type=prior_type,
        prior_args=prior_args,
        posterior_scale=posterior_scale,
        estimator=estimator,
    )
