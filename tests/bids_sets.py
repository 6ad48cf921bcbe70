"""Made BIDS data sets of small balls, and a model that segments them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from click.testing import Result

import nobrainer as nb
from balls import ball
from commands import nobrainer_

# FreeSurfer's white matter and cortex of both sides, in which a ball is cut.
IDS = (0, 2, 3, 41, 42)


def write_scan(path: Path, number: int, side: int = 24) -> Path:
    """Write the scan of a ball, whose grid is `side` long."""
    image, _ = ball(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.tile(image, (-(-side // 24),) * 3)[:side, :side, :side]
    scan = nib.Nifti1Image(data.astype(np.float32), np.diag([-2.0, 2, 2, 1]))
    scan.header.set_xyzt_units("mm")
    nib.save(scan, path)
    return path


def make_set(root: Path, *names: str, side: int = 24) -> Path:
    """Make a data set of scans with these names, such as "sub-01_ses-a_T1w"."""
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        parts = [p for p in name.split("_") if p.startswith(("sub-", "ses-"))]
        write_scan(root.joinpath(*parts, "anat", f"{name}.nii.gz"), number, side)
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "made", "BIDSVersion": "1.11.0"})
    )
    return root


def train_model(folder: Path) -> Path:
    """Train a model for a moment; its classes have FreeSurfer's ids."""
    pairs = []
    for number in range(2):
        image, mask = ball(number)
        labels = np.zeros(image.shape, np.uint8)
        half = image.shape[0] // 2
        labels[:half][mask[:half] > 0], labels[half:][mask[half:] > 0] = 2, 41
        edge = (image > image.mean()) & (labels == 0)
        labels[:half][edge[:half]], labels[half:][edge[half:]] = 3, 42
        affine = np.diag([-2.0, 2, 2, 1])
        paths = folder / f"train-{number}.nii", folder / f"train-{number}_seg.nii"
        for data, path in zip((image.astype(np.float32), labels), paths, strict=True):
            nib.save(nib.Nifti1Image(data, affine), path)
        pairs.append(paths)
    classes = {value: index for index, value in enumerate(IDS)}
    dataset = nb.Dataset.from_files(pairs, (16, 16, 16), n_classes=len(IDS))
    dataset = dataset.relabel(classes).batch(2).patches(per_volume=16)
    model = nb.Segmentation("bayesian_vnet", {"base_filters": 2, "levels": 1})
    model.fit(dataset, epochs=6, opt_args={"lr": 0.03}, verbose=False)
    return model.save(folder / "model")


def run_bids(data: Path, out: Path, model: Path, *options: object) -> Result:
    """Call `nobrainer bids` in this process."""
    return nobrainer_(
        *("bids", data, out, "participant", "--model", model, "--n-samples", 2),
        *("--executor", "serial", *options),
    )


def contents(out: Path) -> dict[str, bytes]:
    """The files of a derivative by their paths, without those that name times."""
    left_out = ("provenance", "provenance.json", "dataset_description.json")
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.relative_to(out).parts[0] not in left_out
    }
