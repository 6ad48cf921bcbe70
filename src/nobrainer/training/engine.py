"""Devices and number formats: the one place that picks them."""

import torch

from nobrainer.checks import check_count, check_positive
from nobrainer.cores import check_cores
from nobrainer.errors import InputError
from nobrainer.inference.slabs import MEMORY_BYTES

PRECISIONS = ("auto", "32-true", "tf32", "bf16-mixed", "16-mixed")


def default_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def count_gpus() -> int:
    """Number of GPUs that training can use; 0 where it takes the CPU."""
    return torch.cuda.device_count() if default_device().type == "cuda" else 0


def check_gpus(gpus: int | None) -> None:
    """Check that this machine has a number of GPUs.

    Args:
        gpus: number of GPUs; 0 stands for the CPU, None for one where there is one.

    Raises: InputError where there are fewer.
    """
    if gpus is None:
        return
    check_count("gpus", gpus, 0)
    if gpus > count_gpus():
        raise InputError(
            f"gpus={gpus} but this machine has {count_gpus()}: gpus=0 takes the CPU"
        )


def check_devices(devices: int) -> None:
    """Check that training can run on a number of devices.

    Args:
        devices: number of GPUs or, without a GPU, of processes.

    Raises: InputError where this machine has fewer GPUs or cores.
    """
    check_count("devices", devices, 1)
    n_gpus = count_gpus()
    if not n_gpus:
        check_cores("devices", devices)
    elif devices > n_gpus:
        raise InputError(f"devices={devices} but this machine has {n_gpus} GPUs")


def gpu_ids() -> list[str]:
    """Names of the GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` takes them.

    Unlike numbers, these names are the same in every process of a machine. Asking for
    them takes some memory of each GPU until this process ends.
    """
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"GPU-{device.uuid}" for device in properties]


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` computes bfloat16 at a useful speed.

    PyTorch accepts it everywhere. But on an x86 processor that has neither AVX-512 nor
    AVX-NE-CONVERT, convolutions are hundreds of times slower than in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _require_bfloat16(device: torch.device, instead: str) -> None:
    if not has_bfloat16(device):
        kind = "GPU" if device.type == "cuda" else "processor"
        raise InputError(
            f"this {kind} has no instructions for bfloat16: use precision={instead!r}"
        )


def _require_tf32(device: torch.device, instead: str) -> None:
    if device.type != "cuda":
        raise InputError(
            "precision='tf32' needs a GPU and this machine has none: use "
            f"precision={instead!r}"
        )
    # The GPUs that compute bfloat16 are those that have TF32.
    if not has_bfloat16(device):
        raise InputError(f"this GPU has no TF32: use precision={instead!r}")


def inference_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of prediction.

    bfloat16 is faster where the device has it; probabilities then have an error of up
    to about 1 %. "tf32" are float32 numbers whose products a GPU may round, see
    `nobrainer.rounding.float32_products`.

    Args:
        name: "float32", "tf32" or "bfloat16".
        device: device that predicts.

    Raises: InputError for another name, and for what the device lacks.
    """
    known = {
        "float32": torch.float32,
        "tf32": torch.float32,
        "bfloat16": torch.bfloat16,
    }
    if name not in known:
        raise InputError(f"precision must be one of {', '.join(known)}, got {name!r}")
    if name == "bfloat16":
        _require_bfloat16(device, instead="float32")
    if name == "tf32":
        _require_tf32(device, instead="float32")
    return known[name]


def prediction_bytes(device: torch.device, memory_gb: float | None = None) -> int:
    """How much memory a prediction may take on a device, in bytes.

    Args:
        device: device that predicts.
        memory_gb: what the user allows, in GB; None is half of what is free on a GPU,
            since libraries take memory of their own, and the usual limit on a CPU.

    Raises: InputError where that is not a number above 0.
    """
    if memory_gb is not None:
        check_positive("memory_gb", memory_gb)
        return max(1, int(memory_gb * 1e9))
    if device.type != "cuda":
        return MEMORY_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    # What PyTorch keeps of freed memory counts as taken there.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (free + kept) // 2


def is_first_process() -> bool:
    """Whether this is the process that writes, among those that train together."""
    distributed = torch.distributed
    return not distributed.is_initialized() or distributed.get_rank() == 0


def resolve_precision(name: str) -> str:
    """The number format of training that a name stands for on this machine.

    Args:
        name: one of `PRECISIONS`; "auto" is bf16-mixed on a GPU that has bfloat16, and
            32-true elsewhere.

    Raises: InputError for another name, and for a format that this machine lacks or
        computes too slowly.
    """
    if name not in PRECISIONS:
        raise InputError(
            f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}"
        )
    device = default_device()
    on_gpu = device.type == "cuda"
    if name == "auto":
        return "bf16-mixed" if on_gpu and has_bfloat16(device) else "32-true"
    if name == "bf16-mixed":
        _require_bfloat16(device, instead="16-mixed" if on_gpu else "32-true")
    if name == "tf32":
        _require_tf32(device, instead="32-true")
    if name == "16-mixed" and not on_gpu:
        raise InputError(
            "precision='16-mixed' needs a GPU and this machine has none: use '32-true'"
        )
    return name
