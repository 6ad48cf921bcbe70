"""The same network made of other packages' layers, each with its KL in the loss.

Its batch norm is PyTorch's, as whoever takes these packages has it. What is not
installed is left out; MONAI and Pyro are, wherever nobrainer is.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec

import pyro
import torch
from benchmarks.speed.limits import work_per_voxel
from monai.inferers import sliding_window_inference
from monai.networks.nets import UNet
from pyro.distributions import Categorical, Normal
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

from nobrainer.models.vnet import VNet

# Or networks with the same names of weights would share them.
pyro.settings.set(module_local_params=True)

PACKAGES = {
    "bayesian-torch": "bayesian_torch",
    "torch-uncertainty": "torch_uncertainty",
}
"""Names and modules of what may be missing."""
MISSING = [name for name, module in PACKAGES.items() if find_spec(module) is None]
RHO = -3.0
"""Initial softplus⁻¹ of the posterior's standard deviation."""


class _WithKl(nn.Module):
    """A layer of bayesian-torch, which returns its output and its KL."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.kl: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out, self.kl = self.layer(x)
        return out


def _bayesian_torch(name: str) -> Callable[..., nn.Module]:
    layer = getattr(import_module("bayesian_torch.layers"), name)

    def conv(c_in: int, c_out: int, kernel: int, **options: object) -> nn.Module:
        priors = {
            "prior_mean": 0.0,
            "prior_variance": 1.0,
            "posterior_mu_init": 0.0,
            "posterior_rho_init": RHO,
        }
        return _WithKl(layer(c_in, c_out, kernel, **priors, **options))

    return conv


def _torch_uncertainty() -> Callable[..., nn.Module]:
    # The top module imports torchvision, the layers only PyTorch.
    spec = find_spec("torch_uncertainty")
    assert spec is not None
    sys.modules["torch_uncertainty"] = module_from_spec(spec)
    layer = import_module("torch_uncertainty.layers.bayesian").BayesConv3d

    def conv(c_in: int, c_out: int, kernel: int, **options: object) -> nn.Module:
        return layer(c_in, c_out, kernel, sigma_init=RHO, **options)

    return conv


class _Objective(nn.Module):
    """Cross-entropy + KL / `n_voxels`; the KL is read after the pass."""

    def __init__(
        self, model: nn.Module, kl: Callable[[nn.Module], Tensor], n_voxels: int
    ) -> None:
        super().__init__()
        self.model, self.kl, self.n_voxels = model, kl, n_voxels
        self.loss = nn.CrossEntropyLoss()

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        data = self.loss(self.model(image), label)
        return data + self.kl(self.model) / self.n_voxels


def _kl_bayesian_torch(model: nn.Module) -> Tensor:
    return sum(m.kl for m in model.modules() if isinstance(m, _WithKl))  # type: ignore[misc,return-value]


def _kl_torch_uncertainty(model: nn.Module) -> Tensor:
    # As its `KLDiv`, which cannot be imported without torchvision.
    return sum(
        m.log_variational_posterior - m.log_prior
        for m in model.modules()
        if hasattr(m, "log_variational_posterior")
    )


class _PyroModel(PyroModule):
    """The network under a prior, and the labels that it explains."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        to_pyro_module_(self.network)
        for module in self.network.modules():
            if isinstance(module, nn.Conv3d):
                for name in ("weight", "bias"):
                    value = getattr(module, name)
                    if value is not None:
                        zero = torch.zeros_like(value, requires_grad=False)
                        prior = Normal(zero, zero + 1).to_event(value.ndim)
                        setattr(module, name, PyroSample(prior))

    def forward(self, image: Tensor, label: Tensor) -> None:
        logits = self.network(image).movedim(1, -1)
        pyro.sample("label", Categorical(logits=logits).to_event(4), obs=label)


def _pyro(network: nn.Module, image: Tensor, label: Tensor) -> nn.Module:
    """Plain Pyro: `PyroSample` weights, `AutoNormal`, stochastic VI."""
    model = _PyroModel(network)
    guide = AutoNormal(model, init_scale=0.01)
    guide(image, label)  # Makes the guide's parameters.
    return Trace_ELBO()(model, guide)


def _with_usual_norms(network: nn.Module) -> nn.Module:
    """With PyTorch's batch norm in place of ours."""
    for module in [*network.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm3d):
                setattr(module, name, nn.BatchNorm3d(child.num_features))
    return network


def bayesian(
    base_filters: int, levels: int, image: Tensor, label: Tensor
) -> dict[str, Callable[[], nn.Module]]:
    """What builds each peer's objective, image and label → loss, on their device."""

    def vnet(conv: Callable[..., nn.Module] = nn.Conv3d) -> nn.Module:
        torch.manual_seed(0)
        network = VNet(1, 2, base_filters, levels, conv=conv)
        return _with_usual_norms(network).to(image.device)

    def objective(
        conv: Callable[..., nn.Module], kl: Callable[[nn.Module], Tensor]
    ) -> Callable[[], nn.Module]:
        return lambda: _Objective(vnet(conv), kl, label.numel())

    found = {}
    if "bayesian-torch" not in MISSING:
        for name in ("Conv3dReparameterization", "Conv3dFlipout"):
            conv = _bayesian_torch(name)
            found[f"bayesian-torch {name}"] = objective(conv, _kl_bayesian_torch)
    if "torch-uncertainty" not in MISSING:
        conv = _torch_uncertainty()
        found["torch-uncertainty BayesConv3d"] = objective(conv, _kl_torch_uncertainty)
    found["Pyro PyroSample + AutoNormal"] = lambda: _pyro(vnet(), image, label)
    return found


def unet_of(flop_per_voxel: float, levels: int) -> tuple[nn.Module, int]:
    """MONAI's residual U-Net whose FLOP come closest, and its first width."""

    def build(width: int) -> nn.Module:
        channels = [width * 2**n for n in range(levels)]
        return UNet(3, 1, 2, channels, [2] * (levels - 1), num_res_units=2)

    def gap(width: int) -> float:
        return abs(work_per_voxel(build(width), torch.float32).flop - flop_per_voxel)

    width = min(range(4, 68, 4), key=gap)
    torch.manual_seed(0)
    return build(width), width


class SlidingWindows:
    """MONAI's inferer in a loop over draws: label, variance and entropy.

    A network with Bayesian layers draws its weights again in each of its calls.
    """

    def __init__(
        self, model: nn.Module, image: Tensor, n_classes: int, window: int
    ) -> None:
        self.model, self.image, self.window = model, image, window
        self.shape = (n_classes, *image.shape[2:])

    @torch.inference_mode()
    def start(self) -> None:
        """Make room for the sums; `fill_` touches it."""
        device = self.image.device
        self.mean = torch.empty(self.shape, device=device).fill_(0)
        self.square = torch.empty(self.shape, device=device).fill_(0)

    @torch.inference_mode()
    def draw(self) -> None:
        """Add one draw to the sums."""
        logits = sliding_window_inference(
            self.image, [self.window] * 3, 4, self.model, overlap=0.25
        )
        probabilities = torch.softmax(logits[0].float(), 0)
        del logits
        self.mean.add_(probabilities)
        self.square.addcmul_(probabilities, probabilities)

    @torch.inference_mode()
    def finish(self, n_samples: int = 1) -> list[Tensor]:
        """The maps, on the CPU; the sums are gone afterwards."""
        mean, square = self.mean.div_(n_samples), self.square.div_(n_samples)
        del self.mean, self.square
        variance = square.addcmul_(mean, mean, value=-1).mean(0)
        maps = [mean.argmax(0), variance, torch.special.entr(mean).sum(0)]
        return [values.cpu() for values in maps]
