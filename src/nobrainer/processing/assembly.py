"""From the tiles of one scan to its maps, on the scan's own grid."""

import warnings
from collections.abc import Mapping, Sequence

import nibabel as nib
import numpy as np

from nobrainer.appearance import measure
from nobrainer.data.labels import LabelTable
from nobrainer.data.preprocess import background_value, preprocess_image
from nobrainer.errors import UnusualScanWarning
from nobrainer.inference.predict import TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.io import ImageSource, read_image, to_nibabel
from nobrainer.memory import require_memory
from nobrainer.processing.learned import Learned
from nobrainer.processing.prediction import Prediction
from nobrainer.quality import unlike_training
from nobrainer.tissues import Compartments
from nobrainer.volume import Volume, restore

MAPS = ("label", "variance", "entropy", "mutual_information")


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
    scan = preprocess_image(volume, learned.recipe.preprocess)
    maps = _Maps(volume, scan, predictor.n_classes, members, probabilities)
    volumes_mm3, structures, totals = learned.measure(
        predictor,
        scan.data,
        scan.geometry,
        background_value(scan.data),
        labels=labels,
        on_tile=maps.keep,
    )
    grids_mm = scan.geometry.spacing_mm, volume.geometry.spacing_mm
    appearance = measure(scan.data, maps.working["label"], *grids_mm)
    flags = unlike_training(structures, learned.cohort, appearance)
    if flags:
        # The warning points to the line of the user's call, two functions up.
        warnings.warn(f"{name}: {'; '.join(flags)}", UnusualScanWarning, stacklevel=3)
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
        scan=to_nibabel(volume.data, volume),
        name=name,
        appearance=appearance,
        flags=flags,
    )


class _Maps:
    """The maps of one scan: on the working grid, then on the grid of the scan.

    A map leaves the working grid when its image is made.
    """

    def __init__(
        self,
        volume: Volume,
        scan: Volume,
        n_classes: int,
        tissues: Mapping[str, Sequence[int]],
        probabilities: bool,
    ) -> None:
        self._volume, self._scan = volume, scan
        self._members = tissues
        n_maps = len(MAPS) + len(tissues) + (n_classes if probabilities else 0)
        # Each map is kept on the working grid, then brought to the grid of the scan.
        needed_bytes = 4 * n_maps * (scan.data.size + volume.data.size)
        require_memory(volume.source, needed_bytes, "predict it")
        shape = scan.data.shape
        self.working = {kind: np.zeros(shape, np.float32) for kind in MAPS[1:]}
        self.working["label"] = np.zeros(shape, np.min_scalar_type(n_classes - 1))
        self._tissues = {name: np.zeros(shape, np.float32) for name in tissues}
        self._mean = None
        if probabilities:
            self._mean = np.zeros((n_classes, *shape), np.float32)

    def keep(self, tile: TileResult) -> None:
        """Take the statistics of a tile."""
        for kind in MAPS:
            self.working[kind][tile.where] = getattr(tile, kind)
        if self._mean is not None:
            self._mean[:, *tile.where] = tile.probabilities
        for name, members in self._members.items():
            of_tissue = self._tissues[name][tile.where]
            for member in members:
                of_tissue += tile.probabilities[member]

    def image(self, kind: str) -> nib.Nifti1Image:
        """A map of real numbers as an image on the scan's grid."""
        return to_nibabel(self._restored(self.working.pop(kind)), self._volume)

    def label_image(self, labels: LabelTable) -> nib.Nifti1Image:
        """The label map on the scan's grid, with the values of the classes."""
        native = self._restored(self.working.pop("label"), labels=True)
        return to_nibabel(labels.to_values(native), self._volume)

    def probability_image(self) -> nib.Nifti1Image:
        """Mean class probabilities (I, J, K, C) on the scan's grid."""
        assert self._mean is not None
        native = [self._restored(one) for one in self._mean]
        return to_nibabel(np.stack(native, axis=-1), self._volume)

    def tissue_images(self) -> dict[str, nib.Nifti1Image]:
        """Mean probability of each tissue on the scan's grid, by its name."""
        return {
            name: to_nibabel(self._restored(mean), self._volume)
            for name, mean in self._tissues.items()
        }

    def _restored(self, values: np.ndarray, *, labels: bool = False) -> np.ndarray:
        grids = self._scan.geometry, self._volume.geometry
        return restore(values, *grids, labels=labels)
