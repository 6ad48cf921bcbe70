"""Random changes of training patches, by named profile."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Self

import torch
from torch import Tensor

from nobrainer.data.axes import along_axes, gaussian_means
from nobrainer.registry import Registry
from nobrainer.types import Shape3

_SIDE = 48
"""The most voxels along each side of the boxes that are turned at once, so that most of
what is computed of them stays in a processor's cache."""


@dataclass(frozen=True)
class Profile:
    """Limits of the random changes of a patch.

    rotation_deg: largest component of the rotation vector, in degrees.
    scale: largest change of size along each axis, as a fraction: 0.1 is 10 %.
    bias: largest coefficient of the polynomial whose exponential is the bias field.
    gamma: largest exponent of the intensities; the smallest is its inverse.
    noise: largest standard deviation of the noise, in those of the volume.
    blur: largest standard deviation of the blur along each axis, in voxels.
    probability: probability of each of the four changes of intensity.
    """

    rotation_deg: float
    scale: float
    bias: float
    gamma: float
    noise: float
    blur: float
    probability: float


AUGMENTATIONS: Registry[Profile | None] = Registry("augmentation profile")
AUGMENTATIONS.register("none")(None)
AUGMENTATIONS.register("standard")(
    Profile(
        rotation_deg=10,
        scale=0.1,
        bias=0.1,
        gamma=1.2,
        noise=0.1,
        blur=0.75,
        probability=0.3,
    )
)
AUGMENTATIONS.register("strong")(
    Profile(
        rotation_deg=20,
        scale=0.2,
        bias=0.3,
        gamma=1.5,
        noise=0.25,
        blur=1.25,
        probability=0.5,
    )
)


@dataclass(frozen=True)
class Augmentation:
    """A profile and the block shape that it is for.

    There is no left-right flip: it would swap structures whose labels name a side.
    """

    profile: Profile
    block_shape: Shape3

    @classmethod
    def build(cls, profile: str, block_shape: Shape3) -> Self | None:
        """The augmentation of a named profile, or None for "none".

        Args:
            profile: a name in `AUGMENTATIONS`.
            block_shape: number of voxels of a patch along each axis.

        Raises: InputError where the name is unknown.
        """
        chosen = AUGMENTATIONS[profile]
        return None if chosen is None else cls(chosen, block_shape)

    @property
    def margin(self) -> Shape3:
        """Number of voxels that a patch must have beyond the block on each side.

        They fill the corners of a turned block with real tissue. The few corners that
        reach further repeat the patch's edge.
        """
        n = math.ceil(max(self.block_shape) / 4)
        return n, n, n

    def apply(
        self, image: Tensor, label: Tensor, *, floor: float, spread: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Change one patch, the same way for the same seed.

        Args:
            image: intensities of the block and its margin, float32 (1, I, J, K).
            label: labels of the same voxels, integers (I, J, K).
            floor: the volume's minimum; intensities are changed relative to it,
                because a bias field and gamma act on intensities that start at 0.
            spread: the volume's standard deviation.
            seed: seed of every random choice.

        Returns:
            Image (1, i, j, k), and label (i, j, k) int64, of the block shape.
        """
        profile = self.profile
        draws = _Draws(seed)
        moved, turned = _turn(
            image[0], label, _matrix(profile, draws), self.block_shape
        )
        if draws.happens(profile.probability):
            field = _bias_field(moved.shape, profile.bias, draws)
            moved = moved.sub_(floor).mul_(field).add_(floor)
        # A power between extremes, and means, are the same above any floor.
        if draws.happens(profile.probability):
            gamma = draws.between(1 / profile.gamma, profile.gamma, 1).item()
            moved = _bend(moved, gamma)
        if draws.happens(profile.probability):
            moved = _blur(moved, draws.between(0, profile.blur, 3))
        if draws.happens(profile.probability):
            noise = draws.noise(moved.shape)
            moved = moved.add_(noise.mul_(draws.between(0, profile.noise * spread, 1)))
        return moved[None], turned


class _Draws:
    """The random choices of a patch."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def between(self, low: float, high: float, n: int) -> Tensor:
        """`n` numbers, uniform from `low` to `high`."""
        return torch.empty(n).uniform_(low, high, generator=self._generator)

    def happens(self, probability: float) -> bool:
        """Whether an event of this probability happens."""
        return self.between(0, 1, 1).item() < probability

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise."""
        return torch.randn(*shape, generator=self._generator)


def _matrix(profile: Profile, draws: _Draws) -> Tensor:
    """The matrix (3, 3) from a voxel to where it is taken from, about the centre."""
    largest = math.radians(profile.rotation_deg)
    turn = rotation(draws.between(-largest, largest, 3))
    return turn * draws.between(1 - profile.scale, 1 + profile.scale, 3)


def rotation(vector: Tensor) -> Tensor:
    """Rotation matrices.

    Args:
        vector: axes of rotation (..., 3), each as long as its angle in radians.

    Returns: (..., 3, 3).
    """
    axes = _cross_products(vector.device)
    cross = (vector[..., None, None] * axes).sum(-3)
    angle = vector.norm(dim=-1)[..., None, None] / math.pi
    # Rodrigues' formula; sinc(x) is sin(πx) / πx, and 1 - cos is twice a squared sine.
    turned = torch.sinc(angle) * cross + torch.sinc(angle / 2) ** 2 / 2 * cross @ cross
    return torch.eye(3, device=vector.device) + turned


@lru_cache(maxsize=4)
def _cross_products(device: torch.device) -> Tensor:
    """Matrices that take the cross product with each axis (3, 3, 3)."""
    i = [[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]
    j = [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]
    k = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    return torch.tensor([i, j, k], device=device)


def _turn(
    image: Tensor, label: Tensor, matrix: Tensor, block: Shape3
) -> tuple[Tensor, Tensor]:
    """A block of a window that is turned and scaled about its centre.

    Places and labels are those of `torch.nn.functional.grid_sample`, and intensities,
    too, but for rounding. That takes twice as long: in 3-D it does not use a
    processor's vectors. Beyond the edges of the window the nearest voxels count.

    Args:
        image: intensities of the window, (I, J, K), interpolated linearly.
        label: labels of the window, (I, J, K), of which the nearest ones are taken.
        matrix: from a voxel to where it is taken from, about the centre, (3, 3).
        block: voxels of the block along each axis.

    Returns:
        Image (i, j, k), and label (i, j, k) int64.
    """
    middle = (torch.tensor(label.shape)[:, None] - 1) / 2
    i, j, k = (
        matrix[:, axis, None] * (torch.arange(n) - (n - 1) / 2)
        for axis, n in enumerate(block)
    )
    i = i + middle
    # Half a voxel more than the centres of the outermost voxels: rounding is no matter.
    reach = matrix.abs() @ (torch.tensor(block).float() / 2)
    inside = bool((reach < middle[:, 0]).all())
    # From just below the last voxel there is a next one to interpolate to.
    last = (2 * middle).nextafter(middle).view(3, 1, 1, 1)
    moved, turned = torch.empty(block), torch.empty(block, dtype=torch.int64)
    # There is no `index_select` of uint16.
    labels = (label.int() if label.dtype == torch.uint16 else label).flatten()
    values = image.flatten()
    for box in product(*map(_divide, block)):
        planes, rows, voxels = box
        place = (i[:, planes, None] + j[:, None, rows])[..., None]
        place = place + k[:, None, None, voxels]
        if not inside:
            place = place.clamp_min_(0).minimum(last)
        nearest = _number(place.round(), label.shape)
        found = labels.index_select(0, nearest.flatten())
        turned[box] = found.view(nearest.shape)
        moved[box] = _interpolate(values, place, label.shape)
    return moved, turned


def _divide(n: int) -> list[slice]:
    """Divide an axis into equal parts, of whose boxes most stays in a cache."""
    step = math.ceil(n / math.ceil(n / _SIDE))
    return [slice(first, first + step) for first in range(0, n, step)]


def _number(places: Tensor, shape: Sequence[int]) -> Tensor:
    """Numbers of voxels in a volume whose rows lie in line.

    Args:
        places: 0 or more voxels along each axis; fractions do not count, (3, i, j, k).
        shape: voxels of the volume along each axis.

    Returns:
        int32 (i, j, k).
    """
    i, j, k = places.int()
    return k.add_(j.add_(i, alpha=shape[1]), alpha=shape[2])


def _interpolate(values: Tensor, places: Tensor, shape: Sequence[int]) -> Tensor:
    """Values (i, j, k) between the eight voxels around each place.

    Args:
        values: those of a volume, with its rows in line.
        places: where to interpolate, in voxels, from the first to before the last one
            along each axis, (3, i, j, k); changed in place.
        shape: voxels of the volume along each axis, 2 or more.
    """
    numbers = _number(places, shape).flatten()
    i, j, k = places.frac_().flatten(1)

    def at(step: int) -> Tensor:
        """Values of the voxels so many places after those below."""
        return values[step:].index_select(0, numbers)

    def on_line(step: int) -> Tensor:
        return at(step).lerp_(at(step + 1), k)

    def in_plane(step: int) -> Tensor:
        return on_line(step).lerp_(on_line(step + shape[2]), j)

    found = in_plane(0).lerp_(in_plane(shape[1] * shape[2]), i)
    return found.view(places.shape[1:])


def _bias_field(shape: Sequence[int], largest: float, draws: _Draws) -> Tensor:
    """A random field that multiplies intensities, see `bias_field`."""
    return bias_field(draws.between(-largest, largest, 64).view(4, 4, 4), shape)


def bias_field(weights: Tensor, shape: Sequence[int]) -> Tensor:
    """exp of a sum of products of Legendre polynomials up to third degree.

    Args:
        weights: weights of the products, (..., 4, 4, 4); those of a degree above 3
            count as 0.
        shape: number of voxels along each axis, on which coordinates go from -1 to 1.

    Returns: (..., I, J, K).
    """
    products, axes = _polynomials(tuple(shape), weights.device)
    return along_axes(weights * products, axes).exp_()


@lru_cache(maxsize=8)
def _polynomials(
    shape: tuple[int, ...], device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """Legendre polynomials along the axes of a block, made once.

    Args:
        shape: number of voxels along each axis, on which coordinates go from -1 to 1.
        device: where they are needed.

    Returns:
        Which products of polynomials are of third degree at most, 0 or 1 (4, 4, 4), and
        the polynomials along each axis, (n, 4).
    """
    n = torch.arange(4, device=device)
    degree = n[:, None, None] + n[:, None] + n
    axes = []
    for size in shape:
        x = torch.linspace(-1, 1, size, device=device)
        legendre = [x**0, x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2]
        axes.append(torch.stack(legendre, 1))
    return (degree <= 3).float(), axes


def _bend(x: Tensor, gamma: float) -> Tensor:
    """Raise intensities to a power in place; least and largest stay as they are."""
    low, high = x.aminmax()
    reach = (high - low).clamp_min(torch.finfo(x.dtype).tiny)
    return x.sub_(low).div_(reach).pow_(gamma).mul_(reach).add_(low)


def _blur(x: Tensor, widths: Tensor) -> Tensor:
    """Blur with a Gaussian whose standard deviations are `widths`, in voxels."""
    kernels = [
        gaussian_means(torch.arange(n), n, width)
        for n, width in zip(x.shape, widths, strict=True)
    ]
    return along_axes(x, kernels)
