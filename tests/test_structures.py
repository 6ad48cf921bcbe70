"""Structures: closed forms against brute force, and known intervals."""

import csv
import io
import math
from dataclasses import asdict, fields
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from nobrainer.data.labels import LabelTable
from nobrainer.inference.moments import Statistics
from nobrainer.inference.predict import TileResult
from nobrainer.posthoc import Intervals, volume_spread
from nobrainer.structures import (
    Part,
    Structure,
    StructureSums,
    is_single_draw,
    sidecar,
    to_tsv,
)

SHAPE = (7, 6, 5)
N_CLASSES = 4
NAMES = LabelTable.generic(N_CLASSES)


def random_draws(n_draws, seed=0):
    """Labels (n_draws, I, J, K) that agree in most voxels; class 3 is in none."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, 3, SHAPE)
    own = rng.integers(0, 3, (n_draws, *SHAPE))
    return np.where(rng.random((n_draws, *SHAPE)) < 0.7, shared, own)


def tile_of(where, **maps):
    """A tile with maps that are arrays."""
    tensors = {name: torch.from_numpy(values) for name, values in maps.items()}
    return TileResult(where, Statistics(**tensors))


def whole(draws, seed=0):
    """The statistics of some draws' labels, with made-up maps, as one tile."""
    rng = np.random.default_rng(seed)
    shape = draws.shape[1:]
    votes = np.stack([(draws == c).sum(0) for c in range(N_CLASSES)]).astype(np.int16)
    return tile_of(
        where=tuple(slice(0, n) for n in shape),
        label=votes.argmax(0),
        variance=np.zeros(shape, np.float32),
        entropy=rng.random(shape, np.float32),
        mutual_information=rng.random(shape, np.float32),
        probabilities=(votes / len(draws)).astype(np.float32),
        votes=votes,
    )


def part(tile, where):
    return TileResult(where, Statistics(*(m[..., *where] for m in tile.statistics)))


def volumes_of(draws, voxel_mm3=1.0):
    return voxel_mm3 * np.array(
        [[(draw == c).sum() for c in range(N_CLASSES)] for draw in draws]
    )


def table_of(draws, intervals=None):
    sums = StructureSums(N_CLASSES)
    sums.add(whole(draws))
    return sums.table(volumes_of(draws), NAMES, intervals)


def test_figures_worked_out_by_hand():
    # Three draws of four voxels. Class 1 gets 3, 2, 1 and 0 votes, class 2 the rest.
    draws = np.array([[1, 1, 1, 2], [1, 1, 2, 2], [1, 2, 2, 2]])[:, None, None]
    tile = tile_of(
        where=(slice(0, 1), slice(0, 1), slice(0, 4)),
        label=np.array([[[1, 1, 2, 2]]]),
        variance=np.zeros((1, 1, 4)),
        entropy=np.array([[[0.1, 0.3, 0.5, 0.1]]]),
        mutual_information=np.array([[[0.0, 0.2, 0.25, 0.05]]]),
        probabilities=np.array(
            [[0.0] * 4, [0.9, 0.6, 0.3, 0.1], [0.1, 0.4, 0.7, 0.9], [0.0] * 4]
        )[:, None, None],
        votes=np.array([[0] * 4, [3, 2, 1, 0], [0, 1, 2, 3], [0] * 4], np.int16)[
            :, None, None
        ],
    )
    sums = StructureSums(N_CLASSES)
    sums.add(tile)
    first, second, absent = sums.table(volumes_of(draws, 2.0), NAMES, None)
    assert (first.class_number, first.name) == (1, "class-1")
    # Volumes 6, 4 and 2 mm³ in the three draws.
    assert (first.volume_mm3, first.volume_sd_mm3, first.cv) == (4.0, 2.0, 0.5)
    # v(v - 1) sums to 6 + 2, (n - 1) v to 2 * 6.
    assert first.pairwise_dice == 8 / 12
    assert first.iou == 1 / 3
    assert first.entropy == pytest.approx(0.2)
    assert first.mutual_information == pytest.approx(0.1)
    assert second.entropy == pytest.approx(0.3)
    # Of the two voxels labelled 1, 1.5 are expected to be it, and 1.9 of all four.
    assert first.expected_dice == pytest.approx(2 * 1.5 / (2 + 1.9))
    assert second.expected_dice == pytest.approx(2 * 1.6 / (2 + 2.1))
    assert math.isnan(absent.expected_dice)
    assert (absent.volume_mm3, absent.volume_sd_mm3) == (0.0, 0.0)
    for name in ("cv", "pairwise_dice", "iou", "entropy", "mutual_information"):
        assert math.isnan(getattr(absent, name)), name


def test_what_is_not_found_or_never_seen_is_not_a_certain_zero():
    draws = np.array([[1, 1, 0], [1, 0, 0]])[:, None, None]
    sums = StructureSums(N_CLASSES)
    sums.add(whole(draws))
    intervals = Intervals(0.9, 20, 2, (None, 2.0, 2.0, 2.0))
    found, missed, unknown = sums.table(volumes_of(draws), NAMES, intervals, {3})
    told = [one.status for one in (found, missed, unknown)]
    assert told == ["found", "not found", "not in training"]
    assert found.volume_low_mm3 == 0 < found.volume_high_mm3
    assert found.conformal_high_mm3 > 0 and missed.volume_mm3 == 0
    for one in (missed, unknown):
        for kind in ("volume", "conformal"):
            ends = [getattr(one, f"{kind}_{end}_mm3") for end in ("low", "high")]
            assert all(map(math.isnan, ends)), (one.name, kind)
    assert (unknown.class_number, unknown.value, unknown.name) == (3, 3, "class-3")
    rows = list(
        csv.DictReader(
            io.StringIO(to_tsv({"a": (found, missed, unknown)})), delimiter="\t"
        )
    )
    assert [row["status"] for row in rows] == told
    assert [row["volume_mm3"] for row in rows] == ["1.5", "0", "n/a"]
    for row in rows[1:]:
        others = list(row)[list(row).index("volume_mm3") + 1 :]
        assert {row[column] for column in others} == {"n/a"}
    # Several draws stay several for those who ask, whatever they found.
    assert not is_single_draw([missed, unknown])


@pytest.mark.parametrize("n_draws", [2, 3, 8])
def test_closed_forms_equal_counting_over_pairs_of_draws(n_draws):
    draws = random_draws(n_draws)
    for structure in table_of(draws)[:2]:
        masks = draws == structure.class_number
        pairs = list(combinations(masks, 2))
        both = sum(int((a & b).sum()) for a, b in pairs)
        sizes = sum(int(a.sum() + b.sum()) for a, b in pairs)
        assert structure.pairwise_dice == pytest.approx(2 * both / sizes, rel=1e-12)
        iou = masks.all(0).sum() / masks.any(0).sum()
        assert structure.iou == pytest.approx(iou, rel=1e-12)
        assert 0 < structure.iou < structure.pairwise_dice < 1


def test_many_draws_do_not_overflow_the_votes():
    draws = np.ones((300, 1, 1, 2), int)
    tile = whole(draws)
    sums = StructureSums(N_CLASSES)
    sums.add(tile)
    structure = sums.table(volumes_of(draws), NAMES, None)[0]
    assert (structure.pairwise_dice, structure.iou) == (1.0, 1.0)


def test_tiles_in_any_order_change_nothing():
    draws = random_draws(5)
    tile = whole(draws)
    parts = [
        part(tile, (i, j, k))
        for i in (slice(0, 3), slice(3, 7))
        for j in (slice(0, 6),)
        for k in (slice(0, 1), slice(1, 5))
    ]
    sums = StructureSums(N_CLASSES)
    for piece in reversed(parts):
        sums.add(piece)
    tiled = sums.table(volumes_of(draws), NAMES, None)
    for one, other in zip(table_of(draws), tiled, strict=True):
        for field in fields(Structure):
            left, right = getattr(one, field.name), getattr(other, field.name)
            if isinstance(left, float):
                # Probabilities, of single precision, are summed in it tile by tile.
                rel = 1e-6 if field.name == "expected_dice" else 1e-12
                assert left == pytest.approx(right, rel=rel, nan_ok=True), field.name
            else:
                assert left == right


@pytest.mark.parametrize("n_draws", [1, 3])
def test_a_uniform_tile_counts_as_often_as_it_has_voxels(n_draws):
    draws = random_draws(n_draws)
    one = part(whole(draws), (slice(0, 1), slice(0, 1), slice(0, 1)))
    shape = (5, 4, 3)
    alike = Statistics(
        *(values.expand(*values.shape[:-3], *shape) for values in one.statistics)
    )
    tile = TileResult(tuple(slice(0, n) for n in shape), alike)
    plain = TileResult(tile.where, Statistics(*(v.contiguous() for v in alike)))
    assert tile.is_uniform and not plain.is_uniform
    volumes = volumes_of(np.full((n_draws, *shape), int(one.label[0, 0, 0])))
    tables = []
    for given in (tile, plain):
        sums = StructureSums(N_CLASSES, {"all": (1, 2)})
        sums.add(given)
        tables.append([*sums.table(volumes, NAMES, None), *sums.totals(volumes, None)])
    for left, right in zip(*tables, strict=True):
        found, wanted = asdict(left), asdict(right)
        assert found.pop("name") == wanted.pop("name")
        assert found == pytest.approx(wanted, rel=1e-6, nan_ok=True)


def test_the_interval_is_that_of_one_further_draw():
    volumes = np.zeros((4, N_CLASSES))
    volumes[:, 1] = 10, 12, 14, 16
    volumes[:, 2] = 1, 0, 0, 20
    first, second, _ = StructureSums(N_CLASSES).table(volumes, NAMES, None)
    # t with 3 degrees of freedom; sample variance 20 / 3.
    assert stats.t.ppf(0.975, 3) == pytest.approx(3.18245, abs=1e-5)
    half = 3.18245 * math.sqrt(20 / 3 * 1.25)
    assert first.volume_mm3 == 13
    assert first.volume_low_mm3 == pytest.approx(13 - half, abs=1e-4)
    assert first.volume_high_mm3 == pytest.approx(13 + half, abs=1e-4)
    assert second.volume_low_mm3 == 0
    assert second.volume_high_mm3 > 20
    assert math.isnan(first.conformal_low_mm3)
    assert math.isnan(first.conformal_high_mm3)


def test_the_interval_covers_a_further_draw_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    volumes = rng.normal(100, 5, (4000, 5 + 1))
    inside = 0
    for row in volumes:
        seen = np.stack([np.zeros(5), row[:5]], 1)
        (structure,) = StructureSums(2).table(seen, LabelTable.generic(2), None)
        inside += structure.volume_low_mm3 <= row[5] <= structure.volume_high_mm3
    assert inside / len(volumes) == pytest.approx(0.95, abs=0.012)


def test_conformal_intervals_stretch_the_spread():
    volumes = np.zeros((2, N_CLASSES))
    volumes[:, 1] = 90, 110
    volumes[:, 2] = 1, 3
    intervals = Intervals(0.9, 12, 3, (None, 2.0, 50.0, None))
    first, second, third = StructureSums(N_CLASSES).table(volumes, NAMES, intervals)
    half = 2 * volume_spread(100.0, math.sqrt(200))
    assert half == pytest.approx(2 * math.sqrt(200 + 1))
    assert first.conformal_low_mm3 == pytest.approx(100 - half)
    assert first.conformal_high_mm3 == pytest.approx(100 + half)
    assert second.conformal_low_mm3 == 0
    assert math.isnan(third.conformal_high_mm3)


def test_one_draw_has_a_volume_and_no_spread(recwarn):
    draws = random_draws(1)
    structure = table_of(draws, Intervals(0.9, 12, 3, (None, 2.0, 2.0, 2.0)))[0]
    assert structure.volume_mm3 == (draws == 1).sum()
    assert structure.entropy > 0
    unknown = ("volume_sd_mm3", "volume_low_mm3", "volume_high_mm3", "cv")
    for name in (*unknown, "pairwise_dice", "iou"):
        assert math.isnan(getattr(structure, name)), name
    # A network without a posterior has one draw and calibrated intervals all the same.
    assert structure.conformal_high_mm3 == pytest.approx(1.02 * structure.volume_mm3)
    assert not recwarn.list


def test_tsv_is_tidy_and_its_sidecar_describes_every_column():
    tables = {"sub-01": table_of(random_draws(1)), "sub-02": table_of(random_draws(4))}
    text = to_tsv(tables)
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert [row["subject"] for row in rows] == ["sub-01"] * 3 + ["sub-02"] * 3
    assert [row["index"] for row in rows] == ["1", "2", "3"] * 2
    assert rows[0]["volume_sd_mm3"] == rows[0]["cv"] == "n/a"
    written = tables["sub-02"][1]
    assert float(rows[4]["pairwise_dice"]) == pytest.approx(
        written.pairwise_dice, rel=1e-7
    )
    assert "nan" not in text.lower()
    name, *figures, number, value = (field.name for field in fields(Structure))
    assert (number, value, name) == ("class_number", "value", "name")
    columns = ["subject", "index", "name", "status", *figures]
    assert list(rows[0]) == list(sidecar()) == columns
    for column, about in sidecar().items():
        assert list(about) == ["Description", "Units"]
        assert (about["Units"] == "mm^3") == column.endswith("_mm3")


def test_a_whole_is_measured_as_one_class_of_its_members():
    """A whole of classes 1 and 2, and what one class in their place would have."""
    draws = random_draws(4)
    intervals = Intervals(0.9, 20, 4, (None, 2.0, 2.0, None), {"both": 3.0})
    sums = StructureSums(N_CLASSES, {"both": (1, 2), "rest": (3,)})
    tile = whole(draws)
    half = tile.label.shape[0] // 2
    everywhere = (slice(None), slice(None))
    sums.add(part(tile, (slice(0, half), *everywhere)))
    sums.add(part(tile, (slice(half, None), *everywhere)))
    both, rest = sums.totals(volumes_of(draws, 2.0), intervals)
    merged = np.where(draws == 2, 1, draws)
    of_merged = TileResult(
        tile.where,
        whole(merged).statistics._replace(label=tile.statistics.label.clamp(max=1)),
    )
    alone = StructureSums(N_CLASSES)
    alone.add(of_merged)
    as_one = Intervals(0.9, 20, 4, (None, 3.0, None, None))
    expected = alone.table(volumes_of(merged, 2.0), NAMES, as_one)[0]
    assert (both.name, both.status) == ("both", "found")
    assert (rest.name, rest.status) == ("rest", "not found")
    for field in fields(Part)[1:]:
        value = getattr(both, field.name)
        assert value == pytest.approx(getattr(expected, field.name)), field.name
    text = to_tsv({"sub-01": (expected, both)})
    first, second = csv.DictReader(io.StringIO(text), delimiter="\t")
    assert (first.pop("index"), second.pop("index")) == ("1", "n/a")
    assert first | {"name": "both"} == second


def test_large_volumes_are_written_in_full():
    volumes = np.array([[0, 1234567.8], [0, 1234567.8]])
    structures = StructureSums(2).table(volumes, LabelTable.generic(2), None)
    assert to_tsv({"a": structures}).splitlines()[1].split("\t")[4] == "1234567.8"
