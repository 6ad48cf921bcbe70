"""What `kl_weight` does to the posterior, in numbers.

python benchmarks/elbo.py
"""

import torch

from nobrainer import models
from nobrainer.bayes.kl import model_divergence
from nobrainer.bayes.layers import BayesianLayer
from nobrainer.losses import LOSSES
from nobrainer.training.objective import Elbo

STEPS = 2000


def posterior_after(kl_weight: float | str) -> tuple[float, float, float]:
    """Root mean square of means, mean of scales, KL per weight after training."""
    torch.manual_seed(0)
    model = models.build("bayesian_vnet", base_filters=4, levels=1, kl_weight=kl_weight)
    elbo = Elbo(model, LOSSES["cross_entropy"](), n_voxels=100_000)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    image = torch.randn(2, 1, 8, 8, 8)
    label = (image[:, 0] > 0).long()
    for _ in range(STEPS):
        optimizer.zero_grad()
        elbo(image, label).total.backward()
        optimizer.step()
    posteriors = [
        q
        for layer in model.modules()
        if isinstance(layer, BayesianLayer)
        for q in layer.posteriors().values()
    ]
    means = torch.cat([q.mean.detach().flatten() for q in posteriors])
    scales = torch.cat([q.scale.detach().flatten() for q in posteriors])
    kl = float(model_divergence(model).detach()) / len(means)
    return float(means.square().mean().sqrt()), float(scales.mean()), kl


def main() -> None:
    """Print a table; the prior is N(0, 1)."""
    print("| kl_weight | rms of means | mean of scales | KL per weight, nats |")
    print("|---|---|---|---|")
    for weight in (0.0, "elbo", 0.01, 1.0, 100.0):
        mean, scale, kl = posterior_after(weight)
        print(f"| {weight} | {mean:.3f} | {scale:.3f} | {kl:.4f} |")


if __name__ == "__main__":
    main()
