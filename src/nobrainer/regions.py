"""The places of a scan where a network is most unsure of its answer."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import nibabel as nib
import numpy as np
from scipy import ndimage

from nobrainer.data.labels import LabelTable
from nobrainer.io import read_geometry
from nobrainer.oddities import CORNERS, describe_area

WIDTH_MM = 3.0
"""Standard deviation of the Gaussian that the entropy is averaged with."""
SHARE = 0.5
"""Share of ln C above which the averaged entropy makes a region, up to `MOST`."""
MOST = float(np.log(2))
"""Highest such level: that of voxels undecided between two classes. Of many classes no
voxel of a real scan is undecided between all, so that half of ln C is never reached."""


@dataclass(frozen=True)
class Region:
    """A connected place of high entropy, to be looked at.

    structure: name of the class that most of its voxels are labelled with.
    volume_mm3: its size, mm³.
    peak: the highest averaged entropy in it, nats; see `find_regions`.
    x_mm, y_mm, z_mm: place of the peak, in world millimetres to the right, to the front
        and up.
    """

    structure: str
    volume_mm3: float
    peak: float
    x_mm: float
    y_mm: float
    z_mm: float


def find_regions(
    entropy: nib.Nifti1Image,
    classes: np.ndarray,
    labels: LabelTable,
    *,
    n_most: int = 10,
) -> tuple[Region, ...]:
    """Find the areas of high entropy, the one with the largest sum of entropy first.

    Every boundary between structures is a thin line of high entropy, as it should
    be. So the entropy is averaged with a Gaussian of 3 mm first: a sheet of
    wholly undecided voxels has to be 4 mm thick, and a ball 9 mm wide, to exceed
    half of ln C on average. With four classes or more the level is ln 2, and areas
    above it are undecided between more than two of them.

    Args:
        entropy: entropy of the mean class probabilities, (I, J, K), nats.
        classes: class of every voxel, (I, J, K), of the C classes of `labels`.
        labels: names of the classes.
        n_most: largest number of regions to return.

    Returns:
        Connected regions (26 neighbours) of averaged entropy above half of ln C, or
        above ln 2 where that is less.
    """
    values = np.asarray(entropy.dataobj, dtype=np.float32)
    # In millimetres, whatever the unit of the image.
    geometry = read_geometry(entropy)
    sigma = WIDTH_MM / np.array(geometry.spacing_mm)
    average = ndimage.gaussian_filter(values, sigma, truncate=3)
    high = average > min(SHARE * np.log(len(labels.names)), MOST)
    numbered, n_regions = ndimage.label(high, CORNERS)
    if not n_regions:
        return ()
    sums = ndimage.sum_labels(values, numbered, np.arange(1, n_regions + 1))
    boxes = ndimage.find_objects(numbered)
    regions = []
    for number in np.argsort(-sums, kind="stable")[:n_most]:
        box = boxes[number]
        inside = numbered[box] == number + 1
        _, peak, volume_mm3, (x_mm, y_mm, z_mm) = describe_area(
            average, inside, box, geometry
        )
        regions.append(
            Region(
                structure=labels.names[int(np.bincount(classes[box][inside]).argmax())],
                volume_mm3=volume_mm3,
                peak=peak,
                x_mm=x_mm,
                y_mm=y_mm,
                z_mm=z_mm,
            )
        )
    return tuple(regions)


def sidecar() -> dict[str, dict[str, str]]:
    """What the columns of `to_tsv` mean: BIDS JSON, Description and Units of each."""
    averaged = "the entropy averaged with a Gaussian of 3 mm"
    axes = {"x": "to the right", "y": "to the front", "z": "up"}
    described = {
        "subject": ("The scan.", "n/a"),
        "structure": ("Class that most voxels of the area are labelled with.", "n/a"),
        "volume_mm3": (f"Size of the area in which {averaged} is high.", "mm^3"),
        "peak": (f"The highest value of {averaged}.", "nat"),
    } | {
        f"{axis}_mm": (f"Where the peak is, in the world, {way}.", "mm")
        for axis, way in axes.items()
    }
    return {
        column: {"Description": description, "Units": unit}
        for column, (description, unit) in described.items()
    }


def to_tsv(tables: Mapping[str, Sequence[Region]]) -> str:
    """The regions of some scans as one tidy table, tab-separated as in BIDS.

    Args:
        tables: the regions of each scan, by its name.

    Returns:
        A row per scan and region: the columns `subject`, then the fields of
        `Region`, in the order that they have.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["subject", *(field.name for field in fields(Region))])
    for subject, regions in tables.items():
        for region in regions:
            structure, *figures = astuple(region)
            cells = [f"{figure:.6g}" for figure in figures]
            writer.writerow([subject, structure, *cells])
    return text.getvalue()
