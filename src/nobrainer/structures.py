"""Volumes of structures, with what the draws say about each: size, spread, agreement.

Every figure is a sum over voxels or a statistic over draws, so that tiles can come in
any order and be forgotten.
"""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import stdtrit

from nobrainer.data.labels import LabelTable
from nobrainer.glossary import OF_DRAWS, OF_STRUCTURES
from nobrainer.inference.predict import TileResult
from nobrainer.posthoc import Intervals, volume_spread


@dataclass(frozen=True)
class Part:
    """What the draws say about one part of one scan; NaN where undefined.

    A part is a structure, or several of them as a whole, such as the brain. A part that
    no draw finds has a volume of 0 and no interval: all draws can miss a structure that
    is there.

    name: name of the class, or of the whole.
    volume_mm3: mean volume over draws, mm³.
    volume_sd_mm3: sample standard deviation (ddof=1) over draws, mm³; NaN for one
        draw.
    volume_low_mm3, volume_high_mm3: 95 % interval for the volume of one further
        draw, mm³; low is at least 0; NaN for one draw and where no draw has the
        structure.
    conformal_low_mm3, conformal_high_mm3: interval for the true volume, mm³, with
        the coverage that the model was calibrated for; low is at least 0; NaN
        without calibration and where no draw has the structure.
    cv: volume_sd_mm3 / volume_mm3; NaN for one draw and where the volume is 0.
    pairwise_dice: pooled Dice between pairs of draws, 0..1; NaN for one draw and
        where no draw has the structure.
    iou: voxels on which all draws agree over those of any draw, 0..1; NaN for one
        draw and where no draw has the structure.
    entropy, mutual_information: means over the voxels labelled with the structure, or
        with those of the whole, nats; NaN where there are none.
    expected_dice: about the Dice of the label that is to be expected if the mean
        probabilities hold, 0..1; NaN where nothing is labelled with it.
    """

    name: str
    volume_mm3: float
    volume_sd_mm3: float
    volume_low_mm3: float
    volume_high_mm3: float
    conformal_low_mm3: float
    conformal_high_mm3: float
    cv: float
    pairwise_dice: float
    iou: float
    entropy: float
    mutual_information: float
    expected_dice: float

    @property
    def status(self) -> Literal["found", "not found", "not in training"]:
        """Whether a draw has the structure, and whether any training scan had it."""
        if math.isnan(self.volume_mm3):
            return "not in training"
        return "found" if self.volume_mm3 > 0 else "not found"


@dataclass(frozen=True)
class Structure(Part):
    """What the draws say about one structure, see `Part`.

    Everything is undefined for a structure that no training scan had, because the
    network cannot know it.

    class_number: place in arrays such as `volumes_mm3`.
    value: what stands for the structure in the label map; the `index` of tables.
    """

    class_number: int
    value: int


# Descriptions of the columns of a table that are no figures.
_ABOUT = {
    "subject": "The scan.",
    "index": "Value that stands for the structure in the label map; 'n/a' for a whole.",
    "name": "Name of the structure, or of a whole: 'brain' is all structures of the "
    "brain with the ventricles, 'intracranial' these and the fluid around the brain.",
    "status": "'found'; 'not found': no draw has a voxel of it, which does not make it "
    "certain; 'not in training': no training scan had it, so that the network cannot "
    "know it.",
}
_FIGURES = tuple(field.name for field in fields(Part) if field.name != "name")
_COLUMNS = (*_ABOUT, *_FIGURES)


class StructureSums:
    """Sums over tiles from which the structures of one scan are read.

    Args:
        n_classes: number of classes, background among them.
        totals: the numbers of the classes of each whole that is measured, by its name.

    Source: with v(c) the number of the n draws that give a voxel to class c, the sum
    of |A and B| over ordered pairs of draws is sum v(v - 1), and that of |A| + |B| is
    2(n - 1) sum v, so that the pooled Dice is sum v(v - 1) / ((n - 1) sum v). The
    ratio of the draws' common part to their union and the mutual information are used
    for quality by Roy et al. 2019, NeuroImage 195. Of n labelled voxels, sum p of them
    are expected to be right, and the true structure to have as many voxels as the sum
    of p over all; the expected Dice is that of these expectations.
    """

    def __init__(
        self, n_classes: int, totals: Mapping[str, Sequence[int]] = {}
    ) -> None:
        self._totals = totals
        n_parts = n_classes + len(totals)
        self._votes, self._squares, self._common, self._union = np.zeros(
            (4, n_parts), np.int64
        )
        self._voxels = np.zeros(n_classes, np.int64)
        self._entropy, self._information = np.zeros((2, n_classes))
        self._expected, self._right = np.zeros((2, n_parts))

    def add(self, tile: TileResult) -> None:
        """Add the statistics of one tile; every voxel must come once."""
        self._expect(tile)
        times = 1
        if tile.is_uniform:
            # One voxel says what all say of their labels.
            times, tile = tile.statistics.label.numel(), tile.first_voxel
        n_draws = tile.votes[:, 0, 0, 0].sum()
        label, size = tile.label.ravel(), len(self._voxels)
        for index, votes in enumerate(tile.votes):
            self._count(index, votes, n_draws, times)
        for index, members in enumerate(self._totals.values(), size):
            votes = np.zeros_like(tile.votes[0])
            for member in members:
                votes += tile.votes[member]
            self._count(index, votes, n_draws, times)
        self._voxels += times * np.bincount(label, minlength=size)
        self._entropy += times * np.bincount(label, tile.entropy.ravel(), size)
        if n_draws > 1:
            information = tile.mutual_information.ravel()
            self._information += times * np.bincount(label, information, size)
        probabilities = tile.statistics.probabilities
        of_label = probabilities.gather(0, tile.statistics.label[None])[0].cpu().numpy()
        self._right[:size] += times * np.bincount(label, of_label.ravel(), size)

    def _expect(self, tile: TileResult) -> None:
        """Add how many voxels the probabilities of a tile lead one to expect.

        Of wholes, also how many of those that have their labels.
        """
        # Summed on the device that has them; the labels have left it for the others.
        probabilities, labels = tile.statistics.probabilities, tile.label
        size = len(probabilities)
        self._expected[:size] += probabilities.sum((1, 2, 3)).cpu().numpy()
        for part, members in enumerate(self._totals.values(), size):
            whole = torch.zeros_like(probabilities[0])
            for member in members:
                whole += probabilities[member]
            self._expected[part] += float(whole.sum())
            inside = np.isin(labels, list(members))
            self._right[part] += whole.cpu().numpy()[inside].sum(dtype=np.float64)

    def _count(self, part: int, votes: np.ndarray, n_draws: int, times: int) -> None:
        """Add the votes (i, j, k) of a tile for a class or a whole, so many times."""
        if n_draws == 1:
            n_chosen = times * np.count_nonzero(votes)
            for sums in (self._votes, self._squares, self._common, self._union):
                sums[part] += n_chosen
            return
        chosen = votes[votes > 0].astype(np.int64)
        self._votes[part] += times * chosen.sum()
        self._squares[part] += times * (chosen @ chosen)
        self._common[part] += times * np.count_nonzero(chosen == n_draws)
        self._union[part] += times * chosen.size

    def table(
        self,
        volumes_mm3: np.ndarray,
        labels: LabelTable,
        intervals: Intervals | None,
        never_seen: Collection[int] = (),
    ) -> tuple[Structure, ...]:
        """List the structures of the scan: every class but 0, also if it is absent.

        Args:
            volumes_mm3: (n_draws, C), volume of each class in each draw, mm³.
            labels: names of the C classes, and their values in the label map.
            intervals: what the conformal intervals are made with, if fitted.
            never_seen: indices of the classes that no training scan had.
        """
        factors = intervals.factors if intervals else (None,) * len(labels.names)
        structures = []
        for index, name in list(enumerate(labels.names))[1:]:
            figures: dict[str, Any] = dict.fromkeys(_FIGURES, math.nan)
            if index not in never_seen:
                of_draws = volumes_mm3[:, index]
                figures = self._figures(index, (index,), of_draws, factors[index])
            value = labels.values[index]
            structures.append(
                Structure(name=name, class_number=index, value=value, **figures)
            )
        return tuple(structures)

    def totals(
        self, volumes_mm3: np.ndarray, intervals: Intervals | None
    ) -> tuple[Part, ...]:
        """List the wholes that are measured, in their order.

        Args:
            volumes_mm3, intervals: as for `table`.
        """
        factors = intervals.totals if intervals else {}
        parts = []
        for part, (name, members) in enumerate(self._totals.items(), len(self._voxels)):
            of_draws = volumes_mm3[:, list(members)].sum(1)
            figures = self._figures(part, members, of_draws, factors.get(name))
            parts.append(Part(name=name, **figures))
        return tuple(parts)

    def _figures(
        self,
        part: int,
        members: Sequence[int],
        volumes_mm3: np.ndarray,
        factor: float | None,
    ) -> dict[str, Any]:
        """The figures of a class or a whole, by name.

        Args:
            part: its position in the sums.
            members: the classes that it has.
            volumes_mm3: (n_draws,), its volume in each draw, mm³.
            factor: factor of its conformal interval, if fitted.
        """
        n_draws = len(volumes_mm3)
        mean = float(volumes_mm3.mean())
        sd = float(volumes_mm3.std(ddof=1)) if n_draws > 1 else math.nan
        half = float(stdtrit(n_draws - 1, 0.975)) * sd
        unit = float(volume_spread(mean, sd))
        width = math.nan if factor is None else factor * unit
        if not mean:
            # An interval of no width would claim that the volume is surely 0.
            half = width = math.nan
        low, high = _around(mean, half * math.sqrt(1 + 1 / n_draws))
        conformal_low, conformal_high = _around(mean, width)
        votes = int(self._votes[part])
        pairs = int(self._squares[part]) - votes
        at = list(members)
        voxels = int(self._voxels[at].sum())
        iou = _ratio(self._common[part], self._union[part])
        right = _ratio(2 * self._right[part], voxels + self._expected[part])
        return {
            "volume_mm3": mean,
            "volume_sd_mm3": sd,
            "volume_low_mm3": low,
            "volume_high_mm3": high,
            "conformal_low_mm3": conformal_low,
            "conformal_high_mm3": conformal_high,
            "cv": _ratio(sd, mean),
            "pairwise_dice": _ratio(pairs, (n_draws - 1) * votes),
            "iou": iou if n_draws > 1 else math.nan,
            "entropy": _ratio(self._entropy[at].sum(), voxels),
            "mutual_information": _ratio(self._information[at].sum(), voxels),
            "expected_dice": right if voxels else math.nan,
        }


def is_single_draw(structures: Sequence[Part]) -> bool:
    """Whether the structures come from one draw, which has no spread."""
    return all(math.isnan(one.volume_sd_mm3) for one in structures)


def mean_by_volume(structures: Sequence[Structure], figure: str) -> float:
    """Average a figure in nats over structures, weighted by their volumes.

    Args:
        structures: the structures of one scan.
        figure: "entropy" or "mutual_information".

    Returns:
        The mean; ln C, the worst value for C classes, if no structure has one.
    """
    pairs = [(getattr(one, figure), one.volume_mm3) for one in structures]
    known = [(value, mm3) for value, mm3 in pairs if not math.isnan(value)]
    if not known:
        return math.log(len(structures) + 1)
    values, weights = zip(*known, strict=True)
    return float(np.average(values, weights=weights))


def to_tsv(tables: Mapping[str, Sequence[Part]]) -> str:
    """The structures of some scans as one tidy table, tab-separated as in BIDS.

    Args:
        tables: the structures and wholes of each subject, by the name of the subject.

    Returns:
        A row per subject and part with the columns of `sidecar`, of which `index` is
        the structure's `value`; "n/a" for what is not defined.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for subject, parts in tables.items():
        for one in parts:
            # A table with an sd of 0 would claim that the structure is surely absent.
            sd_mm3 = one.volume_sd_mm3 if one.status == "found" else math.nan
            row = {"subject": subject, "status": one.status, **asdict(one)}
            value = one.value if isinstance(one, Structure) else "n/a"
            row |= {"index": value, "volume_sd_mm3": sd_mm3}
            writer.writerow([_cell(row[column]) for column in _COLUMNS])
    return text.getvalue()


def sidecar(coverage: float | None = None) -> dict[str, dict[str, str]]:
    """What the columns of `to_tsv` mean: BIDS JSON, Description and Units of each.

    Args:
        coverage: share of true volumes that the conformal intervals were fitted to
            hold; None for a table without such intervals.
    """
    columns = {
        name: {"Description": text, "Units": "n/a"} for name, text in _ABOUT.items()
    }
    figures = OF_STRUCTURES | OF_DRAWS
    columns |= {name: figures[name].describe_column() for name in _FIGURES}
    if coverage is not None:
        for end in ("conformal_low_mm3", "conformal_high_mm3"):
            columns[end]["Description"] += (
                f" The coverage is {coverage:g}: of new scans like those, at least "
                f"{100 * coverage:g} % have their true volume inside."
            )
    return columns


def _around(mean: float, half: float) -> tuple[float, float]:
    """mean ± half; no volume is below 0."""
    low = mean - half
    # `max` with NaN depends on the order of its arguments.
    return (low if math.isnan(low) else max(low, 0.0)), mean + half


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator) / float(denominator) if denominator else math.nan


def _cell(value: int | str | float) -> str:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.8g}"
    return str(value)
