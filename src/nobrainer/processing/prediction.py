"""What the draws say about one scan."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import nibabel as nib
import numpy as np

import nobrainer
from nobrainer.appearance import Appearance
from nobrainer.changes import Change, compare_draws
from nobrainer.checks import check_choice
from nobrainer.data.labels import LabelTable
from nobrainer.data.targets import give_sides, make_targets
from nobrainer.errors import InputError
from nobrainer.io import ImageSource, in_steps, read_labels, to_nibabel
from nobrainer.naming import count
from nobrainer.recipe import DataConfig
from nobrainer.regions import Region, find_regions
from nobrainer.structures import Part, Structure
from nobrainer.tissues import Compartments, brain_mask, tissue_map

if TYPE_CHECKING:
    from nobrainer.figure import Picture

_STEPS = {"variance": 2.0**-24, "entropy": 2.0**-14, "mutual_information": 2.0**-14}
_PROBABILITY_STEP = 2.0**-14
"""Steps of the values in files: far below what other draws would change."""


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What several draws say about one scan, on the scan's own grid.

    Unpacks into exactly (label, variance, entropy).

    label: the most frequent class of the draws; ties go to the class of higher mean
        probability. Where the scan's own intensities count and its voxels are not as
        large as the model's, the most probable class at each of its voxels, see
        `nobrainer.inference.finer`. A class has the value that `labels.values` gives
        it: the id that it has in the label files of the training, where every class
        has one. Smallest unsigned type.
    variance: population variance of the class probabilities across draws, mean over
        classes; float32 in [0, 0.25].
    entropy: Shannon entropy of the mean distribution, nats; float32 in [0, ln C].
    mutual_information: entropy minus the draws' mean entropy, nats; what the draws
        disagree about.
    probabilities: mean class probabilities (I, J, K, C) if asked for, else None;
        the last axis is in the order of the classes.
    volumes_mm3: (n_draws, C) volume of each class in each draw, mm³, counted on
        the working grid of the model; one row, of the posterior mean, for 0 samples
        (one for each member of an ensemble).
    structures: a row for each class but background: its volume with error bars, how
        well the draws agree on it, and how sure they are inside it.
    totals: such a row for the brain and for all that lies in the skull, where the
        classes have FreeSurfer's ids (see `nobrainer.tissues`); else none.
    tissue_probabilities: mean probability of grey matter ("GM"), white matter ("WM")
        and cerebrospinal fluid ("CSF") over the draws, if asked for; float32 images.
    seed: the seed with which the same call gives the same result.
    labels: the names and colours of the classes, and their values in the label map.
    data: how the labels of files become these classes.
    scan: what was predicted.
    name: what tables and pages call the scan, different for each scan of a list; see
        `nobrainer.naming`.
    appearance: figures of the scan and of its segmentation on the working grid.
    flags: how these are unlike what the model was trained on, as sentences; empty for
        an ordinary scan. See `nobrainer.quality.unlike_training`.
    """

    label: nib.Nifti1Image
    variance: nib.Nifti1Image
    entropy: nib.Nifti1Image
    mutual_information: nib.Nifti1Image
    probabilities: nib.Nifti1Image | None
    volumes_mm3: np.ndarray
    structures: tuple[Structure, ...]
    seed: int
    labels: LabelTable
    data: DataConfig
    scan: nib.Nifti1Image
    name: str
    appearance: Appearance | None = None
    flags: tuple[str, ...] = ()
    totals: tuple[Part, ...] = ()
    tissue_probabilities: Mapping[str, nib.Nifti1Image] = field(default_factory=dict)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.label.shape))
        return (
            f"Prediction({self.name!r}, {count(len(self.volumes_mm3), 'draw')}, seed "
            f"{self.seed}, {len(self.labels.names)} classes, {shape} voxels)"
        )

    def __iter__(self) -> Iterator[nib.Nifti1Image]:
        return iter((self.label, self.variance, self.entropy))

    def __len__(self) -> int:
        return 3

    def to_file(self, name: str) -> nib.Nifti1Image:
        """A map as files hold it, without the digits that make files large.

        Args:
            name: "label", "variance", "entropy", "mutual_information", or a tissue of
                `tissue_probabilities`.

        Returns:
            The map; all but the label rounded, to multiples of 2**-24 (the variance) or
            2**-14.

        Raises:
            InputError: there is no such map.
        """
        check_choice("map", name, ("label", *_STEPS, *self.tissue_probabilities))
        if name == "label":
            return self.label
        if name in _STEPS:
            return in_steps(getattr(self, name), _STEPS[name])
        return in_steps(self.tissue_probabilities[name], _PROBABILITY_STEP)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The ten areas with the largest total entropy, see `nobrainer.regions`."""
        classes = self.labels.to_classes(np.asarray(self.label.dataobj))
        return find_regions(self.entropy, classes, self.labels)

    @property
    def draws_mm3(self) -> dict[str, np.ndarray]:
        """Volume in each draw, (n_draws,), mm³, of each part by its name.

        The parts are the structures, without those that no training scan had, and the
        `totals`.
        """
        known = [one for one in self.structures if one.status != "not in training"]
        found = {one.name: self.volumes_mm3[:, one.class_number] for one in known}
        members = Compartments.of(self.labels)
        totals = members.totals if members and self.totals else {}
        return found | {
            name: self.volumes_mm3[:, list(classes)].sum(1)
            for name, classes in totals.items()
        }

    @cached_property
    def brain_mask(self) -> nib.Nifti1Image:
        """The brain on the scan's grid, closed over its sulci: 1 inside, 0 outside.

        Raises:
            InputError: the classes do not have FreeSurfer's ids.
        """
        return brain_mask(self.label, self.labels)

    @cached_property
    def tissues(self) -> nib.Nifti1Image:
        """The tissues on the scan's grid: 1 grey, 2 white matter, 3 fluid, 0 elsewhere.

        Raises:
            InputError: the classes do not have FreeSurfer's ids.
        """
        return tissue_map(self.label, self.labels)

    def plot(
        self,
        truth: ImageSource | None = None,
        title: str | None = None,
        *,
        n_slices: int = 1,
        radiological: bool = False,
    ) -> "Picture":
        """Draw the scan, the outlines of its structures and the maps in three planes.

        Args:
            truth: true labels as the training files have them; they are turned into
                the model's classes, and their outlines drawn as well.
            title: above the figure; default the name of the scan.
            n_slices: slices in each plane.
            radiological: show the subject's left on the right.

        Returns: a matplotlib figure, which a notebook shows; save it with
            `savefig("figure.png")`.

        Raises:
            InputError: the true labels cannot be read, are not on the scan's grid, or
                a function that is not stored with the model made classes of them.
        """
        return nobrainer.figure.draw_prediction(
            self.scan,
            self.label,
            self.variance,
            self.entropy,
            mutual_information=self.mutual_information,
            labels=self.labels,
            truth=None if truth is None else self._as_label(truth),
            n_slices=n_slices,
            radiological=radiological,
            title=self.name if title is None else title,
        )

    def changes_since(
        self, earlier: "Prediction", years: float | None = None
    ) -> tuple[Change, ...]:
        """How structures have changed since an earlier scan of the same person.

        Args:
            earlier: its prediction by the same model, with the same seed and number of
                draws, so that both volumes can be compared draw by draw.
            years: time between the scans in years; None where it is not known.

        Returns:
            A row for each part of `draws_mm3`, see `nobrainer.changes.Change`.

        Raises:
            InputError: the classes or draws differ, or the time is not above 0.
        """
        theirs, ours = (
            (one.labels.names, one.seed, len(one.volumes_mm3))
            for one in (earlier, self)
        )
        if theirs != ours:
            raise InputError(
                f"{self.name} and {earlier.name} must be predicted by the same model "
                f"and draws: predict both with one seed (here {self.seed}, there "
                f"{earlier.seed}) and one number of draws"
            )
        before, after = earlier.draws_mm3, self.draws_mm3
        return compare_draws(
            list(after),
            np.stack(list(before.values()), axis=1),
            np.stack(list(after.values()), axis=1),
            years,
        )

    def _as_label(self, truth: ImageSource) -> nib.Nifti1Image:
        """True labels of a file with the values of the label map."""
        volume = read_labels(truth)
        if self.data.binarize == "callable" and volume.data.max() > 1:
            raise InputError(
                f"{volume.source}: the model's classes were made by the function "
                f"{self.data.binarize_name}, which is not stored: give labels of 0 and "
                "1 to draw"
            )
        sided = give_sides(volume, self.data)
        classes, _ = make_targets(sided.data, self.data, None)
        return to_nibabel(self.labels.to_values(classes), volume)


Results = TypeVar("Results")


class BatchError(InputError, Generic[Results]):
    """Some of several inputs could not be predicted.

    results: a prediction or None for each input; after `evaluate` and `rank` the
        evaluation and the ranking of the others.
    problems: the messages, a line for each input that has no result.
    """

    def __init__(self, results: Results, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.results = results
        self.problems = problems
