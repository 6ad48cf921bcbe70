"""What training asks of a GPU, as far as it can be seen without one."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from launches import Watching
from nobrainer import models
from nobrainer.errors import DivergedError
from nobrainer.training import fit, tally, watch
from nobrainer.training.watch import Watch

_WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "bincount", "_unique2"}
_COPIES = {
    *(torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor),
    *(Tensor.tolist, Tensor.numpy, Tensor.cpu),
}


class _Waits(Watching):
    """Counts the calls for which the processor would wait for a GPU."""

    n = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.n += func.overloadpacket.__name__ in _WAITS
        return func(*args, **(kwargs or {}))


class _Copies(TorchFunctionMode):
    """Counts the calls that would copy numbers to a GPU or from it."""

    n = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.n += func in _COPIES
        return func(*args, **(kwargs or {}))


@pytest.fixture
def gpu(monkeypatch):
    """The way of a GPU, on the CPU; only the first losses are due to be looked at."""
    for module in (tally, watch):
        monkeypatch.setattr(module, "is_remote", lambda device: True)
    monkeypatch.setattr(watch, "LOOK_S", math.inf)


def _train(model: nn.Module, n: int, criterion: Any = None) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, 8, 8, 8, generator=generator)
    pairs = list(zip(images, (images[:, 0] > 0).long(), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    loss = criterion or nn.CrossEntropyLoss()
    return fit(model, DataLoader(pairs, 1), loss, optimizer, gpus=0, gradient_clip=1.0)


def _model(name: str = "bayesian_vnet", **args: Any) -> nn.Module:
    size = {"levels": 1} if name == "bayesian_vnet" else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build(name, base_filters=2, **size, **args)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"prior_type": "laplace"},
        {"prior_type": "spike_and_slab", "estimator": "flipout"},
        {"dropout_rate": 0.5, "dropout_type": "concrete"},
        {"name": "kwyk", "dilations": [1]},
    ],
)
def test_a_step_waits_for_nothing(args):
    model = _model(**args)
    at_step: list[tuple[int, int]] = []
    model.register_forward_pre_hook(lambda *_: at_step.append((waits.n, copies.n)))
    with _Waits() as waits, _Copies() as copies:
        _train(model, 4)
    # The first forward looks at the model; then the first loss is looked at.
    assert at_step[2] > at_step[1]
    assert at_step[2] == at_step[-1]
    assert waits.n > at_step[-1][0]


def test_figures_are_those_of_a_cpu(request):
    of_cpu = _train(_model(), 3)[0]
    request.getfixturevalue("gpu")
    of_gpu = _train(_model(), 3)[0]
    for name in ("loss", "data_loss", "kl", "dice", "steps"):
        assert of_gpu[name] == of_cpu[name]
    assert 0 < of_cpu["dice"] < 1


@pytest.mark.usefixtures("gpu")
def test_a_late_look_names_the_batch(monkeypatch):
    seen = Watch()
    seen.add(torch.tensor(1.0), "a", 0.5)
    assert seen.is_waiting
    for n, value in enumerate([2.0, math.inf, math.nan]):
        seen.add(torch.tensor(value), f"batch {n}", 0.9)
        assert not seen.is_waiting
    with pytest.raises(DivergedError, match=r"the loss is inf in batch 1: give a low"):
        seen.look()
    seen.look()
    # The clock of the next epoch begins anew.
    with pytest.raises(DivergedError, match="nan in b"):
        seen.add(torch.tensor(math.nan), "b", 0.1)
    monkeypatch.setattr(watch, "LOOK_S", 1.0)
    seen.add(torch.tensor(math.nan), "c", 1.0)
    with pytest.raises(DivergedError, match="nan in c"):
        seen.add(torch.tensor(1.0), "d", 1.1)


@pytest.mark.usefixtures("gpu")
def test_an_epoch_does_not_end_with_a_loss_that_is_not_finite():
    calls = []

    def criterion(logits: Tensor, label: Tensor) -> Tensor:
        calls.append(logits)
        loss = nn.functional.cross_entropy(logits, label)
        return loss * (math.nan if len(calls) == 2 else 1)

    with pytest.raises(DivergedError, match=r"the loss is nan in epoch 1, batch 2 \("):
        _train(_model(), 4, criterion)
    assert len(calls) == 4
