"""V-Net: an encoder-decoder of residual convolution blocks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nobrainer.bayes.dropout import DROPOUTS
from nobrainer.bayes.layers import name_sites
from nobrainer.checks import MOST_LEVELS, check_count, check_size
from nobrainer.models.norm import BatchNorm3d
from nobrainer.types import Images, Logits


def _block(
    conv: Callable[..., nn.Module], c_in: int, c_out: int, kernel: int, stride: int = 1
) -> nn.Sequential:
    """A convolution without bias, which batch norm would undo, and its batch norm."""
    padding = kernel // 2 if stride == 1 else 0
    return nn.Sequential(
        conv(c_in, c_out, kernel, stride=stride, padding=padding, bias=False),
        BatchNorm3d(c_out),
    )


class _Residual(nn.Module):
    """Two 3³ convolutions, the second with a residual connection, then dropout."""

    def __init__(
        self,
        conv: Callable[..., nn.Module],
        c_in: int,
        c_out: int,
        dropout: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.first = _block(conv, c_in, c_out, 3)
        self.second = _block(conv, c_out, c_out, 3)
        self.dropout = dropout(c_out)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu_(self.first(x))
        return self.dropout(torch.relu_(self.second(h) + h))


class VNet(nn.Module):
    """Segmentation network on `levels` resolutions, each half the one above.

    As in Milletari et al. 2016 (V-Net): residual blocks, strided convolutions down,
    skip connections. Unlike it: 3³ kernels, two convolutions a level, batch norm,
    skips that add, and up-sampling as a 1³ convolution followed by nearest
    neighbour. So all weights are convolution weights, any of them can be Bayesian,
    and every operation is local, so that tiles predict exactly what the whole would.

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        base_filters: filters at full resolution; doubled at every level.
        levels: number of resolutions, at least 1.
        dropout_rate: rate of whole-channel dropout after each block, in [0, 1).
        dropout_type: "spatial", at that rate, or "concrete", at learned rates that
            start from it (then in [0.05, 0.95]). Learned rates have a divergence from
            a prior, so the model carries `kl_weight` "elbo".
        conv: class of the convolutions, `nn.Conv3d` or a Bayesian one.

    Input (B, in_channels, I, J, K) with I, J, K multiples of `stride`; output
    logits (B, n_classes, I, J, K).
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
        base_filters: int = 16,
        levels: int = 4,
        dropout_rate: float = 0.0,
        dropout_type: str = "spatial",
        *,
        conv: Callable[..., nn.Module] = nn.Conv3d,
    ) -> None:
        super().__init__()
        check_size(in_channels, n_classes, base_filters)
        check_count("levels", levels, 1, MOST_LEVELS)

        def dropout(channels: int) -> nn.Module:
            return DROPOUTS[dropout_type](channels, dropout_rate)

        filters = [base_filters * 2**level for level in range(levels)]
        self.encode = nn.ModuleList(
            _Residual(conv, in_channels if i == 0 else f, f, dropout)
            for i, f in enumerate(filters)
        )
        self.down = nn.ModuleList(
            _block(conv, f, 2 * f, 2, stride=2) for f in filters[:-1]
        )
        self.up = nn.ModuleList(_block(conv, 2 * f, f, 1) for f in filters[:-1])
        self.decode = nn.ModuleList(
            _Residual(conv, f, f, dropout) for f in filters[:-1]
        )
        self.head = conv(base_filters, n_classes, 1)
        self.stride = 2 ** (levels - 1)
        self.halo = _halo(levels)
        self.width = base_filters
        self.streams = True
        if dropout_type == "concrete":
            self.kl_weight = "elbo"
        name_sites(self)

    def forward(self, x: Images) -> Logits:
        """Logits (B, n_classes, I, J, K) of images (B, in_channels, I, J, K)."""
        skips = []
        for encode, down in zip(self.encode, self.down, strict=False):
            x = encode(x)
            skips.append(x)
            x = torch.relu_(down(x))
        x = self.encode[-1](x)
        for up, decode, skip in zip(
            reversed(self.up), reversed(self.decode), reversed(skips), strict=True
        ):
            x = decode(nn.functional.interpolate(up(x), scale_factor=2.0) + skip)
        return self.head(x)


def _halo(levels: int) -> int:
    """Voxels beyond a stride-aligned core that its output depends on.

    The need is followed back from the output. Each level's decoder widens it by its two
    convolutions, and the next level sees it at half the resolution. Then the encoders
    widen it in the same way on the path back up.
    """
    needs = [2]
    for _ in range(levels - 1):
        needs.append(-(-needs[-1] // 2) + 2)
    reach = needs[-1]
    for need in reversed(needs[:-1]):
        reach = max(2 * reach, need) + 2
    stride = 2 ** (levels - 1)
    return -(-reach // stride) * stride
