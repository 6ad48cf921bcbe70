"""What the machine can do at best: large convolutions, matrix products and copies."""

from typing import Any

import torch
from benchmarks.speed.measure import Options, Rates, Work, seconds
from torch import Tensor, nn

CHANNELS_LAST = torch.channels_last_3d


class Limits:
    """Rates measured again and again, since others may use the machine, too."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.probes: list[dict[str, Any]] = []
        on_gpu = options.device.type == "cuda"
        self._side = 8192 if on_gpu else 2048
        self._batch = 16 if on_gpu else 1
        self._floats = 2**30 if on_gpu else 2**26

    @torch.inference_mode()
    def probe(self) -> int:
        """Measure all rates, best of three; returns this measurement's number."""
        probe: dict[str, Any] = {"copy_bytes_per_s": self._copy()}
        for dtype in self.options.dtypes:
            name = str(dtype).removeprefix("torch.")
            for channels in (32, 64):
                rate = self._convolution(channels, dtype)
                probe[f"convolution_{channels}_{name}_flop_per_s"] = rate
            probe[f"matmul_{name}_flop_per_s"] = self._matmul(dtype)
        self.probes.append(probe)
        return len(self.probes) - 1

    def around(self, start: int) -> Rates:
        """Measure once more; the best since measurement `start`."""
        probes = self.probes[start : self.probe() + 1]
        return Rates(
            {
                dtype: max(
                    rate
                    for probe in probes
                    for name, rate in probe.items()
                    if name.endswith(f"{str(dtype).removeprefix('torch.')}_flop_per_s")
                )
                for dtype in self.options.dtypes
            },
            max(probe["copy_bytes_per_s"] for probe in probes),
        )

    def _convolution(self, channels: int, dtype: torch.dtype) -> float:
        device = self.options.device
        conv = nn.Conv3d(channels, channels, 3, padding=1, device=device, dtype=dtype)
        conv = conv.to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
        # A batch of one has slow paths in float32.
        n = 2 * self._batch
        x = torch.randn(n, channels, 64, 64, 64, device=device).to(dtype)
        x = x.contiguous(memory_format=CHANNELS_LAST)
        conv(x)
        best = min(seconds(lambda: conv(x), device) for _ in range(3))
        return 2 * 27 * channels**2 * n * 64**3 / best

    def _matmul(self, dtype: torch.dtype) -> float:
        device, n = self.options.device, self._side
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        a @ b
        return 2 * n**3 / min(seconds(lambda: a @ b, device) for _ in range(3))

    def _copy(self) -> float:
        """Bytes read and written per second by a copy of far more than the caches."""
        x = torch.zeros(self._floats, device=self.options.device)
        y = torch.empty_like(x)
        y.copy_(x)
        best = min(seconds(lambda: y.copy_(x), self.options.device) for _ in range(5))
        return 2 * x.nbytes / best


def work_per_voxel(network: nn.Module, dtype: torch.dtype, side: int = 32) -> Work:
    """Work of one pass of a plain network (1 channel in), per voxel of its image.

    FLOP: multiplications and additions of the convolutions. Bytes: each convolution
    reads its input once and writes its output once; nothing else is counted.
    """
    flop, values = 0.0, 0.0

    def count(conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal flop, values
        transposed = isinstance(conv, nn.ConvTranspose3d)
        kernels = inputs[0] if transposed else output
        flop += 2 * conv.weight[0].numel() * kernels.numel()  # type: ignore[index]
        values += inputs[0].numel() + output.numel()

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)
    ]
    parameter = next(network.parameters())
    x = torch.zeros(1, 1, side, side, side).to(parameter)
    was_training = network.training
    with torch.inference_mode():
        network.eval()(x)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return Work(flop / side**3, values * dtype.itemsize / side**3, dtype)
