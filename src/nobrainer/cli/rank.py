"""`nobrainer rank`: which scans to label next."""

from pathlib import Path

import click

import nobrainer as nb
from nobrainer.cli.options import FILES, JSON, MODEL, THREADS, Draws, gather
from nobrainer.cli.outputs import echo, to_json
from nobrainer.cli.scans import end
from nobrainer.io import write_text
from nobrainer.provenance import InputFile, Result, now
from nobrainer.results import make_directory, make_method, refuse_existing


@click.command()
@FILES
@MODEL
@click.option(
    "--strategy",
    metavar="NAME",
    default="entropy",
    show_default=True,
    help="What makes a label wanted, see above.",
)
@gather(draws=Draws)
@THREADS
@click.option(
    "--output",
    metavar="FILE.tsv",
    type=click.Path(path_type=Path),
    help="Write the table here, too.",
)
@click.option("--overwrite", is_flag=True, help="Replace a table that is there.")
@JSON
@click.pass_context
def rank(
    ctx: click.Context,
    files: tuple[Path, ...],
    model_dir: Path,
    strategy: str,
    draws: Draws,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Order scans by how much their labels are wanted.

    A table (TSV) is printed, the scan first that the model would learn most from.
    With --output FILE.tsv, FILE_provenance.json says which model ordered them, and how.

    Strategies: entropy (how undecided the network is inside the structures),
    mutual_information and pairwise_dice (how much its draws disagree there),
    class_balanced (entropy, small structures counting as much as large ones, with
    some chance) and random, what the others have to beat.

    Scans that cannot be read do not stop the others; they are reported at the end,
    and the exit code is 1.

    \b
    Examples:
      nobrainer rank pool/*.nii.gz --model model
      nobrainer rank pool/*.nii.gz --model model --output next.tsv
    """
    origin = output and output.with_name(f"{output.stem}_provenance.json")
    if output is not None and origin is not None:
        refuse_existing([output, origin], overwrite=overwrite)
    segmentation = nb.Segmentation.load(model_dir)
    if output is not None:
        make_directory(output.parent)
    started, problems = now(), []
    try:
        ranked = segmentation.rank(
            files, strategy, n_samples=draws.n_samples, seed=draws.seed
        )
    except nb.BatchError as error:
        ranked, problems = error.results, error.problems
    table = nb.ranking.to_tsv(ranked)
    if ranked and output is not None and origin is not None:
        record = Result(
            method=make_method(
                "rank",
                model_dir,
                segmentation,
                n_samples=draws.n_samples,
                seed=draws.seed,
                options={"strategy": strategy},
            ),
            inputs=tuple(InputFile.of(file) for file in files if file.is_file()),
            files=(output.name,),
            device=segmentation.device,
            started=started,
            ended=now(),
            data={"problems": problems},
        )
        write_text(table, output, overwrite=overwrite)
        write_text(record.to_json(), origin, overwrite=overwrite)
    if as_json:
        echo(to_json([one._asdict() for one in ranked]))
    elif ranked:
        echo(table, nl=False)
    end(ctx, problems)
