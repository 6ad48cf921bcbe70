"""What a trained model makes of a scan: stored differently, of another kind, at seams.

python benchmarks/trained.py storage --model DIR --scan FILE
python benchmarks/trained.py head --model DIR --scan FILE --labels FILE
python benchmarks/trained.py seams --model DIR --scan FILE
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

import nobrainer as nb
from nobrainer.io import read_image, read_labels, to_nibabel, write
from nobrainer.metrics.overlap import confusion, dice
from nobrainer.volume import Volume, conform, restore


def stored(scan: Volume, folder: Path) -> Iterator[tuple[str, Path]]:
    """The scan in other files: name of the way, path."""
    for codes in ("LAS", "PIL"):
        turned = conform(scan, codes)
        path = folder / f"{codes}.nii.gz"
        yield codes, write(to_nibabel(turned.data, turned), path)
    yield "MGZ", write(to_nibabel(scan.data, scan), folder / "scan.mgz")
    scaled = nib.Nifti1Image(scan.data, scan.affine)
    scaled.set_data_dtype(np.int16)
    nib.save(scaled, folder / "scaled.nii.gz")
    yield "int16 with scl_slope", folder / "scaled.nii.gz"
    thick = conform(scan, "RAS", (1.0, 1.0, 2.0))
    yield "1x1x2 mm", write(to_nibabel(thick.data, thick), folder / "thick.nii.gz")


def report(
    what: str, one: np.ndarray, other: np.ndarray, names: tuple[str, ...]
) -> None:
    """Print a row of Dice between two label maps."""
    scores = dice(confusion(one, other, len(names)))[1:]
    brain = dice(confusion(one > 0, other > 0, 2))[1]
    cells = " | ".join(f"{score:.4f}" for score in (*scores, brain))
    print(f"| {what} | {cells} |", flush=True)


def storage(segmentation: nb.Segmentation, args: argparse.Namespace) -> None:
    """Dice between the label maps of the scan as it is and stored otherwise."""
    names = segmentation.labels_.names
    reference = read_image(args.scan)
    how = {"n_samples": 5, "seed": 0, "class_numbers": True}
    plain = read_labels(segmentation.predict(args.scan, **how).label)
    print("| stored as |", " | ".join(names[1:]), "| all but background |")
    print("|---|---|" + "---|" * len(names[1:]))
    thick = conform(plain, "RAS", (1.0, 1.0, 2.0), labels=True)
    back = restore(thick.data, thick.geometry, plain.geometry, labels=True)
    # What thick slices take away from any label map, without a network.
    report("the label map itself, to 1x1x2 mm and back", plain.data, back, names)
    with tempfile.TemporaryDirectory() as folder:
        for way, path in stored(reference, Path(folder)):
            result = segmentation.predict(path, **how)
            other = read_labels(result.label)
            label = restore(
                conform(other).data,
                conform(other).geometry,
                reference.geometry,
                labels=True,
            )
            report(way, plain.data, label, names)


def head(segmentation: nb.Segmentation, args: argparse.Namespace) -> None:
    """Predict a whole head of another origin and write it back on its own grid."""
    scan = read_image(args.scan)
    started = time.perf_counter()
    result = segmentation.predict(args.scan, n_samples=10, seed=0)
    took_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        path = write(result.label, Path(folder) / "label.nii.gz")
        label = nib.load(path)
        same = label.shape == scan.data.shape and np.allclose(label.affine, scan.affine)
        values = np.asarray(label.dataobj)
        truth = read_labels(args.labels).data
    table = confusion(truth > 0, values > 0, 2)
    print(f"{scan.data.shape} {''.join(nib.aff2axcodes(scan.affine))}, {took_s:.0f} s")
    print(f"same grid and affine: {same}, {values.dtype}")
    print(f"Dice of the brain: {dice(table)[1]:.3f}")
    print(
        f"mean entropy in the brain: {result.entropy.get_fdata()[truth > 0].mean():.3f}"
    )


def seams(segmentation: nb.Segmentation, args: argparse.Namespace) -> None:
    """How often labels change across the faces of 32³ blocks, and elsewhere."""
    result = segmentation.predict(
        args.scan, block_shape=(32, 32, 32), n_samples=5, seed=0
    )
    label = conform(read_labels(result.label)).data
    at_faces, elsewhere = [], []
    for axis in range(3):
        jumps = np.diff(label.astype(int), axis=axis) != 0
        rate = jumps.mean(axis=tuple(a for a in range(3) if a != axis))
        faces = np.arange(1, len(rate) + 1) % 32 == 0
        # Planes beside the faces cut the same anatomy.
        beside = np.roll(faces, 2) | np.roll(faces, -2)
        at_faces.append(rate[faces].mean())
        elsewhere.append(rate[beside & ~faces].mean())
    ratio = np.mean(at_faces) / np.mean(elsewhere)
    print(f"label changes at faces / two voxels beside them: {ratio:.3f}")


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for run in (storage, head, seams):
        command = commands.add_parser(run.__name__)
        command.add_argument("--model", type=Path, required=True)
        command.add_argument("--scan", type=Path, required=True)
        if run is head:
            command.add_argument("--labels", type=Path, required=True)
        command.set_defaults(run=run)
    args = parser.parse_args()
    args.run(nb.Segmentation.load(args.model), args)


if __name__ == "__main__":
    main()
