"""Whether what was fitted out of fold holds for the ensemble, on heads it has not seen.

A few of the embedded synthetic heads train an ensemble with folds, which is calibrated
out of fold. Then the ensemble, and each member alone, predict other heads:

- Dice of the ensemble there, beside the one that its card expects;
- negative log-likelihood near the structures, in nats, with the temperature;
- how often intervals hold the true volume, and their half width as a share of it;
- the predicted Dice, and how many of these ordinary heads are flagged.

    python benchmarks/folds.py --folds 3 --seed 0
"""

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from box import covered
from torch import nn

import nobrainer as nb
from nobrainer.calibration import Collected, collect
from nobrainer.data.phantom import write_subjects
from nobrainer.posthoc import volume_spread
from nobrainer.processing.dataset import Dataset

N_SAMPLES, COVERAGE = 6, 0.8


def train(dataset: Dataset, n_folds: int, seed: int) -> nb.Segmentation:
    """An ensemble with folds, and all that is fitted out of fold."""
    model = nb.Segmentation("bayesian_vnet", {"base_filters": 8, "levels": 2})
    options = {"opt_args": {"lr": 0.01}, "seed": seed, "verbose": False}
    model.fit(dataset, epochs=20, folds=n_folds, **options)
    model.calibrate(
        dataset, "temperature", COVERAGE, N_SAMPLES, out_of_fold=True, verbose=False
    )
    return model.fit_quality(
        dataset, N_SAMPLES, out_of_fold=True, severities=[0.6], verbose=False
    )


def look(model: nb.Segmentation, network: nn.Module, dataset: Dataset) -> str:
    """Log-likelihood, coverage and width of a network on heads that it has not seen."""
    learned = model.learned_
    fitted = learned.calibration
    assert fitted is not None and fitted.intervals is not None
    predictor = replace(learned.predictor(N_SAMPLES, 0), model=network)
    volumes = dataset.iterate(learned.recipe.preprocess, shown=True)
    scans = collect([predictor] * len(dataset), volumes, voxels_per_subject=4000)
    losses, widths = [], []
    for scan in scans:
        scaled = torch.from_numpy(scan.logits * np.array(fitted.weight, np.float32))
        chance = scaled.softmax(-1).mean(0)[np.arange(len(scan.truth)), scan.truth]
        losses.append(float(-chance.log().mean()))
        widths += half_widths(scan, fitted.intervals.factors)
    held = np.mean(covered(scans, fitted))
    return f"{np.mean(losses):.4f} | {held:.2f} | {100 * np.median(widths):.0f} %"


def half_widths(scan: Collected, factors: Sequence[float | None]) -> list[float]:
    """Half width of each interval of a scan, as a share of the true volume."""
    spread = volume_spread(scan.volumes_mm3.mean(0), scan.volumes_mm3.std(0, ddof=1))
    return [
        factor * spread[index] / scan.true_mm3[index]
        for index, factor in enumerate(factors)
        if factor is not None and scan.true_mm3[index]
    ]


def main() -> None:
    """Train, and print the figures of the ensemble and of its members."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--others", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        n_heads = args.people + args.others
        heads = write_subjects(Path(folder), n_heads, 6.0, structures=False)
        order = np.random.default_rng(args.seed).permutation(len(heads))
        people = [heads[number] for number in order[: args.people]]
        others = [heads[number] for number in order[args.people :]]
        dataset = Dataset.from_files(people, (16, 16, 16)).relabel("6-class")
        dataset = dataset.batch(4).patches(per_volume=32).shuffle()
        model = train(dataset, args.folds, args.seed)
        held_out = model.dataset(others)
        print("| network | log-likelihood | coverage | half width |")
        print("|---|---|---|---|")
        print(f"| ensemble | {look(model, model.model_, held_out)} |", flush=True)
        for number, member in enumerate(model.model_.members):
            print(f"| member {number} | {look(model, member, held_out)} |", flush=True)
        rows = model.evaluate(held_out, N_SAMPLES, surfaces=False, verbose=False)
        dice = [r.value for r in rows if (r.metric, r.region) == ("dice", "volume")]
        cases = [
            model.quality(model.predict(image, n_samples=N_SAMPLES, seed=0))
            for image, _ in others
        ]
        expected = model.recipe_.provenance.expected_dice
        print(f"Dice: {expected:.3f} expected, {np.nanmean(dice):.3f} found")
        print(f"predicted: {np.mean([case.score for case in cases]):.3f}")
        print(f"flagged: {sum(bool(case.flags) for case in cases)} of {len(cases)}")


if __name__ == "__main__":
    main()
