"""Whether reasons to look at a scan name the place of simulated lesions.

    python benchmarks/lesions.py HEAD.mgz SCAN.nii.gz ...

Each scan is predicted by the model in the box as it is, and then with one lesion at a
time: a cavity, grey or bright white matter, a tumour (dark core, bright rim, swelling)
and a cavity in the cortex, each of three sizes. Lesions are balls with a random surface
that keep the noise of the scan. A lesion is found where a reason names a place in it or
next to it. Prints a row for each scan and each lesion.
"""

import argparse
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

import nobrainer
from nobrainer.errors import UnusualScanWarning

RADII_MM = (6, 10, 16)
KINDS = ("cavity", "grey", "bright", "tumour", "cortex")
BESIDE_MM = 5
"""Most distance of a named place from the lesion that it belongs to."""
PLACE = re.compile(r"at x, y, z = (-?\d+), (-?\d+), (-?\d+) mm")


class Head:
    """A scan, its usual segmentation, and the intensities of its tissues."""

    def __init__(self, image: nib.Nifti1Image, label: nib.Nifti1Image) -> None:
        self.values = np.asarray(image.dataobj, np.float32)
        self.affine = image.affine
        self.mm = nib.affines.voxel_sizes(image.affine)
        self.label = np.asarray(label.dataobj)
        self.brain = self.label > 0
        self.white = np.isin(self.label, (2, 41))
        self.cortex = np.isin(self.label, (3, 42))
        self.ventricles = np.isin(self.label, (4, 43))
        inside = ndimage.binary_erosion(self.ventricles)
        self.dark, self.grey, self.bright = (
            float(np.median(self.values[mask]))
            for mask in (inside, self.cortex, self.white)
        )
        self.texture = self.values - ndimage.gaussian_filter(self.values, 1.5)
        self.depth = ndimage.distance_transform_edt(self.brain, self.mm)
        self.from_ventricles = ndimage.distance_transform_edt(~self.ventricles, self.mm)

    def lesion(
        self, kind: str, radius_mm: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The scan with a lesion, (I, J, K), and where that is, booleans."""
        if kind == "cortex":
            centres = np.argwhere(self.cortex & (self.depth < 3))
        else:
            apart = self.from_ventricles > radius_mm + 3
            centres = np.argwhere(self.white & (self.depth > 12) & apart)
        centre = centres[rng.integers(len(centres))]
        steps = np.indices(self.values.shape) - centre[:, None, None, None]
        gap = np.linalg.norm(steps * self.mm[:, None, None, None], axis=0)
        rough = ndimage.gaussian_filter(rng.normal(size=gap.shape), 4 / self.mm)
        gap += 0.15 * radius_mm * rough / rough.std()
        found = self.values.copy()
        contrast = self.bright - self.dark
        layers = {
            "cavity": [(1.0, self.dark)],
            "grey": [(1.0, self.grey)],
            "bright": [(1.0, self.bright + 0.35 * contrast)],
            "tumour": [
                (1.5, 0.3 * self.bright + 0.7 * self.grey),
                (1.0, self.bright + 0.3 * contrast),
                (0.7, self.dark),
            ],
            "cortex": [(1.0, self.dark)],
        }
        near = ndimage.binary_dilation(self.brain)
        for size, signal in layers[kind]:
            share = np.clip(size * radius_mm - gap + 0.5, 0, 1) * near
            found += share * (signal + self.texture - found)
        return found, near & (gap < radius_mm)


def places(flags: tuple[str, ...]) -> Iterator[tuple[np.ndarray, str]]:
    """World coordinates that reasons name, and the reasons."""
    for flag in flags:
        if match := PLACE.search(flag):
            yield np.array(match.groups(), float), flag


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--as-they-are", action="store_true", help="without lesions")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore", UnusualScanWarning)
    model = nobrainer.Segmentation.load("brain")
    print("| scan | lesion | radius, mm | ml | found | reasons that name a place |")
    print("|---|---|---|---|---|---|")
    for number, path in enumerate(args.scans):
        image = nib.load(path)
        usual = model.predict(image, n_samples=1, seed=args.seed)
        row(path, "none", "", "", "", [flag for _, flag in places(usual.flags)])
        if args.as_they_are:
            continue
        head = Head(image, usual.label)
        for kind in KINDS:
            for radius_mm in RADII_MM:
                rng = np.random.default_rng([args.seed, number, radius_mm])
                values, mask = head.lesion(kind, radius_mm, rng)
                changed = nib.Nifti1Image(values, image.affine)
                flags = model.predict(changed, n_samples=1, seed=args.seed).flags
                beside = ndimage.distance_transform_edt(~mask, head.mm)
                named = [(beside[voxel(head, at)], flag) for at, flag in places(flags)]
                inside = [flag for away_mm, flag in named if away_mm <= BESIDE_MM]
                ml = mask.sum() * np.prod(head.mm) / 1000
                found = "yes" if inside else "no"
                row(path, kind, radius_mm, f"{ml:.1f}", found, inside)


def voxel(head: Head, at_mm: np.ndarray) -> tuple[int, ...]:
    """The voxel at a place of the world."""
    at = nib.affines.apply_affine(np.linalg.inv(head.affine), at_mm)
    return tuple(np.clip(np.round(at).astype(int), 0, np.array(head.label.shape) - 1))


def row(path: Path, *cells: object) -> None:
    """Print a row of the table."""
    *first, reasons = cells
    text = "; ".join(reasons) if isinstance(reasons, list) else reasons
    print(f"| {path.name} | {' | '.join(map(str, first))} | {text} |", flush=True)


if __name__ == "__main__":
    main()
