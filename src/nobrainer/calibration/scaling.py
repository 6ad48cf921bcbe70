"""The scaling of the logits that makes probabilities mean what they say."""

from collections.abc import Sequence
from math import log
from typing import Literal, get_args

import numpy as np
import scipy
import torch
from torch import Tensor

from nobrainer.checks import check_choice
from nobrainer.posthoc import Calibration

Method = Literal["temperature", "vector"]

_LOG_WEIGHT_LIMIT = log(20)
_BIAS_LIMIT = 10.0
_FEWEST_OF_CLASS = 100
_RIDGE = 1e-5


def fit_scaling(
    logits: Sequence[np.ndarray], truths: Sequence[np.ndarray], method: Method
) -> Calibration:
    """The scaling with the least negative log-likelihood of the mean over draws.

    What is calibrated is what prediction gives: the mean of the draws' softmax of
    weight · logit + bias. Every subject counts the same. A weight of class c is a
    common factor times a deviation. A class with fewer than 100 of the voxels, or
    that only one of several subjects has, keeps the common factor and a bias of 0. A
    fit of its own would drive the class out of every prediction.

    Args:
        logits: logits of each subject, (n_draws, n_voxels, C).
        truths: true classes of each subject, (n_voxels,).
        method: "temperature" (the common factor 1/T alone) or "vector".

    Returns:
        Weights, of which the common factor is in [1/20, 20], biases that sum to 0, and
        the mean negative log-likelihood, nats, which is never above that without
        scaling.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, 4.2.
    """
    check_choice("calibration method", method, get_args(Method))
    n_classes = logits[0].shape[-1]
    pairs = zip(logits, truths, strict=True)
    subjects = [(torch.from_numpy(z), torch.from_numpy(y)) for z, y in pairs]
    common = torch.from_numpy(_common_classes(truths, n_classes))

    def scaling(values: Tensor) -> tuple[Tensor, Tensor]:
        deviation = values.new_zeros(n_classes)
        bias = values.new_zeros(n_classes)
        if method == "vector":
            deviation, bias = values[1:].split(n_classes)
            # Centred, or what the common factor gains in driving out a class that is
            # not fitted would be taken back by the deviations of the others.
            deviation, bias = (
                torch.where(common, part - part[common].mean(), 0.0)
                for part in (deviation, bias)
            )
        return torch.exp(values[0] + deviation), bias

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(values, requires_grad=True)
        penalty = _RIDGE * (point[1:] ** 2).sum()
        penalty.backward()
        total = penalty.item()
        # A graph per subject: memory does not grow with their number.
        for scores, truth in subjects:
            share = _nll(scores, truth, *scaling(point)) / len(subjects)
            share.backward()
            total += share.item()
        assert point.grad is not None
        return total, point.grad.numpy()

    limits = _limits(common.tolist() if method == "vector" else ())
    start = np.zeros(len(limits))
    best = scipy.optimize.minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(-limit, limit) for limit in limits],
        options={"ftol": 1e-12, "gtol": 1e-7},
    ).x
    with torch.no_grad():
        weight, bias = scaling(torch.from_numpy(best))
        identity = scaling(torch.from_numpy(start))
        before, after = (
            float(np.mean([float(_nll(z, y, *used)) for z, y in subjects]))
            for used in (identity, (weight, bias))
        )
    return Calibration(
        method=method,
        weight=tuple(weight.tolist()),
        bias=tuple(bias.tolist()),
        n_subjects=len(subjects),
        nll_before=before,
        nll_after=after,
    )


def _common_classes(truths: Sequence[np.ndarray], n_classes: int) -> np.ndarray:
    """Which classes have enough voxels, in enough subjects, to be fitted apart."""
    counts = np.array([np.bincount(y, minlength=n_classes) for y in truths])
    seen_by = np.count_nonzero(counts, axis=0) >= min(2, len(counts))
    return (counts.sum(0) >= _FEWEST_OF_CLASS) & seen_by


def _limits(common: Sequence[bool]) -> list[float]:
    """How far from 0 each number of the fit may go: 0 for a class that is not fitted.

    Args:
        common: whether each class is fitted; empty where there is one temperature.
    """
    limits = [_LOG_WEIGHT_LIMIT]
    for limit in (_LOG_WEIGHT_LIMIT, _BIAS_LIMIT):
        limits += [limit if enough else 0.0 for enough in common]
    return limits


def _nll(logits: Tensor, truth: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Mean over voxels of -ln(mean over draws of the true class's probability)."""
    logs = torch.log_softmax(logits.double() * weight + bias, -1)
    of_truth = logs.gather(-1, truth.expand(len(logs), -1)[..., None])[..., 0]
    return log(len(logs)) - torch.logsumexp(of_truth, 0).mean()
