"""Evaluation against figures computed directly from known probabilities."""

import csv
import math
import weakref
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from nobrainer.bayes.draws import plan_draws, realise
from nobrainer.data.labels import LabelTable
from nobrainer.data.prepared import Prepared
from nobrainer.errors import InputError
from nobrainer.evaluation import Evaluation, Row, evaluate, summarise
from nobrainer.glossary import OF_REGIONS, OF_SEVERAL_SCANS, OF_STRUCTURES
from nobrainer.inference.predict import Sampling
from nobrainer.inference.predictor import Predictor
from nobrainer.metrics.uncertainty import aurc, excess_aurc
from nobrainer.posthoc import Intervals

REGION_METRICS = {
    *("nll", "brier", "ece", "mce", "ace"),
    *("auroc_entropy", "aupr_entropy", "aurc_entropy", "e_aurc_entropy"),
}
"""What a single pass says of a region that has right and wrong voxels."""

STRUCTURE_METRICS = {
    *("dice", "hd95_mm", "surface_dice"),
    *("volume_error", "volume_error_mm3", "volume_true_mm3", "volume_mm3"),
}


class Known(nn.Module):
    """Probability of class 1 is the logistic function of the image's value."""

    stride, halo, width = 1, 0, 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), x], dim=1)


class Moody(nn.Module):
    """Three classes; each draw leaves out some of the four features of a voxel."""

    stride, halo, width = 1, 0, 4

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout3d(0.4)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.cat([x, x**2, torch.sin(3 * x), torch.cos(5 * x)], dim=1)
        a, b, c, d = self.dropout(features).split(1, dim=1)
        return torch.cat([0.1 - a, 0.5 * a + c - 0.3 * b, 0.4 * b + d], dim=1)


def prepared(
    image: np.ndarray,
    label: np.ndarray | None,
    name: str = "a",
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    lean_mm: float = 0.0,
) -> Prepared:
    affine = np.diag([*spacing_mm, 1.0])
    # A step along the third axis moves this far along the first one.
    affine[0, 2] = lean_mm
    return Prepared(
        name,
        image.astype(np.float32),
        label,
        affine,
        background=-9.0,
        floor=-9.0,
        spread=1.0,
        voxel_mm=spacing_mm,
    )


def run(
    volumes: Iterable[Prepared],
    block_shape: tuple[int, int, int] | None = None,
    *,
    surfaces: bool = True,
) -> Evaluation:
    sampling = Sampling(seed=0, n_draws=0, block_shape=block_shape)
    return evaluate(
        Predictor(Known(), 2, sampling, torch.device("cpu")),
        volumes,
        labels=LabelTable.generic(2),
        surfaces=surfaces,
    )


def cube(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A cube of 4³ voxels predicted one voxel too far, with odds 3:1 everywhere."""
    label = np.zeros(shape, np.uint8)
    label[8:12, 8:12, 8:12] = 1
    image = np.full(shape, -math.log(3))
    image[8:12, 8:12, 9:13] = math.log(3)
    return image, label


def test_figures_by_hand() -> None:
    image, label = cube((20, 20, 40))
    figures = {(r.metric, r.region): r.value for r in run([prepared(image, label)])}
    # 48 of 64 + 64 voxels overlap, 32 are wrong.
    assert figures["dice", "volume"] == pytest.approx(0.75)
    # 4 + 2 x 5 voxels a side; all of the wrong ones lie inside.
    for region, n in (("volume", 20 * 20 * 40), ("foreground", 14**3)):
        nll = (32 * math.log(4) + (n - 32) * math.log(4 / 3)) / n
        brier = (32 * 2 * 0.75**2 + (n - 32) * 2 * 0.25**2) / n
        ece = abs(0.75 - (n - 32) / n)
        assert figures["nll", region] == pytest.approx(nll, rel=1e-5)
        assert figures["brier", region] == pytest.approx(brier, rel=1e-5)
        assert figures["ece", region] == pytest.approx(ece, rel=1e-5)
        assert figures["mce", region] == pytest.approx(ece, rel=1e-5)
        # Every voxel is as certain as every other one.
        assert figures["auroc_entropy", region] == 0.5
        assert figures["aupr_entropy", region] == pytest.approx(32 / n)
        assert figures["aurc_entropy", region] == pytest.approx(32 / n)
    assert figures["volume_true_mm3", "volume"] == figures["volume_mm3", "volume"] == 64
    assert figures["volume_error", "volume"] == 0
    assert figures["hd95_mm", "volume"] == figures["surface_dice", "volume"] == 1
    assert len(figures) == len(STRUCTURE_METRICS) + 2 * len(REGION_METRICS)


def test_a_sheared_grid_is_measured_in_the_world() -> None:
    image, label = cube((20, 20, 40))
    image[8:12, 8:12, 8] = math.log(3)
    leaning = prepared(image, label, spacing_mm=(2.0, 2.0, 2.0), lean_mm=2.0)
    figures = {r.metric: r.value for r in run([leaning]) if r.structure != "all"}
    # As without the shear, which keeps volumes: 4 x 4 x 4 and 4 x 4 x 5 voxels of 8.
    assert figures["volume_true_mm3"] == 64 * 8
    assert figures["volume_mm3"] == 80 * 8
    # The label has a surface of 80 - 12 voxels. Of the 16 beyond the truth 12 have a
    # voxel of it straight below, at 2 mm, and 4 only the one they lean away from.
    far = [0.0] * 52 + [2.0] * 12 + [math.sqrt(8)] * 4
    assert figures["hd95_mm"] == pytest.approx(np.percentile(far, 95))


def test_millimetres_come_from_the_affine() -> None:
    image, label = cube((20, 20, 40))
    image[8:12, 8:12, 7] = math.log(3)
    rows = run([prepared(image, label, spacing_mm=(1.0, 0.5, 2.0))])
    figures = {r.metric: r.value for r in rows if r.structure == "foreground"}
    # The label is 4 x 4 x 5 or 6 voxels; it ends a voxel of 2 mm beyond the truth.
    assert figures["volume_true_mm3"] == 64
    assert figures["volume_mm3"] == 80
    assert figures["volume_error"] == pytest.approx(0.25)
    assert figures["volume_error_mm3"] == 16
    assert figures["hd95_mm"] == pytest.approx(2)


def test_tiles_do_not_matter() -> None:
    volume = prepared(*cube((20, 20, 40)))
    for one, other in zip(run([volume]), run([volume], (7, 16, 9)), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-6)
        assert (one.metric, one.region) == (other.metric, other.region)


def test_what_is_absent_has_no_row() -> None:
    volume = prepared(np.full((6, 6, 6), -1.0), np.zeros((6, 6, 6), np.uint8))
    found = run([volume])
    # No voxel is wrong: there is nothing to detect.
    defined = REGION_METRICS - {"auroc_entropy", "aupr_entropy"}
    assert {(r.metric, r.region) for r in found} == {(m, "volume") for m in defined}
    assert found.reliability["foreground"].count == ()
    assert found.risk_coverage["entropy"].risk == ()


def test_a_missed_structure_and_an_invented_one() -> None:
    image, label = np.full((12, 12, 12), -1.0), np.zeros((12, 12, 12), np.uint8)
    label[4:6, 4:6, 4:6] = 1
    missed = {r.metric: r.value for r in run([prepared(image, label)])}
    assert (missed["dice"], missed["surface_dice"]) == (0, 0)
    assert missed["volume_error"] == -1
    assert "hd95_mm" not in missed
    image[label > 0] = 1
    invented = {r.metric: r.value for r in run([prepared(image, 0 * label)])}
    assert (invented["dice"], invented["surface_dice"]) == (0, 0)
    assert (invented["volume_true_mm3"], invented["volume_error_mm3"]) == (0, 8)
    assert "hd95_mm" not in invented and "volume_error" not in invented


def test_surfaces_can_be_left_out() -> None:
    volume = prepared(*cube((20, 20, 40)))
    without = {r.metric for r in run([volume], surfaces=False)}
    assert without == REGION_METRICS | STRUCTURE_METRICS - {"hd95_mm", "surface_dice"}


def test_one_volume_is_held_at_a_time() -> None:
    alive: list[weakref.ref[Prepared]] = []

    def volumes() -> Iterator[Prepared]:
        for name in "abc":
            assert sum(ref() is not None for ref in alive) <= 1
            volume = prepared(*cube((20, 20, 20)), name)
            alive.append(weakref.ref(volume))
            yield volume
            del volume

    rows = run(volumes())
    n = len(STRUCTURE_METRICS) + 2 * len(REGION_METRICS)
    assert "".join(row.subject for row in rows) == "a" * n + "b" * n + "c" * n


def test_labels_are_needed() -> None:
    with pytest.raises(InputError, match="scan: has no labels"):
        run([prepared(np.zeros((4, 4, 4)), None, "scan")])


# --- several draws


SAMPLING = Sampling(seed=3, n_draws=5)
SPACING_MM = (1.0, 2.0, 1.5)
INTERVALS = Intervals(0.9, 10, 4, (None, None, 1.5))


def noisy(name: str = "a", seed: int = 0) -> Prepared:
    """Values that are near their class's in some places and random in others."""
    rng = np.random.default_rng(seed)
    label = np.zeros((12, 14, 26), np.uint8)
    label[3:8, 4:10, 3:9] = 1
    label[6:10, 5:12, 8:13] = 2
    image = np.array([-1.0, 0.6, 1.4])[label] + 0.3 * rng.standard_normal(label.shape)
    return prepared(image, label, name, SPACING_MM)


def run_noisy(
    volumes: Iterable[Prepared], block_shape: tuple[int, int, int] | None = None
) -> Evaluation:
    sampling = Sampling(SAMPLING.seed, SAMPLING.n_draws, block_shape)
    return evaluate(
        Predictor(Moody(), 3, sampling, torch.device("cpu")),
        volumes,
        labels=LabelTable.generic(3),
        intervals=INTERVALS,
    )


def draws_of(volume: Prepared) -> np.ndarray:
    """Probabilities (draws, classes, I, J, K) of the same draws, at once."""
    model = Moody()
    x = torch.from_numpy(volume.image)[None, None]
    with torch.no_grad():
        return np.stack(
            [
                torch.softmax(realise(model, *draw)(x)[0], 0).numpy()
                for draw in plan_draws(model, SAMPLING.seed, SAMPLING.n_draws)
            ]
        ).astype(np.float64)


def entropy(p: np.ndarray, axis: int) -> np.ndarray:
    return -(p * np.log(p)).sum(axis)


def near_structures(volume: Prepared) -> np.ndarray:
    assert volume.label is not None
    return ndimage.binary_dilation(volume.label > 0, np.ones((11, 11, 11)))


def test_detection_of_errors_agrees_with_scikit_learn() -> None:
    volume = noisy()
    found = run_noisy([volume])
    values = {(r.metric, r.region): r.value for r in found if r.structure == "all"}
    p = draws_of(volume)
    votes = (p.argmax(1)[:, None] == np.arange(3)[:, None, None, None]).sum(0)
    label = np.where(votes == votes.max(0), p.mean(0), -1).argmax(0)
    wrong = label != volume.label
    scores = {
        "entropy": entropy(p.mean(0), 0),
        "variance": p.var(0).mean(0),
        "mutual_information": entropy(p.mean(0), 0) - entropy(p, 1).mean(0),
    }
    near = near_structures(volume)
    for region, mask in (("volume", near | True), ("foreground", near)):
        risk = wrong[mask]
        assert 0.02 < risk.mean() < 0.6
        for name, score in scores.items():
            # The histogram keeps eight binary digits after the first.
            fraction, exponent = np.frexp(score[mask])
            at = np.ldexp(np.floor(512 * fraction) / 512, exponent)
            expected = {
                "auroc": roc_auc_score(risk, at),
                "aupr": average_precision_score(risk, at),
                "aurc": aurc(at, risk),
                "e_aurc": excess_aurc(at, risk),
            }
            for kind, value in expected.items():
                metric = f"{kind}_{name}"
                assert values[metric, region] == pytest.approx(value, abs=2e-3), metric
    for curve in found.risk_coverage.values():
        assert curve.risk[-1] == pytest.approx(wrong[near].mean())
    assert set(found.risk_coverage) == set(scores)


def test_volumes_of_draws_and_their_intervals() -> None:
    volume = noisy()
    values = {(r.metric, r.structure): r.value for r in run_noisy([volume])}
    labels = draws_of(volume).argmax(1)
    for index, name in ((1, "class-1"), (2, "class-2")):
        mm3 = 3 * (labels == index).sum((1, 2, 3))
        true = 3 * (volume.label == index).sum()
        mean, half = mm3.mean(), mm3.std(ddof=1) * math.sqrt(1 + 1 / 5)
        low, high = stats.t.interval(0.95, 4, mean, half)
        assert values["volume_mm3", name] == pytest.approx(mean)
        assert values["volume_true_mm3", name] == true
        assert values["volume_error", name] == pytest.approx((mean - true) / true)
        assert values["volume_low_mm3", name] == pytest.approx(max(low, 0))
        assert values["volume_high_mm3", name] == pytest.approx(high)
        assert values["covered", name] == (low <= true <= high)
        pairs = [(a, b) for a in range(5) for b in range(a)]
        both = sum(
            ((labels[a] == index) & (labels[b] == index)).sum() for a, b in pairs
        )
        sizes = sum((labels[[a, b]] == index).sum() for a, b in pairs)
        assert values["pairwise_dice", name] == pytest.approx(2 * both / sizes)
    # Class 1 has no factor. That of class 2 is one spread and a half.
    assert ("conformal_covered", "class-1") not in values
    spread = math.hypot(mm3.std(ddof=1), 0.01 * mean)
    inside = abs(true - mean) <= 1.5 * spread
    assert values["conformal_covered", "class-2"] == inside


class Blind(Moody):
    """Four classes, of which no draw finds the last two."""

    def forward(self, x: Tensor) -> Tensor:
        seen = super().forward(x)
        return torch.cat([seen, torch.full_like(seen[:, :2], -99.0)], dim=1)


def test_a_missed_structure_counts_against_intervals() -> None:
    volume = noisy()
    assert volume.label is not None
    volume.label[1, 1, 1:5] = 3
    found = evaluate(
        Predictor(Blind(), 5, SAMPLING, torch.device("cpu")),
        [volume],
        labels=LabelTable.generic(5),
        intervals=Intervals(0.9, 10, 5, (None, None, 1.5, 1.5, 1.5)),
        surfaces=False,
    )
    values = {(r.metric, r.structure): r.value for r in found}
    # It has no interval, and none that is not there holds the truth.
    assert values["volume_true_mm3", "class-3"] == 4 * 3
    assert values["volume_mm3", "class-3"] == 0
    assert ("volume_low_mm3", "class-3") not in values
    assert values["covered", "class-3"] == values["conformal_covered", "class-3"] == 0
    # What is neither there nor found has no figures.
    assert not any(structure == "class-4" for _, structure in values)


def test_tiles_do_not_matter_for_several_draws() -> None:
    volumes = [noisy("a", 0), noisy("b", 1)]
    one, other = run_noisy(volumes), run_noisy(volumes, (5, 16, 9))
    assert [r.value for r in one] == pytest.approx([r.value for r in other], rel=1e-5)
    assert [r.metric for r in one] == [r.metric for r in other]
    assert one.risk_coverage == other.risk_coverage
    for region, curve in one.reliability.items():
        assert curve.count == other.reliability[region].count


def test_curves_hold_the_voxels_of_all_subjects() -> None:
    a, b = noisy("a", 0), noisy("b", 1)
    both, *parts = run_noisy([a, b]), run_noisy([a]), run_noisy([b])
    n_near = int(near_structures(a).sum())
    assert sum(both.reliability["volume"].count) == 2 * a.image.size
    curves = [found.reliability["foreground"] for found in (both, *parts)]
    assert [sum(curve.count) for curve in curves] == [2 * n_near, n_near, n_near]
    right = [np.dot(curve.count, curve.accuracy) for curve in curves]
    assert right[0] == pytest.approx(right[1] + right[2])
    risk = [f.risk_coverage["variance"].risk[-1] for f in (both, *parts)]
    assert risk[0] == pytest.approx((risk[1] + risk[2]) / 2)


# --- the result


def test_an_evaluation_is_a_sequence_of_its_rows() -> None:
    found = run([prepared(*cube((20, 20, 40)))])
    assert list(found) == list(found.rows)
    assert found[0] == found.rows[0] and found[-2:] == found.rows[-2:]
    assert found == run([prepared(*cube((20, 20, 40)))])


def test_the_table_holds_every_figure_in_full() -> None:
    found = run([prepared(*cube((20, 20, 40)), "sub 1, run\t2")])
    lines = list(csv.reader(found.to_tsv().splitlines(), delimiter="\t"))
    assert lines[0] == ["subject", "region", "structure", "metric", "value", "seen"]
    assert [Row(*line[:4], float(line[4])) for line in lines[1:]] == list(found)
    assert {line[5] for line in lines[1:]} == {"n/a"}


def test_every_figure_has_an_entry_in_the_glossary_and_every_entry_a_figure() -> None:
    rows = run_noisy([noisy("a"), noisy("b", 1)])
    found = {name.partition("/")[0] for name in summarise(rows)}
    assert {row.metric for row in rows} == set(OF_STRUCTURES | OF_REGIONS)
    assert found == set(OF_STRUCTURES | OF_REGIONS | OF_SEVERAL_SCANS)
