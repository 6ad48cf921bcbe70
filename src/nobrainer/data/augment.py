"""Random changes of training patches, by named profile."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

from nobrainer.data.axes import along_axes, gaussian_means
from nobrainer.registry import Registry
from nobrainer.types import Shape3

_AT_ONCE = 48**3
"""About how many voxels are turned at once, so that most of what is computed of them
stays in a processor's cache."""


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
        self,
        image: Tensor | np.ndarray,
        label: Tensor | np.ndarray,
        *,
        floor: float,
        spread: float,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """Change one patch, the same way for the same seed.

        Args:
            image: intensities of the block and its margin, float32 (1, I, J, K).
            label: labels of the same voxels, integers (I, J, K). Neither is changed,
                and of both only what the block needs is read.
            floor: the volume's minimum; intensities are changed relative to it,
                because a bias field and gamma act on intensities that start at 0.
            spread: the volume's standard deviation.
            seed: seed of every random choice.

        Returns:
            Image (1, i, j, k), and label (i, j, k) int64, of the block shape.
        """
        profile = self.profile
        draws = _Draws(seed)
        matrix = _matrix(profile, draws).numpy()
        window = np.asarray(image)[0], np.asarray(label)
        moved, turned = _turn(*window, matrix, self.block_shape)
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
    eye = torch.eye(3, device=vector.device)
    cross = torch.linalg.cross(eye.expand(*vector.shape, 3), vector[..., None, :])
    angle = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)[..., None] / math.pi
    # Rodrigues' formula; sinc(x) is sin(πx) / πx, and 1 - cos is twice a squared sine.
    turned = torch.sinc(angle) * cross + torch.sinc(angle / 2) ** 2 / 2 * cross @ cross
    return eye + turned


def _turn(
    image: np.ndarray, label: np.ndarray, matrix: np.ndarray, block: Shape3
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
    middle = (np.array(label.shape, np.float32) - 1) / 2
    i, j, k = map(np.multiply.outer, matrix.T, _offsets(block))
    lines = (i + middle[:, None])[:, :, None] + j[:, None]
    # Half a voxel more than the centres of the outermost voxels: rounding is no matter.
    lowest = middle - abs(matrix) @ np.array(block, np.float32) / 2
    # Only the part that is needed is copied. Its first voxel is an even one, so that
    # places half way between two voxels are rounded as they would be in the window.
    first = np.floor(lowest / 2).clip(0) * 2
    part = tuple(slice(n, -n or None) for n in first.astype(int).tolist())
    shape = label[part].shape
    labels, values = label[part].ravel(), image[part].ravel()
    moved, turned = torch.empty(block), torch.empty(block, dtype=torch.int64)
    for planes in _divide(block):
        place = torch.from_numpy(lines[:, planes, :, None])
        # Subtracted last, where it is exact.
        place = place + torch.from_numpy(k[:, None, None])
        place -= torch.from_numpy(first[:, None, None, None])
        if lowest.min() <= 0:
            # From just below the last voxel there is a next one to interpolate to.
            last = torch.tensor(shape).float().sub_(1)
            last = last.nextafter(torch.zeros(3)).view(3, 1, 1, 1)
            place = place.clamp_min_(0).minimum(last)
        turned[planes] = _take(labels, _number(place.round(), shape)).view_as(place[0])
        moved[planes] = _interpolate(values, place, shape)
    return moved, turned


@lru_cache(maxsize=8)
def _offsets(block: Shape3) -> list[np.ndarray]:
    """Places of the voxels along each axis of a block, about its centre."""
    return [np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in block]


def _divide(block: Shape3) -> list[slice]:
    """Divide the planes of a block into equal parts, of which most stays in a cache."""
    step = math.ceil(block[0] / math.ceil(math.prod(block) / _AT_ONCE))
    return [slice(first, first + step) for first in range(0, block[0], step)]


def _number(places: Tensor, shape: Sequence[int]) -> np.ndarray:
    """Numbers of voxels in a volume whose rows lie in line.

    Args:
        places: 0 or more voxels along each axis; fractions do not count, (3, i, j, k).
        shape: voxels of the volume along each axis.

    Returns:
        int64 (i * j * k,).
    """
    i, j, k = places.int().flatten(1)
    return k.add_(j.add_(i, alpha=shape[1]), alpha=shape[2]).long().numpy()


def _take(values: np.ndarray, numbers: np.ndarray) -> Tensor:
    """Values by number, by the quickest look-up that NumPy and PyTorch have."""
    return torch.from_numpy(values.take(numbers, mode="wrap"))


def _interpolate(values: np.ndarray, places: Tensor, shape: Sequence[int]) -> Tensor:
    """Values (i, j, k) between the eight voxels around each place.

    Args:
        values: those of a volume, with its rows in line.
        places: where to interpolate, in voxels, from the first to before the last one
            along each axis, (3, i, j, k); changed in place.
        shape: voxels of the volume along each axis, 2 or more.
    """
    numbers = _number(places, shape)
    i, j, k = places.frac_().flatten(1)

    def at(step: int) -> Tensor:
        """Values of the voxels so many places after those below."""
        return _take(values[step:], numbers)

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
    kernels = {n: gaussian_means(torch.arange(n), n, widths) for n in set(x.shape)}
    return along_axes(x, [kernels[n][axis] for axis, n in enumerate(x.shape)])
