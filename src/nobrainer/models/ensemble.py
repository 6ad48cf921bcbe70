"""An ensemble of models of the registry."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nobrainer.bayes.ensemble import EnsembleNetwork
from nobrainer.bayes.layers import name_sites
from nobrainer.checks import check_count
from nobrainer.errors import InputError
from nobrainer.models.registry import build

Member = tuple[str, Mapping[str, Any]]
MEMBERS: tuple[Member, ...] = (("vnet", {}), ("vnet", {}), ("vnet", {}))
"""The members of an ensemble by default: three V-Nets."""
MOST_MEMBERS = 100


def ensemble(
    in_channels: int = 1,
    n_classes: int = 2,
    members: Sequence[Member] = MEMBERS,
) -> nn.Module:
    """An `EnsembleNetwork` of models that are each built by name.

    Args:
        in_channels: channels of the image, for every member.
        n_classes: classes of the output, background included, for every member.
        members: two or more pairs of a model's name and its arguments, like
            [["vnet", {"levels": 3}], ["bayesian_meshnet", {}]].

    Raises: InputError where there are fewer than two members, or one cannot be built.
    Source: Lakshminarayanan, Pritzel, Blundell 2017, Simple and scalable predictive
    uncertainty estimation using deep ensembles.
    """
    if isinstance(members, str) or not isinstance(members, Sequence):
        raise InputError(
            f"members must be a list of [model name, arguments] pairs, got {members!r}"
        )
    check_count("number of members", len(members), 0, MOST_MEMBERS)
    if len(members) < 2:
        raise InputError(
            f"members must be two models or more, got {len(members)}: add members, or "
            "train the one model by its own name"
        )
    shared = {"in_channels": in_channels, "n_classes": n_classes}
    built = EnsembleNetwork(_build(n, pair, shared) for n, pair in enumerate(members))
    return name_sites(built)


def _build(number: int, pair: Member, shared: Mapping[str, int]) -> nn.Module:
    """One member, with the arguments that all members share."""
    place = f"members[{number}]"
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise InputError(
            f"{place} must be a pair [model name, arguments], got {pair!r}"
        )
    name, args = pair
    if not isinstance(name, str) or not isinstance(args, Mapping):
        raise InputError(
            f"{place} must be a name and a mapping of arguments, got {pair!r}"
        )
    if name == "ensemble":
        raise InputError(
            f"{place} must not be an ensemble itself: list its members in this one"
        )
    for key, value in shared.items():
        if args.get(key, value) != value:
            raise InputError(
                f"{place}: {key} must be the ensemble's {value!r}, got {args[key]!r}: "
                "leave it out"
            )
    return build(name, **{**args, **shared})
