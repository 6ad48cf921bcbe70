"""Images of heads made from their label maps, on the device of the maps.

A network that is trained on images of random contrast, shape and quality has to find
structures by what does not change. Every step is a batched operation of torch; no
number goes back to the host.

Source of the idea: Billot et al., "SynthSeg: Segmentation of brain MRI scans of any
contrast and resolution without retraining", Medical Image Analysis 86 (2023) 102789.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nobrainer.data.augment import along_axes, bias_field, gaussian_means, rotation
from nobrainer.data.labels import FREESURFER_NAMES
from nobrainer.recipe import Synthesis
from nobrainer.types import Shape3

CONTRASTS = ("T1", "T2", "FLAIR", "PD")
"""The named ones, in the order of the columns of the tissues' signals."""

# Relative mean signals, after how these sequences usually show the tissues.
_SIGNALS = {
    "background": (0.0, 0.0, 0.0, 0.0),
    "white matter": (0.85, 0.38, 0.5, 0.62),
    "cortex": (0.6, 0.52, 0.64, 0.78),
    "deep grey": (0.64, 0.47, 0.6, 0.74),
    "thalamus": (0.7, 0.44, 0.56, 0.7),
    "pallidum": (0.78, 0.32, 0.48, 0.62),
    "brain-stem": (0.78, 0.42, 0.54, 0.65),
    "fluid": (0.2, 0.95, 0.12, 0.85),
    "choroid plexus": (0.4, 0.75, 0.5, 0.75),
    "lesion": (0.6, 0.75, 0.85, 0.8),
    "vessel": (0.3, 0.2, 0.2, 0.4),
    "eye": (0.18, 0.9, 0.2, 0.8),
    "muscle": (0.45, 0.25, 0.35, 0.5),
    "soft tissue": (0.6, 0.45, 0.4, 0.6),
    "mucosa": (0.5, 0.75, 0.65, 0.7),
    "skin": (0.75, 0.5, 0.45, 0.65),
    "bone": (0.08, 0.06, 0.06, 0.1),
    "marrow": (0.65, 0.4, 0.4, 0.5),
}
_TISSUES = {
    "white matter": (2, 7, 41, 46, 77, 85, 192, 251, 252, 253, 254, 255),
    "cortex": (3, 8, 17, 18, 42, 47, 53, 54),
    "deep grey": (11, 12, 26, 50, 51, 58),
    "thalamus": (10, 28, 49, 60),
    "pallidum": (13, 52),
    "brain-stem": (16, 512),
    "fluid": (4, 5, 14, 15, 24, 43, 44, 72),
    "choroid plexus": (31, 63, 136, 137, 163, 164),
    "lesion": (25, 57),
    "vessel": (30, 62, 502, 514),
    "eye": (506,),
    "muscle": (508, 530),
    "soft tissue": (507,),
    "mucosa": (509,),
    "skin": (511,),
    "bone": (515,),
    "marrow": (516,),
}
"""Label values beside the cortex's parcels: those of FreeSurfer, and from 500 on those
of the tissues around the brain in the whole-head maps that SynthSeg publishes."""
_TISSUE_OF = {value: name for name, values in _TISSUES.items() for value in values}
_PAIRS = ((25, 57), (136, 163), (137, 164))
"""Partners to which the shipped table of FreeSurfer's names gives no name."""
_SIDES = (("Left-", "Right-"), ("ctx-lh-", "ctx-rh-"))
_FIRST_OUTSIDE, _LAST_OUTSIDE = 500, 999
"""Values of what is not brain. Parcels of the cortex begin at 1000."""
_OUTER_FLUID = 24

_SQUARINGS = 6
_STEPS_PER_LENGTH = 5
"""Points at which the deformation is computed, per point of the velocity."""
_HEAD_SIDE, _THRESHOLD_STEPS = 64, 16
_RIM_LENGTH_MM = 15.0
_MOST_GHOST, _MOST_WAVE = 0.25, 0.15
_FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian, in standard deviations."""


@dataclass(frozen=True)
class Anatomy:
    """What the label values of some maps stand for; maps hold their positions in here.

    values: label values, ascending, the first one 0.
    partners: position of the partner on the other side, its own where there is none.
    groups: number of the intensity; partners share one.
    classes: of the model.
    tissues: names in the table of signals, empty where not known.
    """

    values: tuple[int, ...]
    partners: tuple[int, ...]
    groups: tuple[int, ...]
    classes: tuple[int, ...]
    tissues: tuple[str, ...]

    @classmethod
    def of(
        cls,
        values: Sequence[int],
        classes: Mapping[int, int],
        pairs: Sequence[tuple[int, int]] = (),
    ) -> Self:
        """Of label values, by the names that FreeSurfer gives them.

        Args:
            values: label values of the maps; 0 is there whether listed or not, and so
                is the partner of a value.
            classes: from label value to class; values that it lacks are background.
            pairs: of left and right partners, beside those that the names tell.
        """
        sides = _partners(pairs)
        known = {0, *map(int, values)}
        found = sorted(known | {sides[value] for value in known if value in sides})
        position = {value: index for index, value in enumerate(found)}
        partners = tuple(position[sides.get(value, value)] for value in found)
        return cls(
            values=tuple(found),
            partners=partners,
            groups=tuple(map(min, enumerate(partners))),
            classes=tuple(classes.get(value, 0) for value in found),
            tissues=tuple(map(_tissue, found)),
        )

    @property
    def nameless(self) -> tuple[int, ...]:
        """Values of a class and without a name or partner: sides cannot be told."""
        rows = zip(self.values, self.partners, self.classes, strict=True)
        return tuple(
            value
            for index, (value, partner, class_) in enumerate(rows)
            if class_ and partner == index and not self.tissues[index]
        )

    def positions(self, labels: np.ndarray) -> np.ndarray:
        """Label values of any shape, all of them known, as positions."""
        size = np.min_scalar_type(len(self.values) - 1)
        return np.searchsorted(self.values, labels).astype(size)


class Draw(NamedTuple):
    """A batch of images and their labels.

    image: float32 (B, 1, I, J, K), from 0 up.
    label: classes, int64 (B, I, J, K).
    mean, spread: mean and standard deviation of each head's image, (B,).
    """

    image: Tensor
    label: Tensor
    mean: Tensor
    spread: Tensor

    @property
    def normalised(self) -> Tensor:
        """The images as "zscore" normalises scans: the head has mean 0 and sd 1."""
        mean, spread = (x[:, None, None, None, None] for x in (self.mean, self.spread))
        return (self.image - mean) / spread


def synthesise(
    maps: Tensor,
    anatomy: Anatomy,
    synthesis: Synthesis,
    seeds: Sequence[int],
    *,
    spacing_mm: Sequence[float],
    block_shape: Shape3 | None = None,
    which: Tensor | None = None,
    origins: Tensor | None = None,
) -> Draw:
    """Make a batch of images, each a function of its map, its place and its seed.

    Args:
        maps: positions in `anatomy`, (N, X, Y, Z), of any integer type, in RAS.
        anatomy: what they stand for.
        synthesis: what is drawn.
        seeds: one for each image, from 0 to 2**63 - 1. A device of another kind draws
            other images of them.
        spacing_mm: voxel size of the maps and images along each axis.
        block_shape: voxels of an image, default that of the maps.
        which: map of each image, integers (B,); default the n-th map for the n-th
            seed, from the first one again after the last.
        origins: first voxel of each block, (B, 3); default uniform where the blocks lie
            inside the map, as far as they fit, and then shifted by up to
            `translation_mm`.

    Returns: images and labels on the device of the maps.
    """
    device, n_images = maps.device, len(seeds)
    block = block_shape or (maps.shape[1], maps.shape[2], maps.shape[3])
    draws = _Draws(seeds, device)
    if which is None:
        which = torch.arange(n_images, device=device) % len(maps)
    if origins is None:
        slack = _tensor(maps.shape[1:], device) - _tensor(block, device)
        inside = draws.between(0, 1, 3) * (slack + slack.sign())
        origins = torch.where(slack < 0, inside.ceil(), inside.floor())
        shift_mm = draws.between(-1, 1, 3) * synthesis.translation_mm
        origins = origins + shift_mm / _tensor(spacing_mm, device)
    look = _look(anatomy, synthesis, draws)
    places = _places(synthesis, draws, block, spacing_mm, look.flipped)
    found = _nearest(maps, which, places + origins.view(-1, 3, 1, 1, 1))
    signal = _signal(look, found, synthesis, draws)
    if synthesis.bias:
        largest = draws.between(0, synthesis.bias, 1, 1, 1)
        signal = signal * bias_field(largest * draws.between(-1, 1, 4, 4, 4), block)
    signal = _acquire(signal, look.noise, synthesis, draws, spacing_mm)
    signal = _bend(signal, look, synthesis)
    label = _entries(look.classes, found)
    if synthesis.strip or synthesis.crop:
        keep = _kept(look, found, synthesis, draws, spacing_mm)
        signal, label = signal * keep, label * keep
    mean, spread = _head_figures(look, maps, which, synthesis, draws)
    return Draw(signal[:, None], label, mean, spread)


class _Draws:
    """The random numbers of a batch, of each image from a generator of its own."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.device = device

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform from `low` to `high`, (B, *shape)."""
        return low + (high - low) * self._stack(torch.rand, shape)

    def happens(self, probability: float, *shape: int) -> Tensor:
        """Whether something of this probability happens, booleans (B, *shape)."""
        return self._stack(torch.rand, shape) < probability

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (B, *shape)."""
        return self._stack(torch.randn, shape)

    def _stack(self, draw: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        parts = [
            draw(shape, generator=generator, device=self.device)
            for generator in self._generators
        ]
        # A stack of one would be copied.
        return parts[0][None] if len(parts) == 1 else torch.stack(parts)


class _Look(NamedTuple):
    """What is drawn for a head as a whole; tables are (B, positions)."""

    flipped: Tensor
    means: Tensor
    spreads: Tensor
    classes: Tensor
    is_inside: Tensor
    is_brain: Tensor
    is_stripped: Tensor
    noise: Tensor
    gamma: Tensor


def _look(anatomy: Anatomy, synthesis: Synthesis, draws: _Draws) -> _Look:
    n, device = len(anatomy.values), draws.device
    partners, groups, classes, values = (
        _tensor(numbers, device)
        for numbers in (
            anatomy.partners,
            anatomy.groups,
            anatomy.classes,
            anatomy.values,
        )
    )
    flipped = draws.happens(synthesis.flip)
    classes = torch.where(flipped[:, None], classes[partners], classes)

    weights = [synthesis.contrasts.get(name, 0.0) for name in CONTRASTS]
    edges = _tensor(weights, device).cumsum(0) / sum(synthesis.contrasts.values())
    # Past the named contrasts comes the random one.
    contrast = (draws.between(0, 1, 1) >= edges).sum(1)
    unknown = (math.nan,) * (len(CONTRASTS) + 1)
    known = [
        (*_SIGNALS[name], math.nan) if name else unknown for name in anatomy.tissues
    ]
    prior = _tensor(known, device).t()[contrast]
    prior = (prior + synthesis.prior_spread * draws.normal(n)).clamp_min(0)
    random = draws.between(0, 1, n)
    means = torch.where(prior.isnan(), random, prior)
    means[:, 0] = synthesis.background * random[:, 0]
    spreads = draws.between(0, synthesis.texture, n)
    spreads[:, 0] = 0

    # Some tools leave the fluid around the brain, some do not.
    bare = draws.happens(0.5, 1) & (values == _OUTER_FLUID)
    inside = (values > 0) & ((values < _FIRST_OUTSIDE) | (values > _LAST_OUTSIDE))
    steepest = math.log(synthesis.gamma)
    return _Look(
        flipped=flipped,
        means=means[:, groups],
        spreads=spreads[:, groups],
        classes=classes,
        is_inside=inside.expand(len(flipped), n),
        is_brain=inside & ~bare,
        is_stripped=draws.happens(synthesis.strip),
        noise=draws.between(0, synthesis.noise, 1, 1, 1),
        gamma=draws.between(-steepest, steepest, 1, 1, 1).exp(),
    )


def _places(
    synthesis: Synthesis,
    draws: _Draws,
    block: Shape3,
    spacing_mm: Sequence[float],
    flipped: Tensor,
) -> Tensor:
    """Where the voxels of a block come from, in voxels from its first one.

    The deformation is computed on a coarse lattice in mm around the centre of the
    block, and its positions are interpolated linearly between.

    Returns: (B, 3, I, J, K).
    """
    device = draws.device
    step_mm = synthesis.warp_length_mm / _STEPS_PER_LENGTH
    extents_mm = [(n - 1) * mm for n, mm in zip(block, spacing_mm, strict=True)]
    # One more on each side, so that what flows in from outside is there.
    counts = [2 * (math.ceil(mm / 2 / step_mm) + 1) + 1 for mm in extents_mm]
    axes = [_centred(n, step_mm, device) for n in counts]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    if synthesis.warp_mm:
        x = x + _flow(synthesis, draws, axes)
    x = torch.einsum(
        "bij,bj...->bi...",
        _affine(synthesis, draws),
        x.expand(len(flipped), *x.shape[-4:]),
    )
    mirror = 1 - 2 * flipped.float()
    x = torch.stack((x[:, 0] * mirror[:, None, None, None], x[:, 1], x[:, 2]), 1)
    fine = [
        _hats(_centred(n, mm, device) / step_mm + (m - 1) / 2, m)
        for n, mm, m in zip(block, spacing_mm, counts, strict=True)
    ]
    spacing = _tensor(spacing_mm, device).view(3, 1, 1, 1)
    middle = (_tensor(block, device).view(3, 1, 1, 1) - 1) / 2
    return along_axes(x / spacing + middle, fine)


def _affine(synthesis: Synthesis, draws: _Draws) -> Tensor:
    """From the block to the head, (B, 3, 3)."""
    largest = math.radians(synthesis.rotation_deg)
    turn = rotation(draws.between(-largest, largest, 3))
    off_diagonal = 1 - torch.eye(3, device=draws.device)
    shear = draws.between(-1, 1, 3, 3) * synthesis.shear * off_diagonal
    shear = shear + torch.eye(3, device=draws.device)
    size = draws.between(1 - synthesis.scale, 1 + synthesis.scale, 1, 3)
    return turn @ shear / size


def _flow(synthesis: Synthesis, draws: _Draws, axes: Sequence[Tensor]) -> Tensor:
    """Displacements (B, 3, I, J, K) in mm of a random diffeomorphism, at places in mm.

    Source: Arsigny et al., "A log-Euclidean framework for statistics on
    diffeomorphisms", MICCAI 2006 (scaling and squaring).
    """
    length_mm, n_steps = synthesis.warp_length_mm, _STEPS_PER_LENGTH
    splines = [
        _splines(axis, _n_points(len(axis) / n_steps, 1), length_mm) for axis in axes
    ]
    points = draws.normal(3, *(spline.shape[1] for spline in splines))
    largest = draws.between(0, synthesis.warp_mm, 1, 1, 1, 1)
    moved = along_axes(points, splines) * largest / 2**_SQUARINGS
    ends = torch.stack([axis[-1] for axis in axes])
    home = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    for _ in range(_SQUARINGS):
        grid = ((home + moved.movedim(1, -1)) / ends).flip(-1)
        moved = moved + F.grid_sample(
            moved, grid, padding_mode="border", align_corners=True
        )
    return moved


def _nearest(maps: Tensor, which: Tensor, places: Tensor) -> Tensor:
    """Positions (B, I, J, K), int64, at places (B, 3, I, J, K); 0 beyond the maps."""
    flat = which.view(-1, 1, 1, 1)
    inside = torch.ones((), dtype=torch.bool, device=maps.device)
    for n, place in zip(maps.shape[1:], places.unbind(1), strict=True):
        voxel = place.round().long()
        inside = inside & (voxel >= 0) & (voxel < n)
        flat = flat * n + voxel.clamp(0, n - 1)
    return maps.flatten()[flat].long() * inside


def _signal(look: _Look, found: Tensor, synthesis: Synthesis, draws: _Draws) -> Tensor:
    """Intensities of the structures at positions (B, I, J, K)."""
    signal = _entries(look.means, found)
    if not synthesis.texture:
        return signal
    noise = draws.normal(*found.shape[1:])
    return signal + noise.mul_(_entries(look.spreads, found))


def _acquire(
    signal: Tensor,
    noise: Tensor,
    synthesis: Synthesis,
    draws: _Draws,
    spacing_mm: Sequence[float],
) -> Tensor:
    """What a scanner makes of signals (B, I, J, K), brought back to their grid.

    Each axis is multiplied by a matrix that takes means under the slice profile at the
    places of the scan's voxels, and afterwards by one that interpolates between them.
    """
    block = signal.shape[1:]
    if synthesis.ghosts:
        signal = along_axes(signal, _ghosts(synthesis, draws, block))
    grid_mm = _tensor(spacing_mm, draws.device)
    size_mm = _voxel_sizes(synthesis, draws, grid_mm)
    # What a voxel of the grid averages over is in the labels already.
    profile_mm = (size_mm**2 - grid_mm**2).sqrt() / _FWHM
    width = torch.hypot(draws.between(0, synthesis.blur_mm, 1), profile_mm) / grid_mm
    # Between voxels a mean over less would take the nearest one.
    width = torch.where(size_mm > grid_mm, width.clamp_min(0.5), width)
    ratio = size_mm / grid_mm
    first = draws.between(0, 1, 3) * (ratio - 1)
    down, up = [], []
    for axis, n in enumerate(block):
        number = torch.arange(n, device=draws.device)
        begin, step = first[:, axis, None], ratio[:, axis, None]
        down.append(gaussian_means(begin + step * number, n, width[:, axis]))
        last = ((n - 1 - begin) / step + 1e-4).floor()
        up.append(_hats(((number - begin) / step).clamp_min(0).minimum(last), n))
    if synthesis.blur_mm or synthesis.coarse:
        signal = along_axes(signal, down)
    if synthesis.spikes:
        signal = signal + _wave(synthesis, draws, block)
    if synthesis.noise or synthesis.spikes:
        signal = _modulus(signal, noise, draws)
    return along_axes(signal, up) if synthesis.coarse else signal


def _voxel_sizes(synthesis: Synthesis, draws: _Draws, grid_mm: Tensor) -> Tensor:
    """Voxel sizes of the scans in mm, (B, 3), nowhere below those of the grid."""
    share = draws.between(0, 1, 1)
    least = grid_mm.min()
    cubic = least + share * (synthesis.resolution_mm - least)
    chosen = torch.floor(draws.between(0, 3, 1)) == torch.arange(3, device=draws.device)
    thick = torch.where(
        chosen, grid_mm + share * (synthesis.slice_mm - grid_mm), grid_mm
    )
    sizes = torch.where(draws.happens(0.5, 1), thick, cubic)
    return torch.where(draws.happens(synthesis.coarse, 1), sizes, grid_mm).maximum(
        grid_mm
    )


def _modulus(signal: Tensor, noise: Tensor, draws: _Draws) -> Tensor:
    """The modulus of a complex signal with noise of this standard deviation."""
    real, imaginary = draws.normal(2, *signal.shape[1:]).unbind(1)
    return torch.hypot(signal + noise * real, noise * imaginary)


def _ghosts(synthesis: Synthesis, draws: _Draws, block: Sequence[int]) -> list[Tensor]:
    """Along one axis the matrix that adds shifted copies, along the others none."""
    axis = torch.floor(draws.between(0, 3, 1))
    strength = draws.between(0, _MOST_GHOST, 1) * draws.happens(synthesis.ghosts, 1)
    share = draws.between(0.1, 0.4, 1)
    matrices = []
    for number, n in enumerate(block):
        place = torch.arange(n, device=draws.device)
        away = (place[:, None] - place)[None]
        shift = (share * n).round()[..., None]
        copies = ((away - shift) % n == 0).float() + ((away + shift) % n == 0).float()
        matrices.append((away == 0) + (strength * (axis == number))[..., None] * copies)
    return matrices


def _wave(synthesis: Synthesis, draws: _Draws, block: Sequence[int]) -> Tensor:
    """What a spike in k-space adds, (B, I, J, K)."""
    strength = draws.between(0, _MOST_WAVE, 1, 1, 1)
    strength = strength * draws.happens(synthesis.spikes, 1, 1, 1)
    cycles = draws.between(-0.25, 0.25, 3)
    i, j, k = (
        2 * math.pi * cycles[:, axis, None] * torch.arange(n, device=draws.device)
        for axis, n in enumerate(block)
    )
    phase = i[:, :, None, None] + j[:, None, :, None] + k[:, None, None]
    return strength * torch.cos(phase + draws.between(0, 2 * math.pi, 1, 1, 1))


def _bend(signal: Tensor, look: _Look, synthesis: Synthesis) -> Tensor:
    signal = signal.clamp_min(0)
    return signal if synthesis.gamma == 1 else signal**look.gamma


def _kept(
    look: _Look,
    found: Tensor,
    synthesis: Synthesis,
    draws: _Draws,
    spacing_mm: Sequence[float],
) -> Tensor:
    """Where there is an image after stripping the skull and cutting the field of view.

    Returns: booleans (B, I, J, K).
    """
    device, block = draws.device, found.shape[1:]
    keep = _entries(look.is_brain, found)
    if synthesis.strip and synthesis.imperfect and synthesis.strip_mm:
        blur, splines = [], []
        for n, mm in zip(block, spacing_mm, strict=True):
            width = _tensor(synthesis.strip_mm / mm, device)
            blur.append(gaussian_means(torch.arange(n, device=device), n, width))
            n_points = _n_points(n * mm, _RIM_LENGTH_MM)
            splines.append(_splines(_centred(n, mm, device), n_points, _RIM_LENGTH_MM))
        points = draws.normal(*(spline.shape[1] for spline in splines))
        edge = (0.5 + 0.3 * along_axes(points, splines)).clamp(0.02, 0.98)
        rough = along_axes(_entries(look.is_inside, found).float(), blur) > edge
        imperfect = draws.happens(synthesis.imperfect, 1, 1, 1)
        keep = torch.where(imperfect, rough, keep)
    keep = keep | ~look.is_stripped.view(-1, 1, 1, 1)
    if synthesis.crop:
        # Each face of a field of view that is cut loses something in half of the cases.
        cut = draws.happens(synthesis.crop, 1, 1) & draws.happens(0.5, 3, 2)
        lost = draws.between(0, synthesis.crop_share, 3, 2) * cut
        for axis, n in enumerate(block):
            place = torch.arange(n, device=device) / max(1, n - 1)
            low, high = lost[:, axis, :, None].unbind(1)
            inside = (place >= low) & (place <= 1 - high)
            keep = keep & inside.view(-1, *(n if a == axis else 1 for a in range(3)))
    return keep


def _head_figures(
    look: _Look,
    maps: Tensor,
    which: Tensor,
    synthesis: Synthesis,
    draws: _Draws,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the head's image, (B,) each.

    Of the whole head, whatever the block, since a scan is normalised as a whole: of a
    sparse lattice of its voxels, which have the drawn signals, texture, noise and
    gamma, and stand for the stripped head where the skull is; deformation, bias field
    and blur are left out.
    """
    stride = max(1, min(maps.shape[1:]) // _HEAD_SIDE)
    found = maps[:, ::stride, ::stride, ::stride][which].long()
    signal = _signal(look, found, synthesis, draws)
    if synthesis.noise:
        signal = _modulus(signal, look.noise, draws)
    signal = _bend(signal, look, synthesis)
    bare = look.is_stripped.view(-1, 1, 1, 1) & ~_entries(look.is_brain, found)
    signal = (signal * ~bare).flatten(1)
    threshold = signal.mean(1, keepdim=True)
    for _ in range(_THRESHOLD_STEPS):
        above = signal > threshold
        n = above.sum(1, keepdim=True)
        total = (signal * above).sum(1, keepdim=True)
        rest = signal.sum(1, keepdim=True) - total
        n_rest = signal.shape[1] - n
        threshold = (total / n.clamp_min(1) + rest / n_rest.clamp_min(1)) / 2
    # Of a constant image all is head.
    above = (signal > threshold) | (signal == signal.amax(1, keepdim=True))
    n = above.sum(1)
    mean = (signal * above).sum(1) / n
    variance = ((signal - mean[:, None]) ** 2 * above).sum(1) / n
    spread = variance.sqrt()
    return mean, torch.where(spread > 0, spread, 1.0)


def is_outside(value: int) -> bool:
    """Whether a label value is one of the tissues around the brain."""
    return _FIRST_OUTSIDE <= value <= _LAST_OUTSIDE


def _entries(table: Tensor, found: Tensor) -> Tensor:
    """Entries of a table (B, positions) for each voxel (B, I, J, K)."""
    return table.gather(1, found.flatten(1)).view(found.shape)


def _centred(n: int, step: float, device: torch.device) -> Tensor:
    """`n` places with this step, around 0."""
    return (torch.arange(n, device=device) - (n - 1) / 2) * step


def _hats(places: Tensor, n: int) -> Tensor:
    """The matrix (..., m, n) that interpolates linearly at places (..., m)."""
    number = torch.arange(n, device=places.device)
    return (1 - (places[..., None] - number).abs()).clamp_min(0)


def _splines(places_mm: Tensor, n: int, length_mm: float) -> Tensor:
    """The matrix (m, n) from n points around 0 to smooth values at m places.

    Cubic B-splines, scaled so that independent points of variance 1 give values of
    variance 1.
    """
    points = _centred(n, length_mm, places_mm.device)
    away = ((places_mm[:, None] - points) / length_mm).abs()
    near = 2 / 3 - away**2 + away**3 / 2
    weights = torch.where(away < 1, near, (2 - away).clamp_min(0) ** 3 / 6)
    return weights / weights.norm(dim=1, keepdim=True)


def _n_points(extent_mm: float, length_mm: float) -> int:
    """How many points `_splines` needs to reach over an extent."""
    return 2 * (math.ceil(extent_mm / 2 / length_mm) + 2) + 1


def _tensor(values: object, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


def _partners(pairs: Sequence[tuple[int, int]]) -> dict[int, int]:
    """The partner of each label value that has one on the other side."""
    value_of = {name: value for value, name in FREESURFER_NAMES.items()}
    found = {}
    for name, value in value_of.items():
        for left, right in _SIDES:
            other = value_of.get(right + name.removeprefix(left))
            if name.startswith(left) and other is not None:
                found[value] = other
    found.update((*_PAIRS, *pairs))
    return found | {right: left for left, right in found.items()}


def _tissue(value: int) -> str:
    """The tissue of a label value, empty where it is not known."""
    if value == 0:
        return "background"
    name = FREESURFER_NAMES.get(value, "")
    return "cortex" if name.startswith("ctx-") else _TISSUE_OF.get(value, "")
