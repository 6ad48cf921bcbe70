"""U-Net, from MONAI."""

from monai.networks.blocks import ADN
from monai.networks.nets import UNet as MonaiUNet
from torch import nn

from nobrainer.bayes.dropout import DROPOUTS
from nobrainer.bayes.layers import name_sites
from nobrainer.checks import MOST_LEVELS, check_choice, check_count, check_size
from nobrainer.types import Images, Logits

NORMS = ("batch", "instance")


class UNet(nn.Module):
    """MONAI's U-Net (strided convolutions, transposed convolutions, PReLU).

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        base_filters: filters of the first level; doubled at every level.
        levels: number of resolutions, the input's included, at least 2.
        dropout_rate: rate of whole-channel dropout, in [0, 1).
        dropout_type: "spatial" or "concrete"; see `VNet`.
        norm: "batch", or "instance", which depends on the whole window: prediction
            then blends overlapping windows and is not independent of their size.

    Input (B, in_channels, I, J, K) with I, J, K multiples of `stride`; output
    logits (B, n_classes, I, J, K).
    Source: Ronneberger et al. 2015; Kerfoot et al. 2018 (MONAI's form).
    """

    stride: int
    halo: int | None
    width: int
    streams: bool
    kl_weight: float | str

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        base_filters: int = 16,
        levels: int = 3,
        dropout_rate: float = 0.0,
        dropout_type: str = "spatial",
        norm: str = "batch",
    ) -> None:
        super().__init__()
        check_size(in_channels, n_classes, base_filters)
        check_count("levels", levels, 2, MOST_LEVELS)
        check_choice("norm", norm, NORMS)
        self.net = MonaiUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=n_classes,
            channels=[base_filters * 2**level for level in range(levels)],
            strides=[2] * (levels - 1),
            norm=norm,
            dropout=0.0,
        )
        # MONAI's own dropout takes single voxels, not channels.
        for block in self.net.modules():
            if isinstance(block, ADN):
                channels: int = block.N.num_features  # type: ignore[assignment, union-attr]
                block.D = DROPOUTS[dropout_type](channels, dropout_rate)
        self.stride = 2 ** (levels - 1)
        # On the coarsest grid a core of one voxel needs two more on its right: one for
        # the transposed convolutions, one for the convolution at the bottom. The way
        # down adds less than one. (The tests measure this.)
        self.halo = 2 * self.stride if norm == "batch" else None
        self.width = 2 * base_filters
        self.streams = norm == "batch"
        if dropout_type == "concrete":
            self.kl_weight = "elbo"
        name_sites(self)

    def forward(self, x: Images) -> Logits:
        """Logits (B, n_classes, I, J, K) of images (B, in_channels, I, J, K)."""
        return self.net(x)
