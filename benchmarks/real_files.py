"""What odd files do to a prediction: damage, shear, fills, extreme values, cut heads.

A small network is trained on three embedded heads; another head is given to it as it
is and changed. The same script runs with earlier versions of nobrainer.
"""

import argparse
import csv
import gzip
import tempfile
import time
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np

import nobrainer as nb
from nobrainer.io import read_image, read_labels

Pair = tuple[str, str]


def train(pairs: list[Pair]) -> nb.Segmentation:
    dataset = nb.Dataset.from_files(pairs, block_shape=(32, 32, 32)).batch(2)
    dataset = dataset.binarize().shuffle().spacing((4, 4, 4)).patches(per_volume=24)
    model = nb.Segmentation("bayesian_vnet", {"base_filters": 4, "levels": 2})
    return model.fit(dataset, epochs=8, verbose=False)


def count_silent(path: Path, suffix: str, folder: Path) -> tuple[int, int]:
    """Files of 40, each with one bit flipped, that are read wrong without a word.

    Returns: their number, and the most voxels that are wrong in one of them.
    """
    reference = np.asanyarray(nib.load(path).dataobj)
    plain = folder / f"plain{suffix.removesuffix('.gz').replace('mgz', 'mgh')}"
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    nib.save(kind(reference, nib.load(path).affine), plain)
    sound = gzip.compress(plain.read_bytes(), 6)
    rng = np.random.default_rng(0)
    wrong = []
    for _ in range(40):
        damaged = bytearray(sound)
        damaged[int(rng.integers(400, len(sound) - 8))] ^= 1 << int(rng.integers(8))
        (folder / f"flipped{suffix}").write_bytes(damaged)
        try:
            found = read_labels(folder / f"flipped{suffix}").data
        except nb.InputError:
            continue
        wrong.append(int((found != reference).sum()))
    return sum(count > 0 for count in wrong), max(wrong, default=0)


def dice(
    model: nb.Segmentation, scan: np.ndarray, affine: np.ndarray, truth: np.ndarray
) -> str:
    """Dice of the brain, and what is said of the scan without looking at the truth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.predict((scan, affine), n_samples=2, seed=0)
    brain = np.asarray(found.label.dataobj) > 0
    overlap = 2 * (brain & truth).sum() / (brain.sum() + truth.sum())
    case = model.quality(found)
    return f"Dice {overlap:.3f}, score {case.score:.3f}, {len(case.flags)} reasons"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", type=Path, help="a real T1 head, to be flagged")
    head = parser.parse_args().head
    with open(nb.get_data(source="embedded")) as table:
        pairs = [(row["features"], row["labels"]) for row in csv.DictReader(table)]
    model = train(pairs[:3])
    image = nib.load(pairs[4][0])
    scan = np.asanyarray(image.dataobj).astype(np.float32)
    labels = np.asanyarray(nib.load(pairs[4][1]).dataobj)
    truth = labels > 0
    with tempfile.TemporaryDirectory() as name:
        for suffix in (".nii.gz", ".mgz"):
            silent, worst = count_silent(Path(pairs[4][1]), suffix, Path(name))
            print(f"{suffix}, one bit flipped: {silent} of 40 silent, at worst {worst}")

    shear = np.eye(4)
    shear[0, 1] = 0.5
    affine = shear @ image.affine
    voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
    found = model.predict((scan, affine), n_samples=2, seed=0)
    mm3 = (np.asarray(found.label.dataobj) > 0).sum() * voxel_mm3
    print(f"sheared: {found.structures[0].volume_mm3:.0f} mm3, counted {mm3:.0f}")

    i, j, _ = np.indices(scan.shape)
    outside = ((i - 48) / 47) ** 2 + ((j - 60) / 59) ** 2 > 1
    cases = {"as it is": scan}
    for value in (-100, -1024, -32768):
        cases[f"{value} outside of a cylinder"] = np.where(outside, value, scan)
    for number, times in ((1, 1e3), (1, 1e5), (20, 1e3)):
        spiked = scan.copy()
        at = np.random.default_rng(0).choice(scan.size, number, replace=False)
        spiked.flat[at] = scan.max() * times
        cases[f"{number} voxels at {times:g} times the maximum"] = spiked
    cut = scan.copy()
    cut[:, :, scan.shape[2] * 6 // 10 :] = 0
    cases |= {"upper 40 % zero": cut, "inverted": scan.max() - scan}
    for name, changed in cases.items():
        changed = changed.astype(np.float32)
        print(f"{name}: {dice(model, changed, image.affine, truth)}")
    if head is not None:
        taken_ms = []
        for _ in range(7):
            started_s = time.process_time()
            read_image(head)
            taken_ms.append(1000 * (time.process_time() - started_s))
        print(f"{head.name}: read in {min(taken_ms):.0f} ms of processor time at best")
        found = model.predict(head, n_samples=2, seed=0)
        print(f"{head.name}: {model.quality(found).flags or 'not flagged'}")


if __name__ == "__main__":
    main()
