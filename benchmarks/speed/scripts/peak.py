"""The most memory that this process has held."""

import re
from pathlib import Path

import torch


def peaks(device: torch.device) -> dict[str, float]:
    """Peak resident memory (VmHWM) and, on a GPU, of tensors there; MiB."""
    status = Path("/proc/self/status").read_text()
    (kib,) = re.findall(r"VmHWM:\s+(\d+)", status)
    found = {"peak_mib": int(kib) / 1024}
    if device.type == "cuda":
        found["peak_gpu_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found
