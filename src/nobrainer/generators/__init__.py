"""Generators of images, by name: from random numbers to a head, with its labels.

`progressivegan` and `dcgan` are pairs of networks, of which one makes images and the
other judges them; `label_synthesis` makes images from the label maps that it is given.
"""

from nobrainer.generators.dcgan import Dcgan
from nobrainer.generators.label_maps import LabelMaps
from nobrainer.generators.progressive import ProgressiveGan
from nobrainer.generators.real import RealImages
from nobrainer.generators.registry import (
    GENERATORS,
    Gan,
    Phase,
    Stage,
    build,
    learns_from_maps,
    sample,
    with_data,
)

__all__ = [
    "GENERATORS",
    "Gan",
    "LabelMaps",
    "Phase",
    "RealImages",
    "Stage",
    "build",
    "learns_from_maps",
    "sample",
    "with_data",
]

GENERATORS.register("progressivegan")(ProgressiveGan)
GENERATORS.register("dcgan")(Dcgan)
GENERATORS.register("label_synthesis")(LabelMaps)
