"""Uncertain areas: what counts as one, how large it is, where its peak lies."""

import nibabel as nib
import numpy as np
from scipy.stats import chi2

from nobrainer.data.labels import LabelTable
from nobrainer.regions import find_regions, sidecar, to_tsv

LABELS = LabelTable(("background", "left", "right"))
MOST = np.log(3)


def entropy_image(values: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    return nib.Nifti1Image(values.astype(np.float32), affine)


def ball(
    shape: tuple[int, int, int], centre: tuple[int, ...], radius: int
) -> np.ndarray:
    steps = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return (steps**2).sum(0) <= radius**2


def test_a_boundary_is_no_region_but_a_ball_is() -> None:
    values = np.zeros((60, 40, 40))
    values[30:32] = MOST  # a boundary of 2 mm, through the whole field of view
    assert find_regions(entropy_image(values, np.eye(4)), values > 9, LABELS) == ()
    inside = ball(values.shape, (12, 20, 20), 7)
    values[inside] = 0.9 * MOST
    classes = np.where(inside, 2, 1)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = 100, -50, 7
    (region,) = find_regions(entropy_image(values, affine), classes, LABELS)
    assert region.structure == "right"
    assert (region.x_mm, region.y_mm, region.z_mm) == (88, -30, 27)
    # The share of a Gaussian of 3 mm that lies in a ball of 7 mm about its middle.
    share = chi2.cdf((7 / 3) ** 2, 3)
    np.testing.assert_allclose(region.peak, 0.9 * MOST * share, rtol=0.02)
    # Averaging moves the edge of so small a ball inwards, by about 2 mm.
    assert 4 / 3 * np.pi * 4.5**3 < region.volume_mm3 < 4 / 3 * np.pi * 5.5**3


def test_the_region_with_the_most_entropy_comes_first_and_few_are_kept() -> None:
    values = np.zeros((90, 30, 30))
    for centre, radius in ((12, 6), (42, 9), (74, 7)):
        values[ball(values.shape, (centre, 15, 15), radius)] = MOST
    classes = np.zeros(values.shape, np.uint8)
    image = entropy_image(values, np.eye(4))
    found = find_regions(image, classes, LABELS)
    assert [region.x_mm for region in found] == [42, 74, 12]
    assert find_regions(image, classes, LABELS, n_most=1) == found[:1]


def test_of_many_classes_two_or_three_are_enough() -> None:
    many = LabelTable(tuple(f"class-{n}" for n in range(33)))
    values = np.zeros((60, 40, 40))
    values[ball(values.shape, (15, 20, 20), 9)] = np.log(2)
    values[ball(values.shape, (45, 20, 20), 9)] = np.log(3)
    classes = np.full(values.shape, 7, np.uint8)
    (region,) = find_regions(entropy_image(values, np.eye(4)), classes, many)
    assert (region.structure, region.x_mm) == ("class-7", 45)
    share = chi2.cdf((9 / 3) ** 2, 3)
    np.testing.assert_allclose(region.peak, np.log(3) * share, rtol=0.02)


def test_sizes_follow_the_grid() -> None:
    values = np.zeros((30, 30, 30))
    values[5:25, 5:25, 5:25] = MOST
    classes = np.ones(values.shape, np.uint8)
    sheared = np.diag([2.0, 2.0, 2.0, 1.0])
    sheared[0, 1] = 1.0
    (plain,) = find_regions(
        entropy_image(values, np.diag([2.0, 2.0, 2.0, 1.0])), classes, LABELS
    )
    (region,) = find_regions(entropy_image(values, sheared), classes, LABELS)
    # A voxel has 8 mm3, the determinant, in both grids.
    np.testing.assert_allclose(region.volume_mm3, plain.volume_mm3, rtol=0.02)
    np.testing.assert_allclose(plain.volume_mm3 / 8, 7752)


def test_places_are_millimetres_whatever_the_unit_of_the_file() -> None:
    values = np.where(ball((30, 30, 30), (15, 14, 13), 8), MOST, 0)
    image = entropy_image(values, np.diag([1000.0, 1000.0, 1000.0, 1.0]))
    image.header.set_xyzt_units("micron")
    (region,) = find_regions(image, np.ones(values.shape, np.uint8), LABELS)
    assert (region.x_mm, region.y_mm, region.z_mm) == (15, 14, 13)
    assert 500 < region.volume_mm3 < 2145


def test_regions_are_a_tidy_table() -> None:
    values = np.where(ball((30, 30, 30), (15, 15, 15), 8), MOST, 0)
    classes = np.ones(values.shape, np.uint8)
    found = find_regions(entropy_image(values, np.eye(4)), classes, LABELS)
    head, row, rest = to_tsv({"sub-01": found, "sub-02": ()}).split("\n")
    assert head.split("\t") == [
        "subject", "structure", "volume_mm3", "peak", "x_mm", "y_mm", "z_mm",
    ]  # fmt: skip
    assert list(sidecar()) == head.split("\t")
    cells = row.split("\t")
    assert (
        cells[:2] == ["sub-01", "left"]
        and cells[4:] == ["15", "15", "15"]
        and rest == ""
    )
