"""`nobrainer train`: a model from scans with labels."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import nobrainer as nb
from nobrainer.cli.outputs import echo, save_model
from nobrainer.data.table import read_table
from nobrainer.errors import InputError
from nobrainer.json_records import build_record


@click.command()
@click.option(
    "--data",
    "table",
    metavar="CSV",
    type=click.Path(path_type=Path),
    help="Table with the columns features,labels: a scan and its labels per row. "
    "Relative paths start from the table's directory.",
)
@click.option(
    "--label-maps",
    metavar="CSV",
    type=click.Path(path_type=Path),
    help="Table with the column labels: a label map of a head per row, of which images "
    "of random shape, contrast and quality are made. Alone or beside --data.",
)
@click.option(
    "--synthesis-arg",
    "synthesis_args",
    metavar="KEY=VALUE",
    multiple=True,
    help="What is drawn for --label-maps, such as noise=0.1; may be repeated.",
)
@click.option(
    "--map-share",
    type=float,
    default=0.5,
    show_default=True,
    help="Share of patches that are made from --label-maps where there is --data, too.",
)
@click.option(
    "--output-dir",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the model goes.",
)
@click.option(
    "--model", default="bayesian_vnet", show_default=True, help="Name of the network."
)
@click.option(
    "--model-arg",
    "model_args",
    metavar="KEY=VALUE",
    multiple=True,
    help="Argument of the model; may be repeated.",
)
@click.option(
    "--members",
    metavar="N",
    type=click.IntRange(min=2),
    help="Train an ensemble: N of the model, one after the other.",
)
@click.option(
    "--n-classes",
    metavar="N",
    type=int,
    help="Classes, with background.  [default: those of --relabel, else 2]",
)
@click.option("--binarize", is_flag=True, help="Every label but 0 is foreground.")
@click.option(
    "--relabel",
    metavar="NAME|FILE",
    help="Classes from label values: 6-class, 50-class, 115-class or aseg for "
    "FreeSurfer labels, or a CSV or TSV file with the columns index,name or "
    "original,new.",
)
@click.option(
    "--validate",
    metavar="FRACTION|COUNT",
    help="Keep this share or number of subjects out of training and measure on them: "
    "those of --data where it is given.",
)
@click.option(
    "--block-shape",
    metavar="A B C",
    nargs=3,
    type=int,
    default=(32, 32, 32),
    show_default=True,
    help="Voxels of a patch.",
)
@click.option("--batch-size", default=2, show_default=True, help="Patches per batch.")
@click.option(
    "--patches-per-volume",
    default=64,
    show_default=True,
    help="Patches of each scan in an epoch.",
)
@click.option(
    "--augment",
    metavar="PROFILE",
    default="none",
    show_default=True,
    help="none, standard or strong.",
)
@click.option("--epochs", default=10, show_default=True)
@click.option("--learning-rate", type=float, help="Of Adam.  [default: 0.003]")
@click.option(
    "--loss",
    default="cross_entropy",
    show_default=True,
    help="cross_entropy, dice or dice_ce.",
)
@click.option(
    "--warm-start",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Begin a Bayesian model at the weights of this deterministic one.",
)
@click.option(
    "--max-minutes", type=float, help="End at this time, the learning rate decayed."
)
@click.option(
    "--checkpoint-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Keep the last and the best state here after every epoch.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from --checkpoint-dir; keep the model of a finished training.",
)
@click.option(
    "--devices",
    default=1,
    show_default=True,
    help="GPUs to train on, or without one processes, at most one a core.",
)
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    help="auto, 32-true, bf16-mixed or 16-mixed.",
)
@click.option(
    "--workers",
    default=0,
    show_default=True,
    help="Processes that cut patches, at most one a core.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Seed of all that is random."
)
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
def train(
    table: Path | None,
    label_maps: Path | None,
    synthesis_args: tuple[str, ...],
    map_share: float,
    output_dir: Path,
    model: str,
    model_args: tuple[str, ...],
    members: int | None,
    n_classes: int | None,
    binarize: bool,
    relabel: str | None,
    validate: str | None,
    block_shape: tuple[int, int, int],
    batch_size: int,
    patches_per_volume: int,
    augment: str,
    epochs: int,
    learning_rate: float | None,
    loss: str,
    warm_start: Path | None,
    max_minutes: float | None,
    checkpoint_dir: Path | None,
    resume: bool,
    devices: int,
    precision: str,
    workers: int,
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
      nobrainer train --data scans.csv --output-dir warm --binarize \\
          --model bayesian_vnet --warm-start plain-vnet
      nobrainer train --label-maps maps.csv --output-dir any-contrast \\
          --relabel aseg --block-shape 96 96 96
    """
    finished = (
        resume
        and checkpoint_dir is not None
        and not overwrite
        and nb.bundle.is_finished(output_dir, checkpoint_dir, epochs, max_minutes)
    )
    if not finished:
        nb.bundle.check_place(output_dir, overwrite=overwrite)
    parts = []
    if table is not None:
        scans = nb.Dataset.from_files(read_table(table), block_shape, n_classes)
        parts.append(scans if relabel is None else scans.relabel(relabel))
    if label_maps is not None:
        maps = read_table(label_maps, ["labels"])
        synthesis = _synthesis(synthesis_args)
        parts.append(nb.Dataset.from_label_maps(maps, synthesis, relabel, block_shape))
    elif synthesis_args:
        raise InputError("--synthesis-arg is for --label-maps: give these, too")
    if not parts:
        raise InputError("nothing to train on: give --data, --label-maps or both")
    dataset, *others = [part.binarize() if binarize else part for part in parts]
    held_out = None
    if validate is not None:
        dataset, held_out = dataset.split(_share_or_count(validate), seed=seed)
    for other in others:
        dataset = dataset.mix(other, map_share)
    dataset = (
        dataset.batch(batch_size)
        .shuffle()
        .augment(augment)
        .patches(per_volume=patches_per_volume)
    )
    args = dict(_argument("--model-arg", text) for text in model_args)
    if members is None:
        segmentation = nb.Segmentation(model, args, checkpoint_dir)
    else:
        segmentation = nb.Ensemble(model, args, members, checkpoint_dir)
    segmentation.fit(
        dataset,
        held_out,
        epochs=epochs,
        opt_args=None if learning_rate is None else {"lr": learning_rate},
        loss=loss,
        seed=seed,
        precision=precision,
        devices=devices,
        max_minutes=max_minutes,
        num_workers=workers,
        warm_start=warm_start,
        resume=resume,
    )
    if finished:
        # `fit` has seen that all is as it was, and trained nothing.
        echo("nobrainer: the training is finished: the model is kept", err=True)
        echo(output_dir)
        return
    echo(save_model(segmentation, output_dir, overwrite=overwrite))


def _synthesis(texts: tuple[str, ...]) -> nb.Synthesis:
    """The usual synthesis, with what was asked for."""
    usual = json.loads(json.dumps(asdict(nb.Synthesis())))
    asked = dict(_argument("--synthesis-arg", text) for text in texts)
    return build_record(nb.Synthesis, usual | asked, "synthesis")


def _argument(option: str, text: str) -> tuple[str, Any]:
    """An argument; what is not JSON is text."""
    name, equals, value = text.partition("=")
    if not equals:
        example = "noise=0.1" if option == "--synthesis-arg" else "levels=3"
        raise InputError(f"{option} {text}: must be KEY=VALUE, such as {example}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _share_or_count(text: str) -> float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError as error:
        raise InputError(
            f"--validate {text}: must be a share such as 0.2 or a number of subjects"
        ) from error
