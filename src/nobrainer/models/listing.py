"""The models that there are, for people to choose from."""

from inspect import getdoc
from typing import NamedTuple

from nobrainer.errors import printable
from nobrainer.models.registry import MODELS

PLAIN, BAYESIAN, SEVERAL = "segmentation", "Bayesian segmentation", "ensemble"
GENERATION = "generation"
_SHIPPED = {
    "unet": (PLAIN, "U-Net of MONAI: strided and transposed convolutions"),
    "attention_unet": (PLAIN, "U-Net of MONAI whose skips are weighted by attention"),
    "segresnet": (PLAIN, "encoder-decoder of residual blocks, of MONAI"),
    "unetr": (PLAIN, "transformer over patches with a decoder, of MONAI"),
    "swin_unetr": (PLAIN, "transformer over shifted windows with a decoder, of MONAI"),
    "highresnet": (PLAIN, "dilated residual blocks at full resolution, of MONAI"),
    "vnet": (PLAIN, "V-Net: residual blocks at several resolutions"),
    "meshnet": (PLAIN, "MeshNet: dilated convolutions at full resolution"),
    "bayesian_vnet": (BAYESIAN, "V-Net whose weights have Gaussian posteriors"),
    "bayesian_meshnet": (BAYESIAN, "MeshNet whose weights have Gaussian posteriors"),
    "kwyk": (BAYESIAN, "MeshNet with spike-and-slab dropout, of McClure et al. 2019"),
    "ensemble": (SEVERAL, "several networks whose disagreement is the uncertainty"),
}
"""The kind of each model that comes with nobrainer, and what it is. They stand here
because some networks take seconds to load."""
GENERATORS = {
    "progressivegan": "heads of a network that grows from coarse to fine",
    "dcgan": "heads of a network of one resolution",
    "label_synthesis": "images of label maps, with random shapes and contrasts",
}
"""What `Generation` takes, and what each of them makes."""


class ModelLine(NamedTuple):
    """A model in a list of models.

    name: the name that `get`, `build` and `Segmentation` take; of the kind
        "generation" the name that `Generation` takes.
    kind: what it is for: "segmentation", "Bayesian segmentation" (it draws weights),
        "ensemble", "generation" of images, or "registered by you".
    summary: what it is, in a line.
    """

    name: str
    kind: str
    summary: str


def describe_models() -> list[ModelLine]:
    """The models that there are, with what they are; nothing is loaded.

    Returns: a line for each network of the registry by name, then for each generator.
    """
    networks = [ModelLine(name, *_described(name)) for name in sorted(MODELS)]
    return networks + [
        ModelLine(name, GENERATION, text) for name, text in sorted(GENERATORS.items())
    ]


def print_models() -> None:
    """Print a line for each model: its name, its kind, and what it is."""
    lines = describe_models()
    widths = [max(len(text) for text in column) for column in zip(*lines, strict=True)]
    for line in lines:
        name, kind = (text.ljust(w) for text, w in zip(line, widths[:2], strict=False))
        print(printable(f"{name}  {kind}  {line.summary}"))


def _described(name: str) -> tuple[str, str]:
    """The kind of a model, and a line about it."""
    if name in _SHIPPED:
        return _SHIPPED[name]
    text = getdoc(MODELS[name]) or ""
    return "registered by you", text.partition("\n")[0]
