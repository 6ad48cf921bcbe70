"""`nobrainer predict`: label and uncertainty maps of scans."""

import json
from collections import Counter
from pathlib import Path

import click

import nobrainer as nb
from nobrainer.cli.outputs import make_directory, map_paths, write_maps
from nobrainer.errors import InputError
from nobrainer.io import strip_suffix


@click.command()
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--model",
    "model_dir",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory of a trained model, or a checkpoint.",
)
@click.option(
    "--output-dir",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the maps go; made if missing.",
)
@click.option(
    "--n-samples",
    metavar="N",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Draws of the weights; 0 writes one label map from their mean.",
)
@click.option("--seed", metavar="S", default=0, show_default=True, help="Of the draws.")
@click.option(
    "--block-shape",
    metavar="A B C",
    nargs=3,
    type=click.IntRange(min=1),
    help="Voxels of a tile.  [default: what fits in memory]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Tiles per pass.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="bfloat16 is faster where the processor has it.",
)
@click.option("--overwrite", is_flag=True, help="Replace maps that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def predict(
    ctx: click.Context,
    files: tuple[Path, ...],
    model_dir: Path,
    output_dir: Path,
    n_samples: int,
    seed: int,
    block_shape: tuple[int, int, int] | None,
    batch_size: int,
    precision: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Segment scans (.nii, .nii.gz, .mgz), each on its own grid.

    For a scan STEM.nii.gz, DIR gets STEM_label.nii.gz (most frequent class of the
    draws), STEM_variance.nii.gz (of the class probabilities across draws) and
    STEM_entropy.nii.gz (of the mean probabilities, in nats). Their paths are printed.

    A scan that cannot be predicted does not stop the others; it is reported at the
    end, and the exit code is 1.

    \b
    Examples:
      nobrainer predict sub-01_T1w.nii.gz --model model --output-dir maps
      nobrainer predict *.mgz --model model --output-dir maps --n-samples 0
    """
    stems = [strip_suffix(file) for file in files]
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        same = ", ".join(
            str(f) for f, s in zip(files, stems, strict=True) if s == twice[0]
        )
        raise InputError(
            f"{same}: would write the same {twice[0]}_label.nii.gz: predict them into "
            "different directories"
        )
    segmentation = nb.Segmentation.load(model_dir)
    make_directory(output_dir)
    results, problems = [], []
    for file, stem in zip(files, stems, strict=True):
        paths = map_paths(output_dir, stem, n_samples)
        try:
            if not overwrite:
                _refuse_existing(paths)
            result = segmentation.predict(
                file,
                batch_size=batch_size,
                block_shape=block_shape,
                n_samples=n_samples,
                seed=seed,
                precision=precision,
            )
            write_maps(result, paths, overwrite=overwrite)
        except InputError as error:
            problems.append(str(error))
        else:
            written = {name: str(path) for name, path in paths.items()}
            results.append({"input": str(file), **written})
            if not as_json:
                click.echo("\n".join(written.values()))
    if as_json:
        click.echo(json.dumps(results, indent=2))
    for problem in problems:
        click.echo(f"nobrainer: error: {problem}", err=True)
    if problems:
        ctx.exit(1)


def _refuse_existing(paths: dict[str, Path]) -> None:
    for path in paths.values():
        if path.exists():
            raise InputError(
                f"{path}: exists already: give another --output-dir or --overwrite"
            )
