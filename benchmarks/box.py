"""Whether a model's uncertainty holds on label maps, and heads, that it has not seen.

Several images are made of each map, as in the training of the model. What calibration
fits is fitted without one person and tried on this person's scans, for each in turn, so
that no figure is of scans that it was fitted on:

- how often 90 % intervals of volumes hold the true volume, over images and structures;
- the expected calibration error (ECE) near the brain: within 5 voxels of it;
- whether the score finds a Dice below 0.8 among scans as they are and under the six
  kinds of damage: the area under the ROC curve (AUROC), for the mean Dice of the
  structures, which the score predicts (of label maps alone, too), and for the Dice of
  the brain as one. An AUROC is not defined where all cases are on one side. The fluid
  around the brain, which FreeSurfer hardly labels, does not count in real heads.

    python benchmarks/box.py --model DIR --maps map-14.nii.gz map-15.nii.gz ...
    python benchmarks/box.py --model DIR --maps ... --heads heads.csv --output better

With `--output` the model is saved there, calibrated on all of the scans together. Give
maps and heads of four persons or more: the score is learned from three at least.
"""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare import write_json
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

import nobrainer as nb
from nobrainer.calibration import Collected, collect, fit_collected
from nobrainer.data.freesurfer import OUTER_FLUID
from nobrainer.data.prepare import read_scan
from nobrainer.data.table import read_table
from nobrainer.metrics.calibration import CalibrationSums
from nobrainer.posthoc import Calibration, volume_spread
from nobrainer.processing import seen
from nobrainer.quality import Example, fit_quality, predicted_dice
from nobrainer.quality.examples import collect_examples

COVERAGE = 0.9
POOR = 0.8


def covered(scans: Sequence[Collected], fitted: Calibration) -> list[bool]:
    """Whether each interval of a structure of a scan holds its true volume."""
    assert fitted.intervals is not None
    found = []
    for scan in scans:
        mean = scan.volumes_mm3.mean(0)
        unit = volume_spread(mean, scan.volumes_mm3.std(0, ddof=1))
        for index, factor in enumerate(fitted.intervals.factors):
            there = scan.true_mm3[index] > 0 or mean[index] > 0
            if factor is not None and there:
                gap = abs(scan.true_mm3[index] - mean[index])
                found.append(bool(unit[index] > 0 and gap <= factor * unit[index]))
    return found


def leave_out(scan: Collected, index: int) -> Collected:
    """The scan without the volumes of a class, which then does not count in intervals.

    FreeSurfer labels next to nothing of the fluid around the brain. If it counted, one
    head would make the intervals of this fluid, and of the intracranial volume, too
    wide to say anything.
    """
    volumes_mm3, true_mm3 = scan.volumes_mm3.copy(), scan.true_mm3.copy()
    volumes_mm3[:, index] = true_mm3[index] = 0
    return replace(scan, volumes_mm3=volumes_mm3, true_mm3=true_mm3)


def calibration_error(
    scans: Sequence[Collected], fitted: Calibration, without: int = -1
) -> float:
    """ECE of the scaled mean probabilities at the kept voxels near the brain.

    Args:
        scans: what was kept of the scans.
        fitted: the scaling.
        without: a class; voxels that are it or are taken for it do not count; -1 is
            none.
    """
    sums = CalibrationSums()
    for scan in scans:
        scaled = scan.logits * np.array(fitted.weight, np.float32)
        mean = softmax(scaled, -1).mean(0)
        counts = (scan.truth != without) & (mean.argmax(-1) != without)
        sums.update(mean[counts].T, scan.truth[counts])
    return float(sums.ece)


def auroc(dice: Sequence[float], score: Sequence[float]) -> dict[str, float]:
    """How well low scores find a Dice below 0.8, and how many cases have one."""
    poor = np.array(dice) < POOR
    both = 0 < poor.sum() < len(poor)
    area = float(roc_auc_score(poor, -np.array(score))) if both else float("nan")
    return {"auroc": area, "poor": int(poor.sum()), "cases": len(poor)}


def judge_calibration(
    scans: Sequence[Collected],
    people: Sequence[str],
    made: Sequence[bool],
    fluid: int,
    sides: Sequence[int],
) -> list[dict[str, Any]]:
    """A row for each person: figures of a calibration without this person.

    `fluid` is the class of the fluid around the brain, which FreeSurfer's labels of
    heads mostly lack, and SynthSeg's maps have; -1 where the model has none. `sides`
    has a number for each class, the same for left and right.
    """
    rows = []
    for one in dict.fromkeys(people):
        numbers = range(len(scans))
        others = [n for n in numbers if people[n] != one]
        own = [scans[n] for n in numbers if people[n] == one]
        fitted = fit_collected(
            [scans[n] for n in others],
            [people[n] for n in others],
            [made[n] for n in others],
            coverage=COVERAGE,
            sides=sides,
        )
        held = covered(own, fitted)
        rows.append(
            {
                "person": one,
                "is_map": made[people.index(one)],
                "scans": len(own),
                "intervals": len(held),
                "covered": float(np.mean(held)),
                "ece": calibration_error(own, fitted),
                "ece_without_fluid": calibration_error(own, fitted, fluid),
                "temperature": 1 / fitted.weight[0],
            }
        )
    return rows


def judge_quality(
    examples: Sequence[Example], n_draws: int, maps: Collection[str]
) -> dict[str, Any]:
    """How well scores for persons left out find poor segmentations.

    `maps` names the persons that are label maps, of which there is a figure alone.
    """
    score: list[float] = []
    tried: list[Example] = []
    for one in dict.fromkeys(example.subject for example in examples):
        rest = [example for example in examples if example.subject != one]
        model = fit_quality(rest, n_draws)
        for example in examples:
            if example.subject == one:
                tried.append(example)
                score.append(predicted_dice(model, example.features))
    usual = [example for example in tried if not example.shifted]
    gap = np.array(score) - [example.dice for example in tried]
    of_maps = [n for n, example in enumerate(tried) if example.subject in maps]
    return {
        "of_maps": auroc([tried[n].dice for n in of_maps], [score[n] for n in of_maps]),
        "structures": auroc([example.dice for example in tried], score),
        "brain": auroc([example.whole_dice for example in tried], score),
        "error": float(np.abs(gap).mean()),
        "usual_dice": float(np.mean([example.dice for example in usual])),
        "usual_brain_dice": float(np.mean([example.whole_dice for example in usual])),
    }


def main() -> None:
    """Print the three figures, and what they come from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--maps", type=Path, nargs="*", default=[])
    parser.add_argument("--heads", type=Path, help="table: features, labels, subject")
    parser.add_argument("--n-images", type=int, default=6)
    parser.add_argument("--damaged-images", type=int, default=1)
    parser.add_argument("--severities", type=float, nargs="+", default=[1.0])
    parser.add_argument("--n-samples", type=int, default=5)
    parser.add_argument("--intensity-weight", type=float, default=0.0)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of the calibrated model")
    parser.add_argument("--figures", type=Path, help="JSON file of the figures")
    args = parser.parse_args()
    if args.output and args.output.exists():
        parser.error(f"{args.output} is there already: give another folder")
    torch.set_num_threads(1)
    model = nb.Segmentation.load(args.model)
    heads = read_table(args.heads) if args.heads else []
    maps = [{"label": path, "subject": path.name} for path in args.maps]
    how = args.n_samples, args.seed
    learned = replace(model.learned_, calibration=None, quality=None)
    predictor = replace(
        learned.predictor(*how, precision=args.precision),
        evidence=learned.evidence(args.intensity_weight),
    )
    dataset = model.dataset(heads, maps, args.n_images)
    seen.check_not_trained_on(dataset, learned)
    preprocess, people = learned.recipe.preprocess, dataset.subjects
    made = [scan.is_map for scan in dataset.data]
    volumes = dataset.iterate(preprocess, shown=True)
    scans = collect([predictor] * len(dataset), volumes)
    values = learned.labels.values
    fluid = values.index(OUTER_FLUID) if OUTER_FLUID in values else -1
    if fluid >= 0:
        pairs = zip(scans, made, strict=True)
        scans = [scan if is_map else leave_out(scan, fluid) for scan, is_map in pairs]
    sides = learned.labels.sides_together()
    rows = judge_calibration(scans, people, made, fluid, sides)
    for row in rows:
        print(row, flush=True)
    checksums = seen.scan_checksums(dataset)
    totals = learned.totals
    fitted = fit_collected(
        scans, people, made, coverage=COVERAGE, totals=totals, sides=sides
    )
    fitted = replace(
        fitted, checksums=checksums, intensity_weight=args.intensity_weight
    )
    learned = replace(learned, calibration=fitted)
    fewer = model.dataset(heads, maps, args.damaged_images)
    preparation = fewer.preparation(preprocess)
    examples = []
    for is_map in (False, True):
        of_kind = [scan.is_map == is_map for scan in fewer.data]
        chosen = list(compress(fewer.data, of_kind))
        examples += collect_examples(
            learned.predictor(*how, precision=args.precision),
            (read_scan(scan, preparation) for scan in chosen),
            list(compress(fewer.subjects, of_kind)),
            preprocess,
            labels=learned.labels,
            cohorts=[learned.cohort] * len(chosen),
            # FreeSurfer labels next to nothing of the fluid around the brain.
            uncounted=() if is_map or fluid < 0 else (fluid,),
            severities=args.severities,
            progress=lambda done, total: None,
        )
    of_maps = [row for row in rows if row["is_map"]]
    map_names = {name for name, is_map in zip(people, made, strict=True) if is_map}
    quality = judge_quality(examples, predictor.n_passes, map_names)
    figures = {
        "covered": float(
            np.average(
                [row["covered"] for row in of_maps],
                weights=[row["intervals"] for row in of_maps],
            )
        ),
        "ece": float(np.mean([row["ece"] for row in of_maps])),
        "quality": quality,
        "people": rows,
        "cases": [asdict(example) for example in examples],
    }
    print({name: figures[name] for name in ("covered", "ece", "quality")})
    if args.figures:
        write_json(args.figures, figures)
    if args.output:
        model_of_quality = replace(
            fit_quality(examples, predictor.n_passes),
            checksums=checksums,
            n_images=sum(scan.is_map for scan in fewer.data),
        )
        model.learned_ = replace(learned, quality=model_of_quality)
        print(model.save(args.output))


if __name__ == "__main__":
    main()
