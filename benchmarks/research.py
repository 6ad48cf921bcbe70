"""Does TPE find better values than random search with as many short runs?

    python benchmarks/research.py --output-dir research-benchmark --seeds 0 1 2

Runs whole studies on synthetic heads of 4 mm through the public interface, one after
the other, and draws the best validation Dice so far against the number of recipes.
Studies that are there already are not run again, so two of these programs may share the
work, each with seeds of its own; without --seeds it only draws and prints.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import nobrainer as nb

SPACE = """
[base_filters]
choices = [4, 8, 16]
[levels]
choices = [2, 3]
[prior_type]
choices = ["standard_normal", "laplace", "spike_and_slab"]
[kl_weight]
low = 1e-5
high = 1e-2
log = true
[dropout_rate]
choices = [0.0, 0.1, 0.25]
[learning_rate]
low = 1e-4
high = 1e-1
log = true
[block_shape]
choices = ["16x16x16", "32x32x32"]
"""
PROPOSERS = ("tpe", "random")
COLOURS = {"tpe": "#0072b2", "random": "#8a8a8a"}
EXPERIMENTS = 25
TRAIN_MINUTES = 0.1


class Lines:
    def show(self, snapshot):
        pass

    def tell(self, row, standing):
        dice = row.figures.get("dice", float("nan"))
        verdict = standing.verdicts.get(row.number)
        print(f"  run {row.number} {row.role} {dice:.4f} {verdict}", flush=True)

    def say(self, text):
        print(f"  {text}", flush=True)


def best_so_far(snapshot) -> list[float]:
    """Best first-seed Dice of the proposals after each of them; failures count."""
    best, found = 0.0, []
    for row in snapshot.rows:
        if row.role == "proposal" and row.state not in ("skipped", "lost"):
            best = max(best, row.figures.get("dice", 0.0))
            found.append(best)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--proposers", nargs="*", default=PROPOSERS)
    args = parser.parse_args()
    out = args.output_dir
    out.mkdir(parents=True, exist_ok=True)
    space = out / "space.toml"
    space.write_text(SPACE)
    table = nb.get_data(source="embedded", resolution_mm=4.0)
    for seed in args.seeds:
        for proposer in args.proposers:
            print(f"{proposer}, seed {seed}", flush=True)
            nb.research.run(
                out / f"{proposer}-{seed}",
                data=table,
                max_experiments=EXPERIMENTS,
                budget_hours=2.0,
                proposer=proposer,
                space=space,
                seed=seed,
                view=Lines(),
                pruner="none",
                train_minutes=TRAIN_MINUTES,
                n_draws=2,
            )
    draw(out)


def draw(out: Path) -> None:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for proposer in PROPOSERS:
        folders = sorted(out.glob(f"{proposer}-[0-9]*"))
        studies = [nb.research.read(folder) for folder in folders]
        curves = [best_so_far(study) for study in studies]
        if not curves:
            continue
        shortest = min(map(len, curves))
        curves = np.array([curve[:shortest] for curve in curves])
        recipes = np.arange(1, shortest + 1)
        for curve in curves:
            axes.step(recipes, curve, where="post", color=COLOURS[proposer], alpha=0.3)
        median = np.median(curves, 0)
        axes.step(
            recipes, median, where="post", color=COLOURS[proposer], lw=2, label=proposer
        )
        finals = ", ".join(f"{value:.4f}" for value in curves[:, -1])
        print(
            f"{proposer}: {len(curves)} studies of {shortest} proposals; best Dice "
            f"after 10 {np.median(curves[:, min(9, shortest - 1)]):.4f}, at the end "
            f"{median[-1]:.4f} (median); each: {finals}"
        )
    axes.set_xlabel("recipes tried")
    axes.set_ylabel("best validation Dice so far")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, high - 0.25), high)
    axes.legend(frameon=False, title="median of seeds")
    figure.savefig(out / "tpe-against-random.png", dpi=120)


if __name__ == "__main__":
    main()
