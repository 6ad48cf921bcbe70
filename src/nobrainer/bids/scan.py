"""One pass over one scan: it is read and predicted once, and all is written."""

import time
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

import nibabel as nib

import nobrainer as nb
from nobrainer.bids import sidecars
from nobrainer.bids.draws import draws_to_tsv
from nobrainer.bids.layout import Source
from nobrainer.bids.names import Names
from nobrainer.bids.subject_page import write_subject_page
from nobrainer.errors import FewerDrawsWarning, InputError, UnusualScanWarning
from nobrainer.io import write_bytes
from nobrainer.processing.guard import Batch
from nobrainer.provenance import Method
from nobrainer.results import Results, Work

_MAPS = ("entropy", "variance")
"""Maps of the uncertainty that are written."""


@dataclass(frozen=True)
class Settings:
    """What a run does with every scan; small enough to be sent to other machines.

    bids_dir: folder of the data set, which is only read.
    out_dir: folder of the derivative.
    model_dir: folder of the model.
    method: what decides the results.
    device: name of the device that computes.
    threshold: score, 0 to 1, below which a scan is flagged.
    has_tissues: whether the probabilities of the tissues are written.
    overwrite: whether scans that are done are done again.
    """

    bids_dir: Path
    out_dir: Path
    model_dir: Path
    method: Method
    device: str
    threshold: float
    has_tissues: bool
    overwrite: bool

    def results(self) -> Results:
        """The records of what is done in the derivative."""
        return Results(
            self.out_dir,
            self.method,
            self.device,
            overwrite=self.overwrite,
            option="OUT_DIR",
        )


@dataclass(frozen=True)
class Unit:
    """A scan that is to be done, and the names of its results."""

    source: Source
    names: Names


@dataclass(frozen=True)
class Outcome:
    """How the work on a scan has ended.

    name: name of the scan.
    state: "done", "failed", or "running" where another process is at work on it.
    reason: why it has failed.
    was_done: whether it was done before, so that nothing was computed.
    seconds: how long it took.
    """

    name: str
    state: Literal["done", "failed", "running"]
    reason: str = ""
    was_done: bool = False
    seconds: float = 0.0


def process(settings: Settings, unit: Unit) -> Outcome:
    """Do a scan, unless it is done; whatever goes wrong with it is in the outcome.

    The model is loaded by the first scan of a process that needs it.

    Args:
        settings: what is done with every scan.
        unit: the scan.
    """
    started_s = time.monotonic()
    batch = Batch()
    name, results = unit.names.scan, settings.results()
    was_done = False
    with batch.scan(unit.source.path):
        was_done = _do(settings, unit, results)
    seconds = time.monotonic() - started_s
    if not batch.problems:
        return Outcome(name, "done", was_done=was_done, seconds=seconds)
    (reason,) = batch.problems
    if results.is_at_work(name):
        return Outcome(name, "running", seconds=seconds)
    note_failure(results, name, reason)
    return Outcome(name, "failed", reason, seconds=seconds)


def note_failure(results: Results, name: str, reason: str) -> None:
    """Keep in the records why a scan has failed, unless another process has it.

    Args:
        results: the records.
        name: name of the scan.
        reason: what is wrong with it.
    """
    with suppress(InputError, OSError):
        results.fail(name, reason)


def is_done(settings: Settings, unit: Unit) -> bool:
    """Whether a scan needs no work, by its files and records.

    Args:
        settings: what is done with every scan.
        unit: the scan.

    Raises:
        InputError: the scan has changed since.
    """
    files = _files(settings, unit.names, load_model(settings.model_dir))
    name, inputs = unit.names.scan, [unit.source.path]
    return settings.results().find_done(name, inputs, files) is not None


@cache
def load_model(model_dir: Path) -> "nb.Segmentation":
    """The model, which a process reads once.

    Args:
        model_dir: folder of the model.
    """
    return nb.Segmentation.load(model_dir)


def _do(settings: Settings, unit: Unit, results: Results) -> bool:
    """Do a scan; return whether it was done before."""
    model = load_model(settings.model_dir)
    name, inputs = unit.names.scan, [unit.source.path]
    files = _files(settings, unit.names, model)
    if results.find_done(name, inputs, files) is not None:
        return True
    with results.work(name, inputs, files) as work:
        with warnings.catch_warnings():
            # These warnings are among the reasons to look at the scan.
            warnings.simplefilter("ignore", UnusualScanWarning)
            # The command has said it, once for all scans.
            warnings.simplefilter("ignore", FewerDrawsWarning)
            prediction = model.predict(
                unit.source.path,
                n_samples=settings.method.n_samples,
                seed=settings.method.seed,
                tissues=settings.has_tissues,
                verbose=False,
            )
        assert isinstance(prediction, nb.Prediction)
        prediction = replace(prediction, name=name)
        writer = _Writer(settings, unit, model, prediction, work)
        for folder in {file.parent for file in files}:
            folder.mkdir(parents=True, exist_ok=True)
        work.begin()
        writer.write_images()
        writer.write_texts()
        page = settings.out_dir / unit.names.page
        with results.sharing([page]):
            write_subject_page(settings.out_dir, unit.names.subject)
    return False


def _files(
    settings: Settings, names: Names, model: "nb.Segmentation"
) -> Collection[Path]:
    """All files that are written for a scan alone."""
    kinds = [
        *(names.labels(end) for end in (".nii.gz", ".json", ".tsv")),
        *(names.uncertainty(kind) for kind in _MAPS),
        *(names.morphometry(end) for end in (".tsv", ".json")),
        *(names.draws, names.quality),
        *(names.figure(what) for what in ("dseg.png", "report.html")),
    ]
    if sidecars.has_brain(model.labels_):
        kinds += [names.mask(end) for end in (".nii.gz", ".json")]
    if settings.has_tissues:
        kinds += [
            names.tissue(label, end)
            for label in nb.tissues.THREE_TISSUES
            for end in (".nii.gz", ".json")
        ]
    return [settings.out_dir / kind for kind in kinds]


class _Writer:
    """Writes the files of one scan, but for those that are kept."""

    def __init__(
        self,
        settings: Settings,
        unit: Unit,
        model: "nb.Segmentation",
        prediction: "nb.Prediction",
        work: Work,
    ) -> None:
        self._settings, self._names, self._work = settings, unit.names, work
        self._model, self._prediction = model, prediction
        self._origin = sidecars.origin(unit.source)
        self._has_brain = sidecars.has_brain(model.labels_)

    def write_images(self) -> None:
        """Write the maps, each with its sidecar where the standard wants one."""
        names, prediction = self._names, self._prediction
        self._write({names.labels(): prediction.label})
        for kind in _MAPS:
            self._write({names.uncertainty(kind): prediction.to_file(kind)})
        texts = {names.labels(".json"): sidecars.of_labels(self._origin)}
        if self._has_brain:
            self._write({names.mask(): prediction.brain_mask})
            texts[names.mask(".json")] = sidecars.of_mask(self._origin)
        for label in prediction.tissue_probabilities:
            self._write({names.tissue(label): prediction.to_file(label)})
            texts[names.tissue(label, ".json")] = sidecars.of_tissue(
                self._origin, label
            )
        self._write(texts)

    def write_texts(self) -> None:
        """Write figures, page and tables; the quality last, by which others find it."""
        names, prediction, model = self._names, self._prediction, self._model
        case = model.quality(prediction, self._settings.threshold)
        slices = nb.report.draw_slices(prediction)
        picture = self._settings.out_dir / names.figure("dseg.png")
        write_bytes(slices.data, picture, overwrite=True)
        nb.report.write_case(
            prediction,
            self._settings.out_dir / names.figure("report.html"),
            model=model.recipe_,
            case=case,
            calibration=model.calibration_,
            index=f"../../{names.page}",
            slices=slices,
            overwrite=True,
        )
        coverage = model.coverage(self._settings.method.n_samples)
        self._write(
            {
                names.labels(".tsv"): sidecars.classes_table(model.labels_),
                names.morphometry(): sidecars.morphometry_table(prediction),
                names.morphometry(".json"): sidecars.of_morphometry(coverage),
                names.draws: draws_to_tsv(prediction),
                names.quality: sidecars.of_quality(
                    case,
                    prediction,
                    self._settings.method,
                    self._origin,
                    model.recipe_.provenance.caution,
                ),
            }
        )

    def _write(self, contents: Mapping[PurePosixPath, nib.Nifti1Image | str]) -> None:
        out_dir = self._settings.out_dir
        self._work.write({out_dir / place: one for place, one in contents.items()})
