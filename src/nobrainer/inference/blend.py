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
    """Apply a network to a whole volume in windows, blended with Gaussian weights.

    Args:
        network: maps images (B, 1, i, j, k) to logits (B, C, i, j, k).
        volume: image (1, 1, I, J, K).
        window: voxels of a window along each axis; neighbours overlap by a quarter.
        batch_size: number of windows in one pass.
        background: intensity beyond the volume.

    Returns: logits (1, C, I, J, K).
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
