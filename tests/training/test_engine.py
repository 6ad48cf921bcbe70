"""Number formats of a training."""

from types import SimpleNamespace

import pytest
import torch

from nobrainer.errors import InputError
from nobrainer.training import engine
from trainings import fit


@pytest.mark.parametrize(("generation", "auto"), [(7, "32-true"), (8, "bf16-mixed")])
def test_auto_takes_bfloat16_where_a_gpu_computes_it(monkeypatch, generation, auto):
    # PyTorch also says that it supports bfloat16 where it converts every number.
    gpu = SimpleNamespace(major=generation)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    assert engine.resolve_precision("auto") == auto
    assert engine.resolve_precision("16-mixed") == "16-mixed"
    cuda = torch.device("cuda")
    if auto == "32-true":
        with pytest.raises(InputError, match=r"this GPU has no .*: use .*'16-mixed'"):
            engine.resolve_precision("bf16-mixed")
        with pytest.raises(InputError, match=r"this GPU has no TF32: use .*'32-true'"):
            engine.resolve_precision("tf32")
        with pytest.raises(InputError, match=r"this GPU has no TF32: use .*'float32'"):
            engine.inference_dtype("tf32", cuda)
    else:
        assert engine.resolve_precision("tf32") == "tf32"
        assert engine.inference_dtype("tf32", cuda) == torch.float32


@pytest.mark.usefixtures("bfloat16")
def test_half_precision_trains_close_to_full(train):
    half = fit(train, precision="bf16-mixed", epochs=2)
    full = fit(train, precision="32-true", epochs=2)
    assert half.recipe_.training.precision == "bf16-mixed"
    assert all(p.dtype == torch.float32 for p in half.model_.parameters())
    losses = [s.history_[-1]["loss"] for s in (half, full)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_prediction_takes_half_of_the_free_memory_of_a_gpu(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6000, 9000))
    # PyTorch has 1000 bytes that it does not need, of the 3000 that are not free.
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2000)
    assert engine.prediction_bytes(gpu) == 3500
    assert engine.prediction_bytes(torch.device("cpu")) == 1_100_000_000
    for device in (gpu, torch.device("cpu")):
        assert engine.prediction_bytes(device, 0.25) == 250_000_000
