"""What a model comes from, written down when it is trained: files and software."""

import platform
from importlib.metadata import version
from pathlib import Path

from nobrainer import training
from nobrainer.data.zarr_store.table import StoredScan
from nobrainer.naming import relative_names
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.training_scans import TrainingScans
from nobrainer.provenance import checksum
from nobrainer.recipe import FileRecord, Fold, Provenance

SOFTWARE = ("nobrainer", "torch", "pyro-ppl", "monai", "lightning-fabric", "nibabel")
"""The packages whose versions a training may depend on."""


def describe_origins(
    train: Dataset,
    validate: Dataset | None,
    scans: TrainingScans,
    plan: "training.TrainingPlan",
    folds: tuple[Fold, ...],
    started: str,
) -> Provenance:
    """The origins of a model whose training is about to begin.

    Args:
        train: scans to train on.
        validate: scans to validate on.
        scans: the same scans, prepared.
        plan: how they are trained.
        folds: whom each member leaves out; none where all learn from all.
        started: when the training started, ISO 8601 in UTC. It also stands for the end,
            which is not known yet.
    """
    return Provenance(
        started=started,
        ended=started,
        versions=software_versions(),
        files=file_records(train, validate),
        metrics={},
        cohort=scans.cohort(),
        member_seeds=plan.member_seeds,
        folds=folds,
        n_synthetic=sum(scan.is_synthetic for scan in train.data),
        n_maps=len({scan.name for scan in train.data if scan.is_map}),
    )


def software_versions() -> dict[str, str]:
    """The version of each package of `SOFTWARE`, and of Python."""
    return {name: version(name) for name in SOFTWARE} | {
        "python": platform.python_version()
    }


def file_records(train: Dataset, validate: Dataset | None) -> tuple[FileRecord, ...]:
    """Name, role and checksum of every file that training reads.

    Args:
        train: scans to train on.
        validate: scans to validate on.

    Returns:
        A record for each image and each label map: of a scan in a store, of the files
        that it was made from. Scans in memory have none.
    """
    records = []
    found: list[tuple[Path, str]] = []
    for dataset, role in ((train, "train"), (validate, "validate")):
        for scan in dataset.data if dataset else ():
            if isinstance(scan.image, StoredScan):
                row = scan.image.row
                records += [
                    _record(one.name, f"{role}-{kind}", one.sha256, one.size_bytes)
                    for one, kind in ((row.image, "image"), (row.label, "label"))
                ]
            elif scan.paths is not None:
                image, label = scan.paths
                found.append((image, f"{role}-image"))
                if label is not None:
                    found.append((label, f"{role}-label"))
    found = list(dict.fromkeys(found))  # A label map can have several images.
    paths = [path for path, _ in found]
    for name, (path, role) in zip(relative_names(paths), found, strict=True):
        records.append(_record(name, role, checksum(path), path.stat().st_size))
    return tuple(records)


def _record(name: str, role: str, digest: str, size_bytes: int) -> FileRecord:
    return FileRecord(name, role, digest, size_bytes)  # type: ignore[arg-type]
