"""Several networks, trained in one call and asked together."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from nobrainer import models
from nobrainer.checks import check_arguments, check_count
from nobrainer.errors import InputError
from nobrainer.models.ensemble import MOST_MEMBERS
from nobrainer.processing.segmentation import Segmentation


def Ensemble(
    members: str | Sequence[str | tuple[str, Mapping[str, Any]]] = "vnet",
    model_args: Mapping[str, Any] | None = None,
    n_members: int = 3,
    checkpoint_filepath: str | PathLike[str] | None = None,
) -> Segmentation:
    """A `Segmentation` of several networks (deep ensemble).

    `fit` trains one member after the other, each with a seed of its own, which
    `recipe_.provenance.member_seeds` keeps. Trained alone with this seed, a member gets
    the same weights. A draw of the ensemble is a member, or a draw of its weights;
    `predict` takes the members in turn.

    Args:
        members: the name of one model, of which there are `n_members`; or a list of
            names or (name, arguments) pairs, one for each member.
        model_args: arguments that all members share.
        n_members: number of members of the one model; a list has its own length.
        checkpoint_filepath: see `Segmentation`; each member has a folder in it.

    Returns: a `Segmentation` of the model "ensemble", to be fitted, saved and loaded
        like any other.

    Raises:
        InputError: an unknown model or argument, or fewer than two members.

    Source: Lakshminarayanan, Pritzel and Blundell 2017.
    """
    if isinstance(members, str):
        check_count("n_members", n_members, 2, MOST_MEMBERS)
        members = [members] * n_members
    pairs = []
    for member in members:
        if not isinstance(member, str | Sequence):
            raise InputError(
                f"members must be names of models, got {member!r}: register a network "
                "of your own under a name"
            )
        name, own = (member, {}) if isinstance(member, str) else member
        args = {**(model_args or {}), **own}
        check_arguments(f"argument of model {name!r}", models.get(name), args)
        pairs.append([name, args])
    check_count("number of members", len(pairs), 0, MOST_MEMBERS)
    if len(pairs) < 2:
        raise InputError(f"an ensemble needs two members or more, got {len(pairs)}")
    return Segmentation("ensemble", {"members": pairs}, checkpoint_filepath)
