"""`nobrainer predict`: label and uncertainty maps of scans, and their volumes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

import nobrainer as nb
from nobrainer.cli.options import FILES, JSON, MODEL, OUTPUT_DIR, SEED
from nobrainer.cli.outputs import echo, map_paths, to_json
from nobrainer.cli.results import Results, make_method
from nobrainer.cli.scans import each_scan, end, name_scans, new_batch, tell_skipped
from nobrainer.io import write, write_text
from nobrainer.processing.progress import ProgressBar


@click.command()
@FILES
@MODEL
@OUTPUT_DIR
@click.option(
    "--n-samples",
    metavar="N",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Draws of the weights; 0 writes one label map from their mean.",
)
@SEED
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
    help="Slabs per pass.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="bfloat16 is faster on a device that has it.",
)
@click.option(
    "--class-numbers",
    is_flag=True,
    help="Label maps carry 0, 1, 2, ... in the order of the classes, not the values "
    "of the training's label files (FreeSurfer's ids, say).",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Do scans again that are done; replace what is there.",
)
@JSON
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
    class_numbers: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Segment scans (.nii, .nii.gz, .mgz), each on its own grid.

    STEM is the file's name without suffix, after the subject and the session where
    only the folders name them. For each scan DIR gets STEM_label.nii.gz (most
    frequent class of the draws), STEM_variance.nii.gz (of the class probabilities
    across draws) and STEM_entropy.nii.gz (of the mean probabilities, in nats); the
    volumes of the structures with their error bars in STEM_structures.tsv, whose
    columns structures.json explains; and what each value of the label map means in
    STEM_label.tsv. The paths of each scan's files are printed. provenance.json and
    the folder provenance say which model made them, and how.

    Scans that are done are not done again, so that after an interruption the same
    command goes on. Results of another model, seed or number of draws are not mixed
    in.

    A scan that cannot be predicted does not stop the others; it is reported at the
    end, and the exit code is 1.

    \b
    Examples:
      nobrainer predict sub-01_T1w.nii.gz --model model --output-dir maps
      nobrainer predict *.mgz --model model --output-dir maps --n-samples 0
    """
    names = name_scans(files)
    segmentation = nb.Segmentation.load(model_dir)
    labels = segmentation.labels_
    if class_numbers:
        labels = labels.numbered()
    method = make_method(
        "predict",
        model_dir,
        segmentation,
        n_samples=n_samples,
        seed=seed,
        precision=precision,
        options={"class_numbers": class_numbers},
    )
    results = Results(output_dir, method, segmentation.device, overwrite=overwrite)
    names = results.keep_names(names)
    columns = {}
    if n_samples:
        text = to_json(nb.structures.sidecar(method.coverage)) + "\n"
        columns = {output_dir / "structures.json": text}
    results.open(names.values(), columns)
    n_skipped = 0

    def write_scan(file: Path, bar: ProgressBar) -> dict[str, str]:
        nonlocal n_skipped
        stem = names[file]
        maps = map_paths(output_dir, stem, n_samples)
        paths = maps | {"classes": output_dir / f"{stem}_label.tsv"}
        if n_samples:
            paths["structures"] = output_dir / f"{stem}_structures.tsv"
        written = {name: str(path) for name, path in paths.items()}
        if results.find_done(stem, [file], paths.values()) is not None:
            bar.skip()
            n_skipped += 1
            return {"input": str(file)} | written
        with results.work(stem, [file], paths.values()) as work:
            result = segmentation.predict(
                file,
                batch_size=batch_size,
                block_shape=block_shape,
                n_samples=n_samples,
                seed=seed,
                precision=precision,
                class_numbers=class_numbers,
                verbose=False,
                on_pass=bar.advance,
            )
            work.begin()
            texts = {"classes": labels.to_dseg()}
            if n_samples:
                texts["structures"] = nb.structures.to_tsv({stem: result.structures})
            images: Iterable[Any] = result if n_samples else [result]
            for image, path in zip(images, maps.values(), strict=True):
                if path not in work.kept:
                    write(image, path, overwrite=True)
            for name, text in texts.items():
                if paths[name] not in work.kept:
                    write_text(text, paths[name], overwrite=True)
            for path, text in columns.items():
                with results.sharing([path]):
                    write_text(text, path, overwrite=True)
        return {"input": str(file)} | written

    batch, stories = new_batch(ctx), []
    try:
        for story in each_scan(names, write_scan, batch):
            stories.append(story)
            if not as_json:
                echo("\n".join(list(story.values())[1:]))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: {len(stories)} of {len(files)} scans are done; the same "
            "command goes on"
        ) from None
    finally:
        results.close()
    if as_json:
        echo(to_json(stories))
    tell_skipped(n_skipped, len(files))
    end(ctx, batch.problems)
