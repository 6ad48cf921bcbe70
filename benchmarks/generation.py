"""Train a generator on embedded heads, and say by four figures how good it is.

    python benchmarks/generation.py --folder runs/generation

A progressive GAN of 32 voxels a side learns from 100 heads with labels and is measured
against 40 others: diversity (MS-SSIM), realism (Fréchet distance of the features of the
model in the box), memorisation (nearest training image) and use (Dice of a network that
learned from real, from generated and from both). Checkpoints, a picture a phase, the
generator, `samples.png` and `figures.json` go to the folder; the same command goes on
where it was stopped.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import nobrainer as nb
from nobrainer.data.phantom import write_subjects

# FreeSurfer's ids of white matter, grey matter, lateral ventricles and other fluid,
# both sides together: at 6 mm the nuclei are a few voxels each.
TISSUES = (
    (2, 41, 7, 46, 16),
    (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58),
    (4, 43),
    (24,),
)
CLASSES = {value: k for k, values in enumerate(TISSUES, start=1) for value in values}
SIDE_MM, VOXEL_MM = 192.0, 6.0


def main() -> None:
    """Train, measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--n-train", type=int, default=100)
    parser.add_argument("--n-new", type=int, default=40)
    parser.add_argument("--n-generated", type=int, default=100)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 400, 800, 1500])
    parser.add_argument("--use-steps", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    heads = write_subjects(args.folder / "heads", args.n_train + args.n_new, VOXEL_MM)
    train, new = (
        nb.Dataset.from_files(files).relabel(CLASSES).batch(4)
        for files in (heads[: args.n_train], heads[args.n_train :])
    )
    checkpoints = args.folder / "checkpoints"
    generator = nb.Generation(
        "progressivegan",
        {
            "latent_size": 64,
            "fmap_base": 128,
            "fmap_max": 64,
            "resolution_schedule": args.resolutions,
            "steps_per_phase": args.steps,
        },
        checkpoints,
    )
    started = time.process_time()
    generator.fit(
        train, side_mm=SIDE_MM, resume=any(checkpoints.glob("last.*")), seed=0
    )
    print(f"trained in {time.process_time() - started:.0f} s of a processor")
    generator.draw(8, seed=0).savefig(args.folder / "samples.png", dpi=110)
    started = time.process_time()
    figures = nb.realism.measure(
        generator,
        nb.realism.Comparison(generator.real_images(train), generator.real_images(new)),
        nb.Segmentation.load("brain"),
        n_generated=args.n_generated,
        steps=args.use_steps,
    )
    print(f"measured in {time.process_time() - started:.0f} s of a processor")
    generator.state_figures(figures)
    generator.save(args.folder / "generator", overwrite=True)
    (args.folder / "figures.json").write_text(json.dumps(figures, indent=2))
    for name, value in figures.items():
        print(f"{name:20} {value:.4f}")


if __name__ == "__main__":
    main()
