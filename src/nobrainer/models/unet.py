"""U-Net, from MONAI."""

import math
from collections.abc import Sequence
from typing import Any

from monai.networks.blocks import Convolution
from monai.networks.nets import UNet as MonaiUNet
from torch import nn

from nobrainer.bayes.dropout import DROPOUTS
from nobrainer.bayes.layers import name_sites
from nobrainer.checks import (
    MOST_LEVELS,
    check_choice,
    check_count,
    check_size,
    is_number,
    shorten,
)
from nobrainer.errors import InputError
from nobrainer.models.reach import (
    Span,
    before,
    before_transposed,
    check_kernel,
    check_levels,
    halo_of,
    hull,
)
from nobrainer.types import Images, Logits

NORMS = ("batch", "instance", "group", "none")
STREAMED = ("PRELU", "RELU")
"""Activations that prediction applies slab by slab."""


class UNet(nn.Module):
    """MONAI's U-Net (strided convolutions, transposed convolutions, PReLU).

    The channels of the levels are given by `base_filters` and `levels`, or, as MONAI
    has it, by `channels` and `strides`.

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        base_filters: filters of the first level; doubled at every level.
        levels: number of resolutions, the input's included, at least 2.
        dropout_rate: rate of whole-channel dropout, in [0, 1), of which predictions
            draw as well.
        dropout_type: "spatial" or "concrete"; see `VNet`.
        norm: "batch"; "instance" or ("group", {"num_groups": n}), which depend on the
            whole window: prediction then blends overlapping windows and is not
            independent of their size; or "none".
        channels: filters of each level, the input's first, two levels or more.
        strides: step from each level to the next one, in voxels, one fewer than the
            channels; None makes each 2.
        kernel_size: odd width of the convolutions, in voxels.
        up_kernel_size: odd width of the transposed convolutions, in voxels.
        num_res_units: convolutions in the residual unit of a level; 0 makes plain ones.
        act: name of the activation, or [name, arguments].
        dropout: rate of dropout of single voxels, in [0, 1), in training alone.
        bias: whether convolutions have a bias.
        adn_ordering: order of activation (A), dropout (D) and norm (N).

    Input (B, in_channels, I, J, K) with I, J, K multiples of `stride`; output
    logits (B, n_classes, I, J, K).

    Raises:
        InputError: an argument is out of range, or two say the same.

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
        norm: str | Sequence[Any] | None = "batch",
        channels: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        kernel_size: int = 3,
        up_kernel_size: int = 3,
        num_res_units: int = 0,
        act: str | Sequence[Any] = "PRELU",
        dropout: float = 0.0,
        bias: bool = True,
        adn_ordering: str = "NDA",
    ) -> None:
        super().__init__()
        check_size(in_channels, n_classes, base_filters)
        check_count("levels", levels, 2, MOST_LEVELS)
        kind = name_of_norm(norm)
        check_kernel("kernel_size", kernel_size)
        check_kernel("up_kernel_size", up_kernel_size)
        check_count("num_res_units", num_res_units, 0)
        if channels is None:
            if strides is not None:
                raise InputError("strides go with channels: give both, or levels")
            channels = [base_filters * 2**level for level in range(levels)]
        elif (base_filters, levels) != (16, 3):
            raise InputError(
                "channels say how many filters and levels there are: leave out "
                "base_filters and levels"
            )
        strides = check_levels(channels, strides)
        _check_dropout(dropout, dropout_rate, dropout_type)
        self.net = MonaiUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=n_classes,
            channels=channels,
            strides=strides,
            kernel_size=kernel_size,
            up_kernel_size=up_kernel_size,
            num_res_units=num_res_units,
            act=act if isinstance(act, str) else tuple(act),
            norm=None if kind == "none" else norm,  # type: ignore[arg-type]
            dropout=dropout,
            bias=bias,
            adn_ordering=adn_ordering,
        )
        if not dropout:
            # MONAI's own dropout takes single voxels, not channels.
            for block in self.net.modules():
                if isinstance(block, Convolution) and hasattr(block, "adn"):
                    dropped = DROPOUTS[dropout_type](block.out_channels, dropout_rate)
                    block.get_submodule("adn").D = dropped
        self.stride = math.prod(strides)
        core = (0, self.stride - 1)
        seen = _seen(core, strides, kernel_size, up_kernel_size, num_res_units)
        is_local = kind in ("batch", "none")
        self.halo = halo_of(seen, self.stride) if is_local else None
        self.width = 2 * channels[0]
        self.streams = is_local and str(act).upper() in STREAMED
        if dropout_type == "concrete":
            self.kl_weight = "elbo"
        name_sites(self)

    def forward(self, x: Images) -> Logits:
        """Logits (B, n_classes, I, J, K) of images (B, in_channels, I, J, K)."""
        return self.net(x)


def name_of_norm(norm: str | Sequence[Any] | None) -> str:
    """The name of a norm in small letters, "none" for None.

    Args:
        norm: a name, or a pair of a name and arguments, as MONAI takes it.

    Raises:
        InputError: the name is none of `NORMS`.
    """
    name = "none" if norm is None else norm if isinstance(norm, str) else norm[0]
    check_choice("norm", str(name).lower(), NORMS)
    return str(name).lower()


def _check_dropout(voxels: object, channels: object, kind: str) -> None:
    """Check the rate of dropout of single voxels, and that it is the only one."""
    if not is_number(voxels) or not 0 <= voxels < 1:
        raise InputError(f"dropout must lie in [0, 1), got {shorten(voxels)}")
    if voxels and (channels or kind != "spatial"):
        raise InputError(
            "dropout turns off single voxels, dropout_rate whole channels: give one"
        )


def _seen(
    core: Span, strides: Sequence[int], kernel: int, up_kernel: int, n_units: int
) -> Span:
    """The voxels of a level that some output voxels of this level depend on."""
    # On the way up a residual unit has one convolution.
    wanted = before(core, kernel) if n_units else core
    coarse = before_transposed(wanted, up_kernel, strides[0])
    n_more = max(1, n_units) - 1
    if len(strides) > 1:
        below = _seen(coarse, strides[1:], kernel, up_kernel, n_units)
    else:
        below = coarse
        for _ in range(1 + n_more):
            below = before(below, kernel)
    # The levels below are skipped as well.
    down = hull(coarse, below)
    for _ in range(n_more):
        down = before(down, kernel)
    return before(down, kernel, strides[0])
