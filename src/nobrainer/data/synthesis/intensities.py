"""The intensities of a head: contrast, signal and texture of every structure."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from nobrainer.data.freesurfer import OUTER_FLUID, is_outside
from nobrainer.data.synthesis.anatomy import Anatomy
from nobrainer.data.synthesis.draws import Draws
from nobrainer.recipe import Synthesis

CONTRASTS = ("T1", "T2", "FLAIR", "PD")
"""The contrasts with a name, in the order of the columns of `_SIGNALS`."""

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


class Look(NamedTuple):
    """What is drawn once for a whole head.

    A table has an entry for each image and each label value, (B, values), in the order
    of `Anatomy.values`.

    flipped: whether left and right are swapped, booleans (B,).
    means, spreads: tables of the mean and standard deviation of the intensities.
    classes: table of the classes; those of partners are swapped where it is flipped.
    is_inside: table of whether the value lies inside the skull.
    is_brain: table of whether the value is left after stripping the skull.
    is_stripped: whether the skull is stripped, booleans (B,).
    noise: standard deviation of the noise, (B, 1, 1, 1).
    gamma: power to which intensities are raised, (B, 1, 1, 1).
    """

    flipped: Tensor
    means: Tensor
    spreads: Tensor
    classes: Tensor
    is_inside: Tensor
    is_brain: Tensor
    is_stripped: Tensor
    noise: Tensor
    gamma: Tensor


def draw_look(anatomy: Anatomy, synthesis: Synthesis, draws: Draws) -> Look:
    """Draw what holds for a head as a whole.

    Args:
        anatomy: what the label values stand for.
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
    """
    tables = _tables_of(anatomy, draws.device)
    flipped = draws.happens(synthesis.flip)
    classes = torch.where(flipped[:, None], tables.flipped_classes, tables.classes)
    means, spreads = _draw_signals(tables, synthesis, draws)

    # Some tools that strip the skull leave the fluid around the brain, some do not.
    bare = draws.happens(0.5, 1) & tables.is_fluid
    steepest = math.log(synthesis.gamma)
    return Look(
        flipped=flipped,
        means=means,
        spreads=spreads,
        classes=classes,
        is_inside=tables.is_inside.expand(bare.shape),
        is_brain=tables.is_inside & ~bare,
        is_stripped=draws.happens(synthesis.strip),
        noise=draws.between(0, synthesis.noise, 1, 1, 1),
        gamma=draws.between(-steepest, steepest, 1, 1, 1).exp(),
    )


class _Tables(NamedTuple):
    """What holds for every image of an anatomy, for each label value, (values,).

    classes: its class.
    flipped_classes: the class of its partner on the other side.
    groups: number of the structure whose intensity it has.
    is_fluid: whether it is the fluid around the brain.
    is_inside: whether it lies inside the skull.
    signals: its mean under each contrast with a name and under the random one, nan
        where that is not known, (contrasts, values).
    """

    classes: Tensor
    flipped_classes: Tensor
    groups: Tensor
    is_fluid: Tensor
    is_inside: Tensor
    signals: Tensor


@lru_cache(maxsize=8)
def _tables_of(anatomy: Anatomy, device: torch.device) -> _Tables:
    """The tables of an anatomy on a device, made once."""
    unknown = (math.nan,) * (len(CONTRASTS) + 1)
    known = [
        (*_SIGNALS[name], math.nan) if name else unknown for name in anatomy.tissues
    ]
    classes = torch.tensor(anatomy.classes, device=device)
    inside = [value > 0 and not is_outside(value) for value in anatomy.values]
    fluid = [value == OUTER_FLUID for value in anatomy.values]
    return _Tables(
        classes=classes,
        flipped_classes=classes[torch.tensor(anatomy.partners, device=device)],
        groups=torch.tensor(anatomy.groups, device=device),
        is_fluid=torch.tensor(fluid, device=device),
        is_inside=torch.tensor(inside, device=device),
        signals=torch.tensor(known, device=device).t().contiguous(),
    )


def _draw_signals(
    tables: _Tables, synthesis: Synthesis, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the intensities, tables (B, values) each."""
    n, device = len(tables.groups), draws.device
    weights = [synthesis.contrasts.get(name, 0.0) for name in CONTRASTS]
    edges = torch.tensor(weights, device=device).cumsum(0)
    edges = edges / sum(synthesis.contrasts.values())
    # After the contrasts with a name comes the random one, which knows no tissue.
    contrast = (draws.between(0, 1, 1) >= edges).sum(1)
    prior = tables.signals[contrast]
    prior = (prior + synthesis.prior_spread * draws.normal(n)).clamp_min(0)
    random = draws.between(0, 1, n)
    means = torch.where(prior.isnan(), random, prior)
    means[:, 0] = synthesis.background * random[:, 0]
    spreads = draws.between(0, synthesis.texture, n)
    spreads[:, 0] = 0
    return means[:, tables.groups], spreads[:, tables.groups]


def draw_signal(
    look: Look, found: Tensor, synthesis: Synthesis, draws: Draws
) -> Tensor:
    """Intensities (B, I, J, K) of the structures, with their texture.

    Args:
        look: what was drawn for the head.
        found: position of the label value of each voxel, int32 (B, I, J, K).
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
    """
    signal = read_table(look.means, found)
    if not synthesis.texture:
        return signal
    noise = draws.normal(*found.shape[1:])
    return noise.mul_(read_table(look.spreads, found)).add_(signal)


def read_table(table: Tensor, found: Tensor) -> Tensor:
    """Look up each voxel's entry in a table.

    Args:
        table: an entry for each image and each label value, (B, values).
        found: position of the label value of each voxel, int32 (B, I, J, K).

    Returns:
        The entries, (B, I, J, K).
    """
    if len(table) > 1:
        begins = torch.arange(len(table), dtype=found.dtype, device=found.device)
        found = found + (begins * table.shape[1]).view(-1, 1, 1, 1)
    # Many times faster than `gather`, which a processor's vectors do not help.
    return table.flatten().index_select(0, found.flatten()).view(found.shape)
