"""Whom scans show, and how they are split without one person on both sides."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from os import PathLike
from typing import Literal

import numpy as np

from nobrainer.data.entries import Scan
from nobrainer.data.patches import is_count
from nobrainer.errors import InputError
from nobrainer.naming import repeats, subject_of

Scans = tuple[Scan, ...]


def list_subjects(scans: Sequence[Scan]) -> list[str]:
    """The person in each scan; a scan that names nobody counts as one of its own."""
    return [scan.subject or scan.shown for scan in scans]


def split_scans(
    scans: Scans, eval_size: float, by: Literal["subject", "scan"], seed: int
) -> tuple[Scans, Scans]:
    """Split scans at random, for training and for evaluation.

    Args:
        scans: the scans to split.
        eval_size: what goes into evaluation: a share, between 0 and 1, or a number of
            subjects (or scans).
        by: "subject" keeps all scans of a person together, "scan" does not.
        seed: seed of the random choice.

    Returns:
        The scans for training and those for evaluation, each in their original order.

    Raises:
        InputError: one of the two parts would be empty, or the size makes no sense.
    """
    keys = list_subjects(scans) if by == "subject" else list(range(len(scans)))
    groups = list(dict.fromkeys(keys))
    if isinstance(eval_size, float) and 0 < eval_size < 1:
        count = max(1, round(eval_size * len(groups)))
    elif is_count(eval_size, 1):
        count = int(eval_size)
    else:
        raise InputError(
            "eval_size must be a share between 0 and 1 or a number of subjects, "
            f"got {eval_size!r}"
        )
    if count >= len(groups):
        raise InputError(
            f"cannot take {count} of {len(groups)} {by}s to evaluate and leave "
            "some to train: give a smaller eval_size or more files"
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    chosen = {groups[i] for i in order[:count]}
    pairs = list(zip(scans, keys, strict=True))
    train = tuple(scan for scan, key in pairs if key not in chosen)
    held_out = tuple(scan for scan, key in pairs if key in chosen)
    return train, held_out


def fold_scans(scans: Scans, n_folds: int, seed: int) -> list[int]:
    """Divide the subjects of scans into folds of equal size, at random.

    Args:
        scans: the scans to divide; all scans of a person are in one fold.
        n_folds: number of folds, 2 or more.
        seed: seed of the random choice.

    Returns:
        The number of each scan's fold, from 0. The numbers of subjects in two folds
        differ by 1 at most.

    Raises:
        InputError: there are fewer subjects than folds.
    """
    keys = list_subjects(scans)
    groups = list(dict.fromkeys(keys))
    if n_folds > len(groups):
        raise InputError(
            f"folds must be at most the number of subjects, {len(groups)}, got "
            f"{n_folds}: give fewer folds, or scans of more subjects"
        )
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    folds = {groups[group]: place % n_folds for place, group in enumerate(order)}
    return [folds[key] for key in keys]


def check_mixable(one: Sequence[Scan], other: Sequence[Scan]) -> None:
    """Check that label maps are mixed with scans, and no scan with itself.

    Args:
        one: the scans, or label maps, of one dataset.
        other: those of the other dataset.

    Raises:
        InputError: the two are of one kind, or have a scan in common.
    """
    kinds = [{scan.is_map for scan in scans} for scans in (one, other)]
    if kinds not in ([{True}, {False}], [{False}, {True}]):
        raise InputError(
            "mix takes label maps and scans with labels, one of them in each "
            "dataset: make one by Dataset.from_label_maps, the other by from_files"
        )
    if problems := repeats(scan.shown for scan in (*one, *other)):
        raise InputError("\n".join(problems))


def warn_of_guessed_subjects(scans: Sequence[Scan], stacklevel: int = 1) -> None:
    """Warn where it had to be guessed which person a scan shows.

    There are two guesses: a scan for which neither path nor entry names a subject
    counts as a person of its own, and one label (such as sub-01) that occurs in several
    data sets counts as several people.

    Args:
        scans: the scans to look at.
        stacklevel: how many callers above this function the warning points to.
    """
    unknown = [scan.shown for scan in scans if scan.subject is None]
    of_label: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        is_path = isinstance(scan.image, str | PathLike)
        who = subject_of(scan.name) if is_path else None
        # A subject that the user gave need not end like the label in the path.
        if who is not None and (scan.subject or "").endswith(who.label):
            of_label[who.label].add(scan.subject or "")
    shared = {one: names for one, names in of_label.items() if len(names) > 1}
    what_to_do = (
        "name subjects in the paths (sub-<label>), or give them: a column subject "
        "of the table, a key of the entry"
    )
    if unknown:
        warnings.warn(
            f"{len(unknown)} of {len(scans)} scans name no subject (such as "
            f"{unknown[0]}): each of them counts as a subject of its own; if some "
            f"are of one person, {what_to_do}",
            stacklevel=stacklevel + 1,
        )
    if shared:
        label, names = next(iter(shared.items()))
        warnings.warn(
            f"{len(shared)} labels stand in several data sets (such as {label}: "
            f"{', '.join(sorted(names))}): they count as different people; if they "
            f"are one, {what_to_do}",
            stacklevel=stacklevel + 1,
        )
