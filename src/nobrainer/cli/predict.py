"""`nobrainer predict`: label and uncertainty maps of scans, and their volumes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import click
import nibabel as nib

import nobrainer as nb
from nobrainer.cli.options import (
    FILES,
    JSON,
    MODEL,
    OUTPUT_DIR,
    THREADS,
    Draws,
    find_draws,
    gather,
)
from nobrainer.cli.outputs import echo, map_paths, to_json
from nobrainer.cli.scans import each_scan, end, name_scans, new_batch, tell_skipped
from nobrainer.io import write_text
from nobrainer.processing.progress import ProgressBar
from nobrainer.results import Results, make_method


@dataclass(frozen=True)
class Settings(Draws):
    """How a scan is predicted, and which numbers its label map has."""

    n_samples: Annotated[
        int,
        click.option(
            "--n-samples",
            metavar="N",
            type=click.IntRange(min=0),
            callback=find_draws,
            help="Draws of the weights, fewer where the model cannot make as many; 0 "
            "writes one label map from their mean.  [default: as many as the model was "
            "calibrated with, else 10]",
        ),
    ]
    block_shape: Annotated[
        tuple[int, int, int] | None,
        click.option(
            "--block-shape",
            metavar="A B C",
            nargs=3,
            type=click.IntRange(min=1),
            help="Voxels of a tile.  [default: what fits in memory]",
        ),
    ]
    batch_size: Annotated[
        int,
        click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Slabs per pass, on a CPU.",
        ),
    ]
    precision: Annotated[
        str,
        click.option(
            "--precision",
            type=click.Choice(["float32", "tf32", "bfloat16"]),
            default="float32",
            show_default=True,
            help="bfloat16 is faster on a device that has it; tf32 lets a GPU round "
            "the products of float32 numbers.",
        ),
    ]
    memory_gb: Annotated[
        float | None,
        click.option(
            "--memory-gb",
            type=click.FloatRange(min=0, min_open=True),
            help="Most memory that a scan takes on the GPU, or for the network on a "
            "CPU, roughly: a larger scan is cut up.  [default: half of what is free on "
            "a GPU, 1.1 on a CPU]",
        ),
    ]
    class_numbers: Annotated[
        bool,
        click.option(
            "--class-numbers",
            is_flag=True,
            help="Label maps carry 0, 1, 2, ... in the order of the classes, not the "
            "values of the training's label files (FreeSurfer's ids, say).",
        ),
    ]


@dataclass(frozen=True)
class Extras:
    """What is written of a scan beside the usual maps and tables."""

    brain_mask: Annotated[
        bool,
        click.option(
            "--brain-mask",
            is_flag=True,
            help="Also write STEM_brainmask.nii.gz, the brain closed over its sulci.",
        ),
    ]
    tissues: Annotated[
        bool,
        click.option(
            "--tissues",
            is_flag=True,
            help="Also write STEM_tissues.nii.gz (1 grey matter, 2 white matter, 3 "
            "cerebrospinal fluid) and the mean probability of each in "
            "STEM_GM_probseg.nii.gz, STEM_WM_probseg.nii.gz and "
            "STEM_CSF_probseg.nii.gz.",
        ),
    ]

    def paths(self, directory: Path, stem: str) -> dict[str, Path]:
        """The paths of the maps that these options ask for, by what they show."""
        names = {"brain_mask": "brainmask"} if self.brain_mask else {}
        if self.tissues:
            names |= {"tissues": "tissues"}
            names |= {name: f"{name}_probseg" for name in nb.tissues.THREE_TISSUES}
        return {kind: directory / f"{stem}_{n}.nii.gz" for kind, n in names.items()}


@click.command()
@FILES
@MODEL
@OUTPUT_DIR
@gather(settings=Settings, extras=Extras)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Do scans again that are done; replace what is there.",
)
@THREADS
@JSON
@click.pass_context
def predict(
    ctx: click.Context,
    files: tuple[Path, ...],
    model_dir: Path,
    output_dir: Path,
    settings: Settings,
    extras: Extras,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Segment scans (.nii, .nii.gz, .mgz), each on its own grid.

    STEM is the file's name without suffix, after the subject and the session where
    only the folders name them. For each scan DIR gets STEM_label.nii.gz (most
    frequent class of the draws), STEM_variance.nii.gz (of the class probabilities
    across draws) and STEM_entropy.nii.gz (of the mean probabilities, in nats), both
    rounded, to multiples of 2^-24 and 2^-14; the volumes of the structures with their
    error bars in STEM_structures.tsv, whose columns structures.json explains; and what
    each value of the label map means in STEM_label.tsv. The paths of each scan's files
    are printed. provenance.json and the folder provenance say which model made them,
    and how.

    Scans that are done are not done again, so that after an interruption the same
    command goes on. Results of another model, seed or number of draws are not mixed
    in.

    A scan that cannot be predicted does not stop the others; it is reported at the
    end, and the exit code is 1.

    \b
    Examples:
      nobrainer predict sub-01_T1w.nii.gz --output-dir maps
      nobrainer predict sub-01_T1w.nii.gz --model model --output-dir maps
      nobrainer predict *.mgz --model model --output-dir maps --n-samples 0
    """
    names = name_scans(files)
    segmentation = nb.Segmentation.load(model_dir)
    method = make_method(
        "predict",
        model_dir,
        segmentation,
        n_samples=settings.n_samples,
        seed=settings.seed,
        precision=settings.precision,
        options={"class_numbers": settings.class_numbers},
    )
    results = Results(output_dir, method, segmentation.device, overwrite=overwrite)
    names = results.keep_names(names)
    writer = _Writer(segmentation, settings, extras, results, names)
    results.open(names.values(), writer.columns)
    batch, stories = new_batch(ctx), []
    try:
        for story in each_scan(names, writer.write_scan, batch):
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
    tell_skipped(writer.n_skipped, len(files))
    end(ctx, batch.problems)


class _Writer:
    """Predicts scans and writes their maps and tables, but for those that are done.

    columns: text that explains the columns of the tables, by its file.
    n_skipped: how many scans were done before.
    """

    def __init__(
        self,
        segmentation: "nb.Segmentation",
        settings: Settings,
        extras: Extras,
        results: Results,
        names: Mapping[Path, str],
    ) -> None:
        self.columns: dict[Path, str] = {}
        self.n_skipped = 0
        self._segmentation, self._settings = segmentation, settings
        self._extras, self._results, self._names = extras, results, names
        labels = segmentation.labels_
        self._labels = labels.numbered() if settings.class_numbers else labels
        if extras.brain_mask or extras.tissues:
            nb.tissues.Compartments.require(labels)
        if settings.n_samples:
            sidecar = nb.structures.sidecar(segmentation.coverage(settings.n_samples))
            self.columns[results.directory / "structures.json"] = (
                f"{to_json(sidecar)}\n"
            )

    def write_scan(self, file: Path, bar: ProgressBar) -> dict[str, str]:
        """Write the results of one scan; return the paths of all its files."""
        name, directory = self._names[file], self._results.directory
        maps = map_paths(directory, name, self._settings.n_samples)
        maps |= self._extras.paths(directory, name)
        tables = {"classes": directory / f"{name}_label.tsv"}
        if self._settings.n_samples:
            tables["structures"] = directory / f"{name}_structures.tsv"
        paths = maps | tables
        if self._results.find_done(name, [file], paths.values()) is not None:
            bar.skip()
            self.n_skipped += 1
        else:
            with self._results.work(name, [file], paths.values()) as work:
                result = self._predict(file, bar)
                work.begin()
                for kind, path in maps.items():
                    work.write({path: self._image(result, kind)})
                texts = {tables["classes"]: self._labels.to_dseg()}
                if isinstance(result, nb.Prediction) and "structures" in tables:
                    parts = (*result.structures, *result.totals)
                    rows = nb.structures.to_tsv({name: parts})
                    texts[tables["structures"]] = rows
                work.write(texts)
                for path, text in self.columns.items():
                    with self._results.sharing([path]):
                        write_text(text, path, overwrite=True)
        return {"input": str(file)} | {kind: str(path) for kind, path in paths.items()}

    def _image(
        self, result: "nb.Prediction | nib.Nifti1Image", kind: str
    ) -> nib.Nifti1Image:
        """A map of a prediction, or of its label map alone, by what it shows."""
        label = result.label if isinstance(result, nb.Prediction) else result
        if kind == "label":
            return label
        if kind == "brain_mask":
            return nb.tissues.brain_mask(label, self._labels)
        if kind == "tissues":
            return nb.tissues.tissue_map(label, self._labels)
        assert isinstance(result, nb.Prediction)
        return result.to_file(kind)

    def _predict(
        self, file: Path, bar: ProgressBar
    ) -> "nb.Prediction | nib.Nifti1Image":
        return self._segmentation.predict(
            file,
            **asdict(self._settings),
            tissues=self._extras.tissues,
            verbose=False,
            on_pass=bar.advance,
        )
