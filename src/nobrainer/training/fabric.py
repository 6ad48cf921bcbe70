"""Lightning Fabric, by which one loop serves CPU, one GPU and several."""

import logging

from lightning_fabric import Fabric

from nobrainer.training.engine import check_devices, default_device

# Fabric announces its number format at every start.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


def make_fabric(precision: str, devices: int) -> Fabric:
    """Launch Lightning Fabric on GPUs where there are any, else on the CPU.

    Args:
        precision: what `resolve_precision` gives.
        devices: GPUs (or CPU processes) to train on; more than one runs the calling
            script once for each (distributed data parallel).
    """
    check_devices(devices)
    fabric = Fabric(
        accelerator=default_device().type,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric
