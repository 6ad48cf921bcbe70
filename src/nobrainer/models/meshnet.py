"""MeshNet: dilated convolutions at full resolution."""

from collections.abc import Callable, Sequence

from torch import nn

from nobrainer.bayes.dropout import DROPOUTS
from nobrainer.bayes.layers import name_sites
from nobrainer.checks import check_dilations, check_size
from nobrainer.models.norm import BatchNorm3d
from nobrainer.types import Images, Logits


class MeshNet(nn.Module):
    """Segmentation network of dilated 3³ convolutions without pooling.

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        base_filters: filters of every layer.
        dilations: dilation of each 3³ convolution, in voxels.
        dropout_rate: rate of whole-channel dropout after each layer, in [0, 1).
        dropout_type: "spatial" or "concrete"; see `VNet`.
        conv: class of the convolutions, `nn.Conv3d` or a Bayesian one.

    Input (B, in_channels, I, J, K); output logits (B, n_classes, I, J, K).
    Source: Fedorov et al. 2017, End-to-end learning of brain tissue segmentation
    from imperfect labeling; the default dilations are those of McClure et al. 2019.
    """

    stride: int
    halo: int
    width: int
    streams: bool
    kl_weight: float | str

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        base_filters: int = 21,
        dilations: Sequence[int] = (1, 1, 1, 2, 4, 8, 1),
        dropout_rate: float = 0.0,
        dropout_type: str = "spatial",
        *,
        conv: Callable[..., nn.Module] = nn.Conv3d,
    ) -> None:
        super().__init__()
        check_size(in_channels, n_classes, base_filters)
        check_dilations(dilations)
        layers: list[nn.Module] = []
        channels = in_channels
        for dilation in dilations:
            layers += [
                # Batch norm undoes a bias, so the convolution has none.
                conv(
                    channels,
                    base_filters,
                    3,
                    padding=dilation,
                    dilation=dilation,
                    bias=False,
                ),
                BatchNorm3d(base_filters),
                nn.ReLU(inplace=True),
                DROPOUTS[dropout_type](base_filters, dropout_rate),
            ]
            channels = base_filters
        self.layers = nn.Sequential(*layers)
        self.head = conv(base_filters, n_classes, 1)
        self.stride = 1
        self.halo = sum(dilations)
        self.width = base_filters
        self.streams = True
        if dropout_type == "concrete":
            self.kl_weight = "elbo"
        name_sites(self)

    def forward(self, x: Images) -> Logits:
        """Logits (B, n_classes, I, J, K) of images (B, in_channels, I, J, K)."""
        return self.head(self.layers(x))
