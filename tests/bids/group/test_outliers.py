"""What counts as an outlier: hand-computed scores, and what they do not depend on."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cohorts import make_source, named, write_results
from nobrainer.bids.group.outliers import find_deviations, robust_z
from nobrainer.bids.group.results import Scan, read_scan
from nobrainer.bids.layout import read_layout


def test_scores_are_distances_in_median_deviations() -> None:
    column = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 100])
    scores = robust_z(column[:, None])[:, 0]
    # The median is 5.5, and the deviations from it have the median 2.5.
    assert scores[0] == pytest.approx(-4.5 / (1.4826 * 2.5))
    assert scores[-1] == pytest.approx(94.5 / (1.4826 * 2.5))


def test_few_and_equal_and_absent_values() -> None:
    nine = np.arange(9.0)[:, None]
    assert np.isnan(robust_z(nine)).all()
    with_gap = np.vstack([nine, [[np.nan]]])
    assert np.isnan(robust_z(with_gap)).all()
    # Copies of one scan: what differs by a millionth is no outlier.
    copies = np.zeros((10, 1))
    copies[0], copies[1] = 1e-6, 0.01
    assert robust_z(copies)[:2, 0] == pytest.approx([0.001, 10])
    gone = np.zeros((11, 1))
    gone[4] = -np.inf
    assert robust_z(gone)[4, 0] == -np.inf
    mostly_gone = np.full((11, 1), -np.inf)
    mostly_gone[:3] = 0
    assert np.isnan(robust_z(mostly_gone)).all()


@pytest.fixture
def scans(tmp_path: Path) -> list[Scan]:
    """Twelve scans whose structure is 1 % of a skull of their own size."""
    people = [f"sub-{number:02d}" for number in range(12)]
    root = make_source(tmp_path / "in", [f"{who}_T1w" for who in people], {})
    spread = np.array([-1.0, 1, 0])
    for number, names in enumerate(named(root).values()):
        skull = 1_000_000 + 50_000 * number
        part = skull / 100 * (1 + 0.01 * (number % 5))
        part *= {3: 1.5, 7: 0.0}.get(number, 1)
        wide = 0.2 if number == 9 else 0.01
        draws = {
            "part": part * (1 + wide * spread),
            "intracranial": skull + 100 * spread,
        }
        write_results(tmp_path / "out", names, draws)
    sources = read_layout(root).sources
    return [
        read_scan(tmp_path / "out", source, names)
        for source, names in zip(sources, named(root).values(), strict=True)
    ]


def test_volumes_are_judged_by_their_share_of_the_skull(scans: list[Scan]) -> None:
    found = find_deviations(scans, ["part", "intracranial"])
    assert found.share[0, 0] == pytest.approx(0.01)
    assert np.flatnonzero(found.is_outlier[:, 0]).tolist() == [3, 7]
    assert found.z[7, 0] == -math.inf
    # Skulls of all sizes are none, and are judged by themselves.
    assert not found.is_outlier[:, 1].any()
    assert found.adjusted_mm3[0, 1] == 1_000_000
    middle = 1_000_000 + 50_000 * 5.5
    assert found.adjusted_mm3[0, 0] == pytest.approx(middle / 100)
    known = np.append(np.log(np.delete(found.share[:, 0], 7)), -np.inf)
    center = np.median(known)
    sd = 1.4826 * np.median(np.abs(known - center))
    assert found.z[3, 0] == pytest.approx((np.log(found.share[3, 0]) - center) / sd)


def test_wide_intervals_stand_out(scans: list[Scan]) -> None:
    found = find_deviations(scans, ["part", "intracranial"])
    # The calibrated interval is 6 standard deviations wide, which are 1 % here.
    assert found.width[0, 0] == pytest.approx(0.06, rel=1e-6)
    assert np.flatnonzero(found.is_wide[:, 0]).tolist() == [9]
    assert np.isnan(found.width[7, 0])


def test_without_a_skull_volumes_are_judged_as_they_are(scans: list[Scan]) -> None:
    alone = [replace(scan, parts={"part": scan.parts["part"]}) for scan in scans]
    found = find_deviations(alone, ["part"])
    assert np.isnan(found.share).all()
    assert found.adjusted_mm3[2, 0] == found.volume_mm3[2, 0] == pytest.approx(11_220)
    assert found.z[7, 0] == -math.inf and math.isfinite(found.z[0, 0])
