"""From the tiles of one scan to its maps, on the scan's own grid."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np

from nobrainer.appearance import measure
from nobrainer.data.labels import LabelTable
from nobrainer.data.preprocess import (
    background_value,
    preprocess_finely,
    preprocess_image,
)
from nobrainer.errors import UnusualScanWarning
from nobrainer.inference.finer import FinerGrid
from nobrainer.inference.predict import TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.io import ImageSource, read_image, source_name, to_nibabel
from nobrainer.memory import kept_memory, require_memory
from nobrainer.naming import scan_names
from nobrainer.processing.guard import Batch
from nobrainer.processing.learned import Learned
from nobrainer.processing.prediction import Prediction
from nobrainer.processing.progress import ProgressBar
from nobrainer.quality import unlike_training
from nobrainer.tissues import Compartments
from nobrainer.volume import Geometry, Volume, restore

MAPS = ("label", "variance", "entropy", "mutual_information")


def predict_each(
    sources: Sequence[ImageSource],
    predict: Callable[[ImageSource, str], nib.Nifti1Image | Prediction],
    batch: Batch,
    bar: ProgressBar,
) -> list[Any]:
    """Predict scans one after the other.

    Args:
        sources: the scans.
        predict: makes of a scan and its name what is predicted of it.
        batch: keeps what goes wrong, or lets the first error pass.
        bar: shows how many scans are done.

    Returns: what `predict` gave for each scan; None where it failed.
    """
    names = scan_names([source_name(source) for source in sources])
    results: list[Any] = [None] * len(sources)
    bar.begin_scans(len(sources))
    for number, (source, name) in enumerate(zip(sources, names, strict=True)):
        with bar.scan(name), batch.scan(source):
            results[number] = predict(source, name)
    return results


def predict_scan(
    learned: Learned,
    predictor: Predictor,
    source: ImageSource,
    name: str,
    *,
    labels: LabelTable,
    label_only: bool,
    probabilities: bool,
    tissues: bool,
) -> nib.Nifti1Image | Prediction:
    """Read a scan, predict it, and bring the maps back to its grid.

    Args:
        learned: the model.
        predictor: its network, and how it is applied.
        source: the scan.
        name: what tables and pages call the scan.
        labels: the classes, and their values in the label map.
        label_only: give the label map alone.
        probabilities: keep the mean class probabilities, too.
        tissues: keep the mean probabilities of the tissues, too.

    Warns: `UnusualScanWarning` for what is unlike the training scans.

    Raises:
        InputError: the scan cannot be used, or there is too little memory.
    """
    members = Compartments.require(labels).tissues if tissues else {}
    volume = read_image(source)
    scan, own = _prepared(learned, predictor, volume)
    kinds: tuple[str, ...] = MAPS
    if label_only:
        kinds = ("label",)
    elif predictor.n_passes == 1:
        # The others of a single pass are 0 everywhere.
        kinds = ("label", "entropy")
    background = background_value(scan.data)
    with kept_memory():
        seen = predictor.look_at(scan.data, background)
        finer = None
        if seen is not None and own is not scan:
            finer = FinerGrid(seen, predictor.scaling, scan, own)
        maps = _Maps(
            volume, scan, predictor.n_classes, kinds, members, probabilities, finer
        )
        volumes_mm3, structures, totals = learned.measure(
            replace(predictor, evidence=seen),
            scan.data,
            scan.geometry,
            background,
            labels=labels,
            on_tile=maps.keep,
        )
        maps.finish()
        appearance = measure(
            scan.data,
            maps.working["label"],
            scan.geometry,
            volume.geometry.spacing_mm,
        )
    flags = unlike_training(structures, learned.cohort, appearance)
    if flags:
        # The warning points to the line of the user's call, three functions up.
        warnings.warn(f"{name}: {'; '.join(flags)}", UnusualScanWarning, stacklevel=4)
    label = maps.label_image(labels)
    if label_only:
        return label
    return Prediction(
        label=label,
        variance=maps.image("variance"),
        entropy=maps.image("entropy"),
        mutual_information=maps.image("mutual_information"),
        probabilities=maps.probability_image() if probabilities else None,
        volumes_mm3=volumes_mm3,
        structures=structures,
        totals=totals,
        tissue_probabilities=maps.tissue_images(),
        seed=predictor.sampling.seed,
        labels=labels,
        data=learned.recipe.data,
        scan=to_nibabel(volume.data, volume, copy=False),
        name=name,
        appearance=appearance,
        flags=flags,
    )


def _prepared(
    learned: Learned, predictor: Predictor, volume: Volume
) -> tuple[Volume, Volume]:
    """A scan on the working grid, and with its own voxels.

    These are of use to its intensities alone: where they do not count, both are one.
    """
    if predictor.evidence is not None:
        return preprocess_finely(volume, learned.recipe.preprocess)
    scan = preprocess_image(volume, learned.recipe.preprocess)
    return scan, scan


class _Maps:
    """The maps of one scan: on the working grid, then on the grid of the scan.

    Labels and mean probabilities come from a finer grid where there is one. `kinds` are
    the maps that tiles are asked for, of `MAPS`; the others are 0, and take no memory.
    A map leaves the working grid when its image is made.
    """

    def __init__(
        self,
        volume: Volume,
        scan: Volume,
        n_classes: int,
        kinds: Sequence[str],
        tissues: Mapping[str, Sequence[int]],
        probabilities: bool,
        finer: FinerGrid | None,
    ) -> None:
        self._volume, self._scan, self._kinds = volume, scan, kinds
        self._members, self._finer = tissues, finer
        self._grid = scan.geometry if finer is None else finer.geometry
        shape, fine = scan.geometry.shape, self._grid.shape
        n_means = len(tissues) + (n_classes if probabilities else 0)
        # Each map is kept on one of these grids, then brought to that of the scan.
        n_voxels = (len(MAPS) + n_means) * volume.data.size
        n_voxels += len(MAPS) * scan.data.size + n_means * math.prod(fine)
        require_memory(volume.source, 4 * n_voxels, "predict it")
        types = dict.fromkeys(kinds, np.dtype(np.float32))
        types["label"] = np.min_scalar_type(n_classes - 1)
        self.working = {kind: np.zeros(shape, type_) for kind, type_ in types.items()}
        self._label = self.working["label"]
        if finer is not None:
            self._label = np.zeros(fine, self._label.dtype)
        self._tissues = {name: np.zeros(fine, np.float32) for name in tissues}
        self._mean = None
        if probabilities:
            self._mean = np.zeros((n_classes, *fine), np.float32)
            self._mean[0] = 1

    def keep(self, tile: TileResult) -> None:
        """Take the statistics of a tile."""
        for kind in self._kinds:
            self.working[kind][tile.where] = getattr(tile, kind)
        if self._finer is None:
            self._keep_means(tile.where, tile.probabilities)
        else:
            self._finer.keep(tile)

    def finish(self) -> None:
        """Make what lies on a finer grid, once all tiles are kept."""
        for where, probabilities in self._finer or ():
            self._label[where] = probabilities.argmax(0)
            self._keep_means(where, probabilities)

    def _keep_means(
        self, where: tuple[slice, slice, slice], probabilities: np.ndarray
    ) -> None:
        if self._mean is not None:
            self._mean[:, *where] = probabilities
        for name, members in self._members.items():
            of_tissue = self._tissues[name][where]
            for member in members:
                of_tissue += probabilities[member]

    def image(self, kind: str) -> nib.Nifti1Image:
        """A map of real numbers as an image on the scan's grid."""
        if kind not in self._kinds:
            # The system provides this memory only as it is written to.
            empty = np.zeros(self._volume.data.shape, np.float32, order="F")
            return to_nibabel(empty, self._volume, copy=False)
        native = self._restored(self.working.pop(kind), self._scan.geometry)
        return to_nibabel(native, self._volume)

    def label_image(self, labels: LabelTable) -> nib.Nifti1Image:
        """The label map on the scan's grid, with the values of the classes."""
        native = self._restored(self._label, self._grid, labels=True)
        return to_nibabel(labels.to_values(native), self._volume)

    def probability_image(self) -> nib.Nifti1Image:
        """Mean class probabilities (I, J, K, C) on the scan's grid."""
        assert self._mean is not None
        native = [self._restored(one, self._grid) for one in self._mean]
        return to_nibabel(np.stack(native, axis=-1), self._volume)

    def tissue_images(self) -> dict[str, nib.Nifti1Image]:
        """Mean probability of each tissue on the scan's grid, by its name."""
        return {
            name: to_nibabel(self._restored(mean, self._grid), self._volume)
            for name, mean in self._tissues.items()
        }

    def _restored(
        self, values: np.ndarray, grid: Geometry, *, labels: bool = False
    ) -> np.ndarray:
        return restore(values, grid, self._volume.geometry, labels=labels)
