"""The training scans in figures: how large their classes are, what they look like."""

from dataclasses import dataclass, field
from math import isfinite

from nobrainer.errors import InputError
from nobrainer.json_records import since
from nobrainer.naming import count_scans


@dataclass(frozen=True)
class TrainingAppearance:
    """What the training scans look like, see `nobrainer.appearance`.

    n_scans: how many scans the figures come from.
    names: the names of the statistics; `mean` and `sd` have one number for each.
    limit: distance from the training scans, in standard deviations, that an ordinary
        scan seldom has.
    cut: the largest share, in [0, 1], of the foreground on each face of the field of
        view: left, right, posterior, anterior, inferior, superior.
    islands: largest share, in [0, 1], of the foreground outside its largest component.
    pieces: for each class, background first, the largest share of the foreground that a
        piece of the class has which lies apart from its largest; 0 for the classes
        after the last of these. Empty where that is not on record.
    misfit: by how many standard deviations a place of them looks unlike the rest of its
        structure, at most, see `nobrainer.oddities`; 0 where there is no such place,
        and for images of label maps.
    """

    n_scans: int
    names: tuple[str, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    limit: float
    cut: tuple[float, float, float, float, float, float]
    islands: float
    pieces: tuple[float, ...] = field(default=(), metadata=since(4))
    misfit: float = field(default=0.0, metadata=since(4))

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.sd, self.limit, *self.cut, self.islands)
        numbers += (*self.pieces, self.misfit)
        fits = len(self.names) == len(self.mean) == len(self.sd)
        if not fits or not all(map(isfinite, numbers)) or min(self.sd, default=1) <= 0:
            raise InputError(
                "appearance must have a finite mean and a positive sd for each of its "
                f"names, got {self}: train the model again"
            )


@dataclass(frozen=True)
class Cohort:
    """How large the classes are in the training scans, and what scans look like.

    n_subjects: number of people whom the scans show.
    log_mean, log_sd: mean and sample standard deviation over the scans of ln(volume in
        mm³) of each class; None for a class that fewer than two scans have. Those of
        label maps are wider, by the sizes in which the heads are seen.
    n_having: number of scans that have a voxel of each class; empty where that is not
        on record.
    appearance: what the scans look like; None where it was not measured.
    n_scans: number of scans; None where `n_subjects` counted scans, as in older
        formats.
    """

    n_subjects: int
    log_mean: tuple[float | None, ...]
    log_sd: tuple[float | None, ...]
    n_having: tuple[int, ...] = field(default=(), metadata=since(4))
    appearance: TrainingAppearance | None = field(default=None, metadata=since(4))
    n_scans: int | None = field(default=None, metadata=since(4))

    @property
    def counted(self) -> str:
        """How many scans of how many people there are, in words."""
        if self.n_scans is None:
            return count_scans(self.n_subjects, None)
        return count_scans(self.n_scans, self.n_subjects)

    @property
    def never_seen(self) -> tuple[int, ...]:
        """The indices of the classes that occur in no training scan."""
        return tuple(index for index, count in enumerate(self.n_having) if not count)
