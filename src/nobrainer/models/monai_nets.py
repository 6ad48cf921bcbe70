"""Networks of MONAI that take MONAI's arguments.

Each function gives MONAI's network, with what prediction must know of it. Its arguments
are `in_channels`, `n_classes` (MONAI's `out_channels`) and those of the class in MONAI,
whose documentation says what they are; `inspect.signature` lists them.
"""

import math
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any

from monai.networks.nets import UNETR, AttentionUnet, HighResNet, SegResNet, SwinUNETR
from torch import nn

from nobrainer.checks import check_count, check_size, is_number
from nobrainer.errors import InputError
from nobrainer.models.reach import check_levels
from nobrainer.types import Shape3

Args = dict[str, Any]
Entry = Callable[[int, int, Args], nn.Module]
LEFT_OUT = (
    *("hyena", "in_channels", "norm_layer", "num_groups", "out_channels"),
    *("save_attn", "spatial_dims", "use_conv_final", "use_hyena"),
)
"""How arguments of MONAI begin that are not taken: they would make other networks than
of images with three axes, or no logits, or cannot be kept in a file."""


def takes_arguments_of(
    network: Callable[..., nn.Module], usual: Args | None = None
) -> Callable[[Entry], Callable[..., nn.Module]]:
    """Give a function the signature of a network of MONAI, and its usual arguments.

    Args:
        network: the class of MONAI.
        usual: what arguments are that have no default in MONAI.

    Returns: what makes the entry of the registry of a function that takes the channels
        of the image, the number of classes, and the other arguments as a dictionary.
    """
    kind = Parameter.KEYWORD_ONLY
    named = {"in_channels": 1, "n_classes": 2}
    for name, parameter in signature(network).parameters.items():
        if not name.startswith(LEFT_OUT):
            named[name] = (usual or {}).get(name, parameter.default)
    parameters = [Parameter(name, kind, default=value) for name, value in named.items()]

    def dress(entry: Entry) -> Callable[..., nn.Module]:
        def build(**args: object) -> nn.Module:
            bound = signature(build).bind(**args)
            bound.apply_defaults()
            given = bound.arguments
            n_channels, n_classes = given.pop("in_channels"), given.pop("n_classes")
            check_size(n_channels, n_classes, 1)
            _check_rates(given)
            return entry(n_channels, n_classes, given)

        build.__name__ = build.__qualname__ = entry.__name__
        build.__module__, build.__doc__ = entry.__module__, entry.__doc__
        build.__signature__ = signature(entry).replace(  # type: ignore[attr-defined]
            parameters=parameters
        )
        return build

    return dress


@takes_arguments_of(
    AttentionUnet, {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)}
)
def attention_unet(in_channels: int, n_classes: int, monai: Args) -> nn.Module:
    """U-Net whose skips are weighted by what the level below has found.

    Where MONAI joins both ways it takes an instance norm, which looks at the whole
    window, so overlapping windows are blended. Its dropout, of single voxels, is for
    training alone.

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        monai: arguments of MONAI's `AttentionUnet`.

    Returns: the network.

    Raises:
        InputError: channels or strides that cannot be used.

    Source: Oktay et al. 2018, Attention U-Net: learning where to look for the pancreas.
    """
    channels = monai["channels"]
    monai["strides"] = strides = check_levels(channels, monai["strides"])
    network = AttentionUnet(3, in_channels, n_classes, **monai)
    return _carrying(network, math.prod(strides), None, 2 * channels[0])


@takes_arguments_of(SegResNet)
def segresnet(in_channels: int, n_classes: int, monai: Args) -> nn.Module:
    """Encoder-decoder of residual blocks, whose decoder is light.

    Its norms look at the whole window, so overlapping windows are blended. Its dropout,
    `dropout_prob`, is of whole channels, and predictions draw of it as well.

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        monai: arguments of MONAI's `SegResNet`.

    Returns: the network.

    Raises:
        InputError: the numbers of blocks do not go together.

    Source: Myronenko 2018, 3D MRI brain tumor segmentation using autoencoder
    regularization.
    """
    n_down, n_up = len(monai["blocks_down"]), len(monai["blocks_up"])
    if n_up != n_down - 1:
        raise InputError(
            f"blocks_up must be {n_down - 1} numbers, one fewer than blocks_down, got "
            f"{list(monai['blocks_up'])}"
        )
    network = SegResNet(3, in_channels=in_channels, out_channels=n_classes, **monai)
    return _carrying(network, 2 ** (n_down - 1), None, monai["init_filters"])


@takes_arguments_of(UNETR, {"img_size": (96, 96, 96)})
def unetr(in_channels: int, n_classes: int, monai: Args) -> nn.Module:
    """Transformer over patches of 16³, and a decoder of convolutions.

    It takes images of one shape alone, `img_size`: training needs patches of this
    shape, and prediction blends windows of it. Its dropout is for training alone.

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        monai: arguments of MONAI's `UNETR`.

    Returns: the network.

    Raises:
        InputError: sides of `img_size` that are no multiples of 16.

    Source: Hatamizadeh et al. 2022, UNETR: transformers for 3D medical image
    segmentation.
    """
    size = monai["img_size"]
    sides: Sequence[int] = [size] * 3 if isinstance(size, int) else size
    for side in sides:
        check_count("each side of img_size", side, 16)
    if len(sides) != 3 or any(side % 16 for side in sides):
        raise InputError(f"img_size must be three multiples of 16, got {list(sides)}")
    monai["img_size"] = window = (sides[0], sides[1], sides[2])
    network = UNETR(in_channels, n_classes, **monai)
    for name, parameter in network.named_parameters():
        # MONAI builds the norms of a cross-attention that the network does not have;
        # a training on several devices would wait for their gradients.
        if "cross_attn" in name:
            parameter.requires_grad_(False)
    return _carrying(network, 16, None, monai["feature_size"], window)


@takes_arguments_of(SwinUNETR)
def swin_unetr(in_channels: int, n_classes: int, monai: Args) -> nn.Module:
    """Transformer over shifted windows at several resolutions, and a decoder.

    It looks at the whole window, so overlapping windows are blended. Sides are
    multiples of `patch_size`⁵, 32 voxels. Its dropouts are for training alone.

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        monai: arguments of MONAI's `SwinUNETR`.

    Returns: the network.

    Source: Hatamizadeh et al. 2022, Swin UNETR: Swin transformers for semantic
    segmentation of brain tumors in MRI images.
    """
    network = SwinUNETR(in_channels, n_classes, **monai)
    return _carrying(network, monai["patch_size"] ** 5, None, monai["feature_size"])


@takes_arguments_of(HighResNet)
def highresnet(in_channels: int, n_classes: int, monai: Args) -> nn.Module:
    """Residual blocks of dilated convolutions at full resolution.

    With batch norm it is local: prediction does not depend on how a scan is cut. Its
    dropout, of single voxels, is for training alone.

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        monai: arguments of MONAI's `HighResNet`.

    Returns: the network.

    Source: Li et al. 2017, On the compactness, efficiency, and representation of 3D
    convolutional networks.
    """
    network = HighResNet(3, in_channels, n_classes, **monai)
    first, *blocks, _, _ = layers = monai["layer_params"]
    margin = first["kernel_size"] // 2
    for number, block in enumerate(blocks):
        kernels = sum(kernel // 2 for kernel in block["kernels"])
        margin += block["repeat"] * kernels * 2**number
    width = max(layer.get("n_features", 1) for layer in layers)
    norm = monai["norm_type"]
    name = norm if isinstance(norm, str) else norm[0]
    is_local = str(name).lower() == "batch"
    return _carrying(network, 1, margin if is_local else None, width)


def _carrying(
    network: nn.Module,
    stride: int,
    halo: int | None,
    width: int,
    window: Shape3 | None = None,
) -> nn.Module:
    """The network, with what prediction must know, see `nobrainer.models.registry`."""
    carried = {"stride": stride, "halo": halo, "width": width, "window": window}
    for name, value in carried.items():
        setattr(network, name, value)
    return network


def _check_rates(args: Args) -> None:
    """Refuse rates of dropout that leave nothing."""
    for name, value in args.items():
        if "drop" not in name or not isinstance(value, int | float):
            continue
        if not is_number(value) or not 0 <= value < 1:
            raise InputError(f"{name} must lie in [0, 1), got {value!r}")
