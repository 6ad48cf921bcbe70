"""What `nobrainer train` trains on and is measured on: options in records."""

import json
from dataclasses import asdict, dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Annotated

import click

import nobrainer as nb
from nobrainer.cli.options import N_CLASSES
from nobrainer.cli.train_options import read_argument
from nobrainer.data.table import read_split, read_table
from nobrainer.errors import InputError
from nobrainer.json_records import build_record


@dataclass(frozen=True)
class Classes:
    """How the values of the label files become classes."""

    n_classes: Annotated[int | None, N_CLASSES]
    binarize: Annotated[
        bool,
        click.option(
            "--binarize", is_flag=True, help="Every label but 0 is foreground."
        ),
    ]
    relabel: Annotated[
        str | None,
        click.option(
            "--relabel",
            metavar="NAME|FILE",
            help="Classes from label values: 6-class, 50-class, 115-class, aseg or "
            "synthseg for FreeSurfer labels, or a CSV or TSV file with the columns "
            "index,name or original,new.",
        ),
    ]

    def read_scans(
        self, table: Path, block_shape: tuple[int, int, int], split: str | None = None
    ) -> "nb.Dataset":
        """The scans of a table or a store, and their labels as these classes.

        Args:
            table: CSV with the columns features,labels, or a store.
            block_shape: voxels of a patch along each axis.
            split: takes the scans of this split alone; None takes all.

        Raises:
            InputError: it cannot be used, or has no scan in the split.
        """
        if table.is_dir():
            scans = nb.Dataset.from_zarr(table, split, block_shape, self.n_classes)
        else:
            rows = read_split(table, split)
            scans = nb.Dataset.from_files(rows, block_shape, self.n_classes)
        if self.relabel is not None:
            scans = scans.relabel(self.relabel)
        return scans.binarize() if self.binarize else scans

    def read_maps(
        self, table: Path, synthesis: nb.Synthesis, block_shape: tuple[int, int, int]
    ) -> "nb.Dataset":
        """The label maps of a table, as these classes.

        Args:
            table: CSV with the column labels.
            synthesis: what is drawn for them.
            block_shape: voxels of a patch along each axis.

        Raises:
            InputError: they cannot be used, or --n-classes is not their number.
        """
        rows = read_table(table, ["labels"])
        maps = nb.Dataset.from_label_maps(rows, synthesis, self.relabel, block_shape)
        maps = maps.binarize() if self.binarize else maps
        if self.n_classes not in (None, maps.n_classes):
            raise InputError(
                f"--n-classes is {self.n_classes}, but there are {maps.n_classes} in "
                "the images of --label-maps: give the classes by --relabel"
            )
        return maps


@dataclass(frozen=True)
class Sources:
    """What to train on: scans with their labels, label maps of heads, or both."""

    table: Annotated[
        Path | None,
        click.option(
            "--data",
            "table",
            metavar="CSV|STORE",
            type=click.Path(path_type=Path),
            help="Table with the columns features,labels: a scan and its labels per "
            "row. Relative paths start from the table's directory. Or a store, see "
            "`nobrainer data convert`.",
        ),
    ]
    split: Annotated[
        str | None,
        click.option(
            "--split",
            metavar="NAME",
            help="Train on the scans of --data that its column split calls so.",
        ),
    ]
    label_maps: Annotated[
        Path | None,
        click.option(
            "--label-maps",
            metavar="CSV",
            type=click.Path(path_type=Path),
            help="Table with the column labels: a label map of a head per row, of "
            "which images of random shape, contrast and quality are made. Alone or "
            "beside --data.",
        ),
    ]
    synthesis_args: Annotated[
        tuple[str, ...],
        click.option(
            "--synthesis-arg",
            "synthesis_args",
            metavar="KEY=VALUE",
            multiple=True,
            help="What is drawn for --label-maps, such as noise=0.1; may be repeated.",
        ),
    ]
    map_share: Annotated[
        float,
        click.option(
            "--map-share",
            type=float,
            default=0.5,
            show_default=True,
            help="Share of patches that are made from --label-maps where there is "
            "--data, too.",
        ),
    ]

    def read(
        self, classes: Classes, block_shape: tuple[int, int, int]
    ) -> "list[nb.Dataset]":
        """Read the scans and the label maps that are given, as a data set of each.

        Args:
            classes: how the values of the label files become classes.
            block_shape: voxels of a patch along each axis.

        Returns: the data set of the scans, if any, and then that of the label maps.

        Raises:
            InputError: nothing is given, or --synthesis-arg without label maps.
        """
        if self.table is None and self.label_maps is None:
            raise InputError("nothing to train on: give --data, --label-maps or both")
        if self.label_maps is None and self.synthesis_args:
            raise InputError("--synthesis-arg is for --label-maps: give these, too")
        parts = []
        if self.table is not None:
            parts.append(classes.read_scans(self.table, block_shape, self.split))
        elif self.split is not None:
            raise InputError("--split is for --data: give it, too")
        if self.label_maps is not None:
            parts.append(
                classes.read_maps(self.label_maps, self.synthesis, block_shape)
            )
        return parts

    @property
    def is_store(self) -> bool:
        """Whether the scans lie in a store, and not in files of their own."""
        return self.table is not None and self.table.is_dir()

    @property
    def synthesis(self) -> nb.Synthesis:
        """Ranges of what is drawn for label maps: the usual ones but for those given.

        Raises:
            InputError: a name or value that cannot be.
        """
        usual = json.loads(json.dumps(asdict(nb.Synthesis())))
        asked = dict(read_argument("--synthesis-arg", t) for t in self.synthesis_args)
        return build_record(nb.Synthesis, usual | asked, "synthesis")


@dataclass(frozen=True)
class HeldOut:
    """What the model is measured on after each epoch, and not trained on."""

    folds: Annotated[
        int | None,
        click.option(
            "--folds",
            metavar="K",
            type=click.IntRange(min=2),
            help="Divide the subjects into K folds and train an ensemble of K of the "
            "model, each without the scans of one fold; these then judge and calibrate "
            "it. For few labelled subjects.",
        ),
    ]
    validate: Annotated[
        str | None,
        click.option(
            "--validate",
            metavar="FRACTION|COUNT",
            help="Keep this share or number of subjects out of training and measure on "
            "them: those of --data where it is given.",
        ),
    ]
    validate_data: Annotated[
        Path | None,
        click.option(
            "--validate-data",
            metavar="CSV|STORE",
            type=click.Path(path_type=Path),
            help="Measure on these scans, in a table or a store as for --data.",
        ),
    ]
    validate_split: Annotated[
        str | None,
        click.option(
            "--validate-split",
            metavar="NAME",
            help="Measure on the scans of --data that its column split calls so.",
        ),
    ]
    validate_maps: Annotated[
        Path | None,
        click.option(
            "--validate-maps",
            metavar="CSV",
            type=click.Path(path_type=Path),
            help="Measure on an image of each of these label maps, in a table as for "
            "--label-maps. Beside scans they have figures of their own, and the scans "
            "choose the best epoch.",
        ),
    ]

    def take(
        self, dataset: "nb.Dataset", sources: Sources, classes: Classes, seed: int
    ) -> "tuple[nb.Dataset, nb.Dataset | None]":
        """What is left to train on, and what is held out, if anything.

        Args:
            dataset: the scans or label maps from which the share is taken.
            sources: what to train on.
            classes: how the values of the label files become classes.
            seed: seed of the choice.

        Raises:
            InputError: a table or share that cannot be used, scans or label maps from
                a share and from a table, or either of them beside folds.
        """
        parts = []
        if self.folds is not None:
            self._check_alone(self.folds)
        if self.validate is not None:
            kind = self.validate_maps if sources.table is None else self.validate_data
            if kind is not None:
                raise InputError(
                    f"--validate takes a share of what {kind} has, too: give one of "
                    "the two"
                )
            dataset, part = dataset.split(read_share_or_count(self.validate), seed=seed)
            parts.append(part)
        block_shape = dataset.block_shape
        if self.validate_data is not None:
            parts.append(classes.read_scans(self.validate_data, block_shape))
        if self.validate_split is not None:
            if sources.table is None or sources.split in (None, self.validate_split):
                raise InputError(
                    "--validate-split is for another split of --data than --split: "
                    "give both"
                )
            if parts:
                raise InputError(
                    "--validate-split stands in for --validate and --validate-data: "
                    "give one of them"
                )
            parts.append(
                classes.read_scans(sources.table, block_shape, self.validate_split)
            )
        if self.validate_maps is not None:
            parts.append(
                classes.read_maps(self.validate_maps, sources.synthesis, block_shape)
            )
        # Whole volumes are measured, so the share of the patches means nothing here.
        return dataset, reduce(lambda a, b: a.mix(b, 0.5), parts) if parts else None

    def _check_alone(self, folds: int) -> None:
        """Refuse what is held out beside folds, which hold out every subject."""
        given = [one.name for one in fields(self) if getattr(self, one.name)]
        given.remove("folds")
        if given:
            option = given[0].replace("_", "-")
            raise InputError(
                f"--folds {folds} holds out every subject once: leave out --{option}, "
                "or train without folds"
            )


def read_share_or_count(text: str) -> float:
    """Read the value of --validate: a whole number counts subjects, others are shares.

    Args:
        text: what the user gave.

    Raises:
        InputError: the text is no number.
    """
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError as error:
        raise InputError(
            f"--validate {text}: must be a share such as 0.2 or a number of subjects"
        ) from error
