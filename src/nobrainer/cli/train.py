"""`nobrainer train`: a model from scans with labels."""

from pathlib import Path

import click

import nobrainer as nb
from nobrainer.cli.options import THREADS, gather
from nobrainer.cli.outputs import echo, save_model
from nobrainer.cli.train_folds import is_judged, judge_out_of_fold
from nobrainer.cli.train_options import (
    Checkpoints,
    Machine,
    Network,
    Patches,
    Training,
)
from nobrainer.cli.train_sources import Classes, HeldOut, Sources


@click.command()
@gather(sources=Sources)
@click.option(
    "--output-dir",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the model goes.",
)
@gather(network=Network, classes=Classes, held_out=HeldOut)
@gather(patches=Patches, training=Training, checkpoints=Checkpoints, machine=Machine)
@click.option(
    "--seed", default=0, show_default=True, help="Seed of all that is random."
)
@THREADS
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
def train(
    sources: Sources,
    output_dir: Path,
    network: Network,
    classes: Classes,
    held_out: HeldOut,
    patches: Patches,
    training: Training,
    checkpoints: Checkpoints,
    machine: Machine,
    seed: int,
    overwrite: bool,
) -> None:
    """Train a model; print its directory.

    \b
    Examples:
      nobrainer train --data scans.csv --output-dir brain --binarize
      nobrainer train --data scans.csv --output-dir tissues --relabel 6-class \\
          --model-arg levels=3 --validate 0.2 --max-minutes 30
      nobrainer train --data scans.csv --output-dir three --binarize \\
          --model vnet --members 3
      nobrainer train --data six-people.csv --output-dir brain --binarize \\
          --folds 3
      nobrainer train --data scans.csv --output-dir warm --binarize \\
          --model bayesian_vnet --warm-start plain-vnet
      nobrainer train --data heads.zarr --output-dir many --binarize --workers 4
      nobrainer train --label-maps maps.csv --output-dir any-contrast \\
          --relabel aseg --block-shape 96 96 96 --validate-data heads.csv
    """
    finished = not overwrite and checkpoints.are_finished(output_dir, training)
    if not finished:
        nb.bundle.check_place(output_dir, overwrite=overwrite)
    dataset, *others = sources.read(classes, patches.block_shape)
    dataset, validation = held_out.take(dataset, sources, classes, seed)
    for other in others:
        dataset = dataset.mix(other, sources.map_share)
    dataset = patches.cut(dataset)
    segmentation = network.build(checkpoints.checkpoint_dir)
    segmentation.fit(
        dataset,
        validation,
        epochs=training.most_epochs,
        opt_args=training.opt_args,
        loss=training.loss,
        seed=seed,
        warm_start=training.warm_start,
        resume=checkpoints.resume,
        max_steps=training.max_steps,
        max_minutes=training.max_minutes,
        averaging=training.averaging,
        schedule=training.schedule,
        gradient_clip=training.gradient_clip,
        precision=machine.precision,
        devices=machine.devices,
        num_workers=machine.workers,
        folds=held_out.folds,
    )
    if finished and (held_out.folds is None or is_judged(output_dir)):
        # `fit` has seen that all is as it was, and trained nothing.
        echo("nobrainer: the training is finished: the model is kept", err=True)
        echo(output_dir)
        return
    saved = save_model(segmentation, output_dir, overwrite=overwrite or finished)
    if held_out.folds is not None:
        judge_out_of_fold(segmentation, dataset, seed, is_store=sources.is_store)
        save_model(segmentation, output_dir, overwrite=True)
    echo(saved)
