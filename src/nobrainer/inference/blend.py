"""Overlapping windows, for networks that are not local."""

from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from nobrainer.types import Shape3


def blend_windows(
    network: nn.Module,
    volume: Tensor,
    window: Shape3,
    batch_size: int,
    background: float,
) -> Tensor:
    """The network's output on a whole volume, windows blended with Gaussian weights.

    Args:
        network: maps (B, 1, i, j, k) to (B, C, i, j, k).
        volume: (1, 1, I, J, K).
        window: voxels of a window; neighbours share a quarter of them.
        batch_size: windows per pass.
        background: what lies beyond the volume.

    Returns: (1, C, I, J, K).
    """
    logits = sliding_window_inference(
        volume,
        window,
        batch_size,
        network,
        overlap=0.25,
        mode="gaussian",
        cval=background,
    )
    assert isinstance(logits, Tensor)
    return logits
