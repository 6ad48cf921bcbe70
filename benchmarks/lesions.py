"""Whether reasons to look at a scan name a place where a lesion is simulated.

    python benchmarks/lesions.py HEAD.mgz SCAN.nii.gz ...

Each scan is predicted by the model in the box as it is, and then with one lesion at a
time: a cavity, grey or bright white matter, a tumour (dark core, bright rim, swelling)
and a cavity in the cortex, each of three sizes at a place of its own. Lesions are balls
with a random surface that keep the noise of the scan. Prints for each scan and lesion
how many reasons name a place that they do not name in the scan as it is, how far the
nearest of these places is from the lesion, and the reasons.
"""

import argparse
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

import nobrainer
from nobrainer.errors import UnusualScanWarning

RADII_MM = (6, 10, 16)
KINDS = ("cavity", "grey", "bright", "tumour", "cortex")
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
    print("| scan | lesion | radius, mm | ml | named | mm away | the reasons |")
    print("|---|---|---|---|---|---|---|")
    for number, path in enumerate(args.scans):
        image = nib.load(path)
        usual = model.predict(image, n_samples=1, seed=args.seed)
        before = [flag for _, flag in places(usual.flags)]
        row(path, "none", "", "", len(before), "", before)
        if args.as_they_are:
            continue
        head = Head(image, usual.label)
        lesions = ((kind, radius_mm) for kind in KINDS for radius_mm in RADII_MM)
        for place, (kind, radius_mm) in enumerate(lesions):
            rng = np.random.default_rng([args.seed, number, place])
            values, mask = head.lesion(kind, radius_mm, rng)
            changed = nib.Nifti1Image(values, image.affine)
            flags = model.predict(changed, n_samples=1, seed=args.seed).flags
            named = [one for one in places(flags) if one[1] not in before]
            beside = ndimage.distance_transform_edt(~mask, head.mm)
            away = min((beside[voxel(head, at)] for at, _ in named), default=np.nan)
            ml = mask.sum() * np.prod(head.mm) / 1000
            sizes = radius_mm, f"{ml:.1f}", len(named), f"{away:.0f}"
            row(path, kind, *sizes, [flag for _, flag in named])


def voxel(head: Head, at_mm: np.ndarray) -> tuple[int, ...]:
    """The voxel at a place of the world."""
    at = nib.affines.apply_affine(np.linalg.inv(head.affine), at_mm)
    return tuple(np.clip(np.round(at).astype(int), 0, np.array(head.label.shape) - 1))


def row(path: Path, *cells: Any) -> None:
    """Print a row of the table."""
    *first, reasons = cells
    print("", path.name, *first, "; ".join(reasons), "", sep=" | ", flush=True)


if __name__ == "__main__":
    main()
