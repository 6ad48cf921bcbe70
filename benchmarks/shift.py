"""How models of compare.py do on degraded scans, and whether they tell.

The test scans as they are and under every simulated shift at three severities; true
Dice against the score of the quality module: (a) unfitted, (b) fitted on the shifted
scans of other subjects, (c) fitted on other subjects and other shifts.

    python benchmarks/shift.py --models DIR
    python benchmarks/shift.py --models DIR --data-set oasis --data DIR

For the embedded heads, further synthetic ones (`--extra`) add to what is fitted on.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare import MODELS, add_data, bundle_of, read_task, spread, write_json
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import nobrainer as nb
from nobrainer.bayes.draws import is_stochastic, mix_seed
from nobrainer.data.phantom import make_subject
from nobrainer.data.shifts import SHIFTS, shifted
from nobrainer.data.targets import make_targets
from nobrainer.io import read_image, read_labels, to_nibabel
from nobrainer.metrics.overlap import confusion, dice
from nobrainer.quality import Example, fit_quality, predicted_dice
from nobrainer.volume import Volume

SEVERITIES = (1 / 3, 2 / 3, 1.0)
NONE = "none"
GOOD_DICE = 0.8
# Seeds of heads that nothing else uses.
FIRST_EXTRA = 5_000
SCORES = ("(a) unfitted", "(b) other subjects", "(c) other subjects and shifts")


@dataclass(frozen=True)
class Case:
    """One prediction of a scan, maybe degraded; `tested` or only fitted on."""

    model: str
    seed: int
    subject: str
    tested: bool
    shift: str
    severity: float
    dice: float
    score: float
    features: dict[str, float]


def versions(
    image: Volume, label: Volume, subject: str
) -> Iterator[tuple[str, float, Volume, Volume]]:
    """A scan as it is and under every shift: shift, severity, image, labels."""
    yield NONE, 0.0, image, label
    for name, severity in itertools.product(SHIFTS, SEVERITIES):
        seed = mix_seed(0, subject, name)
        yield name, severity, *shifted(image, label, name, severity, seed)


def predict_cases(name: str, seed: int, args: argparse.Namespace) -> list[Case]:
    """Every version of every scan, by one model."""
    torch.set_num_threads(1)
    task = read_task(args.data_set, args.data)
    segmentation = nb.Segmentation.load(bundle_of(args, name, seed))
    n_samples = args.n_samples if is_stochastic(segmentation.model_) else 0
    scans: list[tuple[str, bool, Any, Any]] = [
        (subject.name, True, subject.image, subject.label) for subject in task.test.data
    ]
    if args.data_set == "embedded":
        for number in range(FIRST_EXTRA, FIRST_EXTRA + args.extra):
            scans.append((f"extra {number}", False, *make_subject(number)))
    cases = []
    for subject, tested, image_source, label_source in scans:
        image, label = read_image(image_source), read_labels(label_source)
        for shift, severity, scan, truth in versions(image, label, subject):
            prediction = segmentation.predict(
                to_nibabel(scan.data, scan),
                n_samples=n_samples,
                seed=0,
                probabilities=True,  # or one pass would give the label alone
                class_numbers=True,
                verbose=False,
            )
            classes, _ = make_targets(truth.data, segmentation.recipe_.data, None)
            found = np.asarray(prediction.label.dataobj)
            overlaps = dice(confusion(classes, found, task.test.n_classes))[1:]
            case = segmentation.quality(prediction)
            cases.append(
                Case(
                    name,
                    seed,
                    subject,
                    tested,
                    shift,
                    severity,
                    float(np.nanmean(overlaps)),
                    case.score,
                    dict(case.features),
                )
            )
    return cases


def fitted_scores(
    cases: Sequence[Case], *, other_shifts: bool
) -> tuple[list[Case], list[float]]:
    """The tested cases of one model with the Dice that others' cases predict."""
    tested: list[Case] = []
    scores: list[float] = []
    pairs = dict.fromkeys((case.subject, case.shift) for case in cases if case.tested)
    for subject, shift in pairs:
        left_out = {shift} - {NONE} if other_shifts else set()
        # The subjects' names only serve an estimate of the error, which needs three
        # of them; here two may be left.
        examples = [
            Example(f"{c.subject} {c.shift}", c.features, c.dice, c.shift != NONE)
            for c in cases
            if c.subject != subject and c.shift not in left_out
        ]
        model = fit_quality(examples, n_draws=1)  # kept, and not read here
        for case in cases:
            if (case.subject, case.shift) == (subject, shift):
                tested.append(case)
                scores.append(predicted_dice(model, case.features))
    return tested, scores


def judge(cases: Sequence[Case], scores: Sequence[float]) -> dict[str, float]:
    """How well scores go with the true Dice."""
    truth = np.array([case.dice for case in cases])
    bad = truth < GOOD_DICE
    return {
        "spearman": float(spearmanr(scores, truth).statistic),
        "auroc": float(roc_auc_score(bad, -np.array(scores)))
        if 0 < bad.sum() < len(bad)
        else float("nan"),
        "error": float(np.abs(np.array(scores) - truth).mean()),
        "bad": float(bad.mean()),
    }


def judgements(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """The figures of all three scores of one model."""
    tested = [case for case in cases if case.tested]
    pairs = (
        (tested, [case.score for case in tested]),
        fitted_scores(cases, other_shifts=False),
        fitted_scores(cases, other_shifts=True),
    )
    return {name: judge(*pair) for name, pair in zip(SCORES, pairs, strict=True)}


def print_dice(results: dict[tuple[str, int], list[Case]], seeds: list[int]) -> None:
    """Dice of the test scans, mean over them, as they are and at severity 1."""
    shifts = (NONE, *SHIFTS)
    print("| model |", " | ".join(shifts), "|")
    print("|---|" + "---|" * len(shifts))
    for name in MODELS:
        cells = []
        for shift in shifts:
            means = [
                float(
                    np.mean(
                        [
                            case.dice
                            for case in results[name, seed]
                            if case.tested
                            and case.shift == shift
                            and case.severity in (0.0, 1.0)
                        ]
                    )
                )
                for seed in seeds
            ]
            cells.append(spread(means))
        print(f"| {name} |", " | ".join(cells), "|")


def print_scores(results: dict[tuple[str, int], list[Case]], seeds: list[int]) -> None:
    """Rank correlation, AUROC and error of the three scores."""
    print(
        f"\n| model | score | Spearman | AUROC of Dice < {GOOD_DICE} | mean error | "
        f"share with Dice < {GOOD_DICE} |"
    )
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        figures = [judgements(results[name, seed]) for seed in seeds]
        for score in SCORES:
            cells = [
                spread([found[score][key] for found in figures])
                for key in ("spearman", "auroc", "error", "bad")
            ]
            print(f"| {name} | {score} |", " | ".join(cells), "|")


def main() -> None:
    """Print two tables; medians and ranges are over seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data(parser)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n-samples", type=int, default=10)
    parser.add_argument("--extra", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the raw figures to this file")
    args = parser.parse_args()
    read_task(args.data_set, args.data)  # makes the embedded heads, once
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        jobs = {
            (name, seed): pool.submit(predict_cases, name, seed, args)
            for seed in args.seeds
            for name in MODELS
        }
        results = {key: job.result() for key, job in jobs.items()}
    write_json(args.json, [asdict(c) for cases in results.values() for c in cases])
    print_dice(results, args.seeds)
    print_scores(results, args.seeds)


if __name__ == "__main__":
    main()
