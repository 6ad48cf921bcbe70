"""How images are made from label maps: the record of what is drawn."""

import math
from dataclasses import dataclass, field

from nobrainer.checks import (
    MOST_VALUE,
    check_choice,
    check_count,
    check_positive,
    is_number,
    shorten,
)
from nobrainer.errors import InputError


def _usual_contrasts() -> dict[str, float]:
    return {"random": 0.6, "T1": 0.2, "T2": 0.08, "FLAIR": 0.08, "PD": 0.04}


@dataclass(frozen=True)
class Synthesis:
    """How images are made from label maps, see `nobrainer.data.synthesis`.

    Every number is drawn anew for every image, uniformly from its range unless said
    otherwise. A value of 0 leaves a step out, for `gamma` a value of 1. Signals before
    noise lie between 0 and about 1.

    Shape:
        rotation_deg: largest component of the rotation vector, 0 to 180.
        scale: largest change of size along each axis, as a share, below 1.
        shear: largest shift along one axis for each step along another.
        translation_mm: largest shift along each axis. Training patches are not shifted,
            because their place is chosen in another way.
        warp_mm: largest standard deviation of the velocity whose flow deforms the head.
        warp_length_mm: distance of the points between which this velocity is smooth.
        flip: probability that left and right are swapped, in image and labels.

    Intensities:
        contrasts: relative probabilities of "random", "T1", "T2", "FLAIR" and "PD".
        prior_spread: standard deviation of a structure's mean around the mean of its
            tissue, under a named contrast.
        texture: largest standard deviation of the intensities inside a structure.
        background: largest mean of label 0.

    Scanner:
        bias: largest coefficient of the polynomial in the exponent of the bias field.
        blur_mm: largest standard deviation of the blur that mixes neighbouring tissues
            in a voxel (partial volume).
        coarse: probability that the voxels of the scan are larger than the grid's.
        resolution_mm: largest voxel size of those that are coarse along each axis.
        slice_mm: largest thickness of thick slices along one axis. Half of the coarse
            scans have them, the other half have voxels of one size.
        noise: largest standard deviation of the noise in the complex signal, whose
            modulus is the image (Rician noise).
        ghosts: probability of ghosts, copies shifted along an axis (motion).
        spikes: probability of a spike in k-space, a wave across the image.
        gamma: largest power to which intensities are raised; the least is its inverse,
            and the logarithm is uniform.

    Field of view:
        crop: probability that the field of view is cut.
        crop_share: the most that it loses on each face, as a share of the image's
            length along that axis, below 0.5.
        strip: probability that the skull is stripped.
        imperfect: share of the stripped heads in which a rim of the brain is lost, or
            a rim of other tissue is left.
        strip_mm: scale of that rim.

    pairs: label values of left and right partners beside those whose FreeSurfer names
        tell them.
    """

    rotation_deg: float = 20.0
    scale: float = 0.15
    shear: float = 0.05
    translation_mm: float = 10.0
    warp_mm: float = 3.0
    warp_length_mm: float = 20.0
    flip: float = 0.5
    contrasts: dict[str, float] = field(default_factory=_usual_contrasts)
    prior_spread: float = 0.05
    texture: float = 0.08
    background: float = 0.05
    bias: float = 0.3
    blur_mm: float = 0.7
    coarse: float = 0.4
    resolution_mm: float = 3.0
    slice_mm: float = 7.0
    noise: float = 0.08
    ghosts: float = 0.0
    spikes: float = 0.0
    gamma: float = 1.5
    crop: float = 0.15
    crop_share: float = 0.3
    strip: float = 0.3
    imperfect: float = 0.5
    strip_mm: float = 3.0
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        shares = ("flip", "coarse", "ghosts", "spikes", "crop", "strip", "imperfect")
        for name in (*shares, "scale", "crop_share"):
            self._check(name, 0, 1)
        self._check("rotation_deg", 0, 180)
        self._check("gamma", 1, math.inf)
        for name in ("shear", "translation_mm", "warp_mm", "prior_spread", "texture"):
            self._check(name, 0, math.inf)
        for name in ("background", "bias", "blur_mm", "noise", "strip_mm"):
            self._check(name, 0, math.inf)
        for name in ("warp_length_mm", "resolution_mm", "slice_mm"):
            check_positive(f"synthesis.{name}", getattr(self, name))
        for name, limit in (("scale", 1), ("crop_share", 0.5)):
            if getattr(self, name) >= limit:
                raise InputError(
                    f"synthesis.{name} must be below {limit}, got {getattr(self, name)}"
                )
        known = _usual_contrasts()
        for name, weight in self.contrasts.items():
            check_choice("contrast", name, known)
            if not is_number(weight) or weight < 0:
                raise InputError(
                    f"synthesis.contrasts must be finite numbers >= 0, got {name}: "
                    f"{shorten(weight)}"
                )
        if not any(self.contrasts.values()):
            raise InputError("synthesis.contrasts must have one that is above 0")
        for value in (value for pair in self.pairs for value in pair):
            check_count("synthesis.pairs", value, 0, MOST_VALUE)

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not is_number(value) or not low <= value <= high:
            most = "" if math.isinf(high) else f" and <= {high:g}"
            raise InputError(
                f"synthesis.{name} must be >= {low:g}{most}, got {shorten(value)}"
            )
