"""U-Net, from MONAI."""

from monai.networks.nets import UNet as MonaiUNet
from torch import Tensor, nn

from nobrainer.models.registry import check_count, check_rate
from nobrainer.registry import near_miss

NORMS = ("batch", "instance")


class UNet(nn.Module):
    """MONAI's U-Net (strided convolutions, transposed convolutions, PReLU).

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        base_filters: filters of the first level; doubled at every level.
        levels: number of resolutions below the input's, at least 2.
        dropout_rate: rate of whole-channel dropout, in [0, 1).
        norm: "batch", or "instance", which depends on the whole window: prediction
            then blends overlapping windows and is not independent of their size.

    Input (B, in_channels, I, J, K) with I, J, K multiples of `stride`; output
    logits (B, n_classes, I, J, K).
    Source: Ronneberger et al. 2015; Kerfoot et al. 2018 (MONAI's form).
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        base_filters: int = 16,
        levels: int = 3,
        dropout_rate: float = 0.0,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels, 1)
        check_count("n_classes", n_classes, 2)
        check_count("base_filters", base_filters, 1)
        check_count("levels", levels, 2)
        check_rate("dropout_rate", dropout_rate)
        if norm not in NORMS:
            raise near_miss("norm", norm, NORMS)
        self.net = MonaiUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=n_classes,
            channels=[base_filters * 2**level for level in range(levels)],
            strides=[2] * (levels - 1),
            norm=norm,
            dropout=dropout_rate,
        )
        self.stride = 2 ** (levels - 1)
        # Per level one 3³ convolution down and one 3³ transposed one up, each with
        # a reach of one voxel of the coarser grid at most, and the bottom's own.
        reach = 3 * self.stride + sum(3 * 2**level for level in range(levels - 1))
        self.halo = -(-reach // self.stride) * self.stride if norm == "batch" else None
        self.width = 2 * base_filters

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, n_classes, I, J, K) of images (B, in_channels, I, J, K)."""
        return self.net(x)
