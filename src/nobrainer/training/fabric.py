"""Lightning Fabric, so that one loop serves the CPU, one GPU and several GPUs."""

import logging
import os

from lightning_fabric import Fabric

from nobrainer.cores import share_threads, use_threads
from nobrainer.system import end_with_parent
from nobrainer.training.engine import check_devices, default_device

PARENT = "NOBRAINER_PARENT"
"""Environment variable that tells a launched process which one launched it."""

# Fabric announces its number format at every start.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


def make_fabric(precision: str, devices: int, *, on_cpu: bool = False) -> Fabric:
    """Launch Lightning Fabric on GPUs where there are any, else on the CPU.

    Args:
        precision: number format, as `resolve_precision` gives it.
        devices: number of GPUs (or CPU processes) to train on. More than one runs the
            calling script once for each (distributed data parallel); these processes
            end with the one that started them, however that one ends.
        on_cpu: train on the CPU even where there are GPUs.

    Raises: InputError where this machine has fewer GPUs or cores.
    """
    check_devices(devices)
    if devices > 1 and default_device().type == "cpu":
        use_threads(share_threads(devices))
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        end_with_parent(int(parent))
    fabric = Fabric(
        accelerator="cpu" if on_cpu else default_device().type,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        # The loop says how products are rounded.
        precision="32-true" if precision == "tf32" else precision,  # type: ignore[arg-type]
    )
    os.environ[PARENT] = str(os.getpid())
    try:
        fabric.launch()
    finally:
        # Other processes that this one starts later must not see it.
        del os.environ[PARENT]
    return fabric
