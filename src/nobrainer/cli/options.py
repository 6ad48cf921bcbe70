"""Options that several commands have, so that they look the same in all of them."""

from pathlib import Path

import click

FILES = click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
MODEL = click.option(
    "--model",
    "model_dir",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory of a trained model, or a checkpoint.",
)
LABELLED = click.option(
    "--data",
    "table",
    metavar="CSV",
    required=True,
    type=click.Path(path_type=Path),
    help="Table with the columns features,labels: scans that training has not seen. "
    "Relative paths start from the table's directory.",
)
OUTPUT_DIR = click.option(
    "--output-dir",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the results go; made if missing.",
)
DRAWS = click.option(
    "--n-samples",
    metavar="N",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Draws of the weights.",
)
SEED = click.option(
    "--seed",
    metavar="S",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the draws.",
)
THRESHOLD = click.option(
    "--threshold",
    metavar="SCORE",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="Flag a scan whose score is below it.",
)
OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="Replace results that are there."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
