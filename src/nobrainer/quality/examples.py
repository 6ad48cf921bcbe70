"""Examples for the quality model: predictions of labelled scans, also degraded ones."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from nobrainer.appearance import measure
from nobrainer.bayes.draws import mix_seed
from nobrainer.data.labels import LabelTable
from nobrainer.data.prepared import Prepared, RawScan
from nobrainer.data.shifts import SHIFTS, shifted
from nobrainer.inference.predict import TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.metrics.overlap import confusion, dice
from nobrainer.quality.feature import features
from nobrainer.quality.fit import Example
from nobrainer.recipe import Cohort, PreprocessConfig
from nobrainer.structures import StructureSums


def collect_examples(
    predictor: Predictor,
    scans: Iterable[RawScan],
    subjects: Sequence[str],
    preprocess: PreprocessConfig,
    *,
    labels: LabelTable,
    cohorts: Sequence[Cohort | None],
    judges: Sequence[Predictor] = (),
    uncounted: Collection[int] = (),
    severities: Sequence[float],
    progress: Callable[[int, int], None],
) -> list[Example]:
    """Predict every scan as it is and under every simulated shift.

    Args:
        predictor: the network, and how it is applied; its seed is also the seed of the
            shifts.
        scans: scans with labels, which training has not seen; images of label maps are
            degraded like any other scan.
        subjects: whom each scan shows.
        preprocess: how the network learned scans.
        labels: names of the classes.
        cohorts: for each scan what the training scans were like, if that is on record.
        judges: for each scan a network that has not seen it, whose prediction gives the
            Dice, while all else is that of `predictor`; none where that has seen none
            of the scans.
        uncounted: classes that count as background in the Dice, because the labels
            leave out some of what the network finds.
        severities: severities of each shift, in (0, 1].
        progress: called with (predictions done, predictions in all) at first and after
            each.

    Returns:
        An example for each prediction, except where nothing labelled is left in the
        field of view.

    Raises:
        InputError: a scan cannot be used.
    """
    examples = []
    total = len(subjects) * (1 + len(SHIFTS) * len(severities))
    progress(0, total)
    versions = degraded_scans(scans, severities, predictor.sampling.seed)
    for done, (number, is_shifted, scan) in enumerate(versions):
        cohort = cohorts[number]
        never_seen = () if cohort is None else cohort.never_seen
        volume = scan.prepare(preprocess)
        comparison = _Comparison(volume, predictor.n_classes)
        counts = predictor(volume.image, volume.background, comparison.add)
        judged = comparison
        if judges:
            judged = _Comparison(volume, predictor.n_classes)
            judges[number](volume.image, volume.background, judged.add)
        judged.leave_out(uncounted)
        scores = dice(judged.confusion)[1:]
        # A shift can push all that is labelled out of the field of view.
        if not np.isnan(scores).all():
            geometry = volume.geometry
            found = features(
                comparison.sums.table(
                    counts * geometry.voxel_mm3, labels, None, never_seen
                ),
                cohort,
                measure(volume.image, comparison.label, geometry, volume.voxel_mm),
            )
            mean = float(np.nanmean(scores))
            whole = judged.whole_dice()
            examples.append(Example(subjects[number], found, mean, is_shifted, whole))
        progress(done + 1, total)
    return examples


def degraded_scans(
    scans: Iterable[RawScan], severities: Sequence[float], seed: int
) -> Iterator[tuple[int, bool, RawScan]]:
    """Each labelled scan as it is, then under every simulated shift, one at a time.

    Args:
        scans: scans with labels.
        severities: severities of each shift, in (0, 1].
        seed: seed of what is random in a shift.

    Yields: the scan's number in `scans`, whether it is shifted, and the scan.
    """
    for number, scan in enumerate(scans):
        assert scan.label is not None
        yield number, False, scan
        for name in SHIFTS:
            for severity in severities:
                key = mix_seed(seed, scan.name, name)
                image, label = shifted(scan.image, scan.label, name, severity, key)
                yield number, True, replace(scan, image=image, label=label)


class _Comparison:
    """One scan's labels against its prediction, tile by tile."""

    def __init__(self, volume: Prepared, n_classes: int) -> None:
        assert volume.label is not None
        self._truth = volume.label
        self.label = np.empty_like(volume.label)
        self.confusion = np.zeros((n_classes, n_classes), np.int64)
        self.sums = StructureSums(n_classes)

    def add(self, tile: TileResult) -> None:
        truth = self._truth[tile.where]
        self.confusion += confusion(truth, tile.label, len(self.confusion))
        self.label[tile.where] = tile.label
        self.sums.add(tile)

    def leave_out(self, classes: Collection[int]) -> None:
        """Count some classes as background."""
        for index in classes:
            self.confusion[0] += self.confusion[index]
            self.confusion[index] = 0
            self.confusion[:, 0] += self.confusion[:, index]
            self.confusion[:, index] = 0

    def whole_dice(self) -> float:
        """Dice of all structures as one."""
        inside, n = self.confusion[1:, 1:].sum(), self.confusion.sum()
        outside = self.confusion[0, 0]
        return float(2 * inside / (n - outside + inside))
