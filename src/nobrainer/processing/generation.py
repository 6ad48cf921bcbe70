"""The estimator of images: fit a generator to heads, make new ones."""

import secrets
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import nibabel as nib
import torch

import nobrainer
from nobrainer import bundle, generators
from nobrainer.bayes.draws import mix_seed
from nobrainer.checks import check_arguments, check_choice, check_count, check_finite
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.generators import GENERATORS, Gan, Stage
from nobrainer.glossary import OF_GENERATORS
from nobrainer.io import write_bytes
from nobrainer.processing.dataset import Dataset, check_dataset
from nobrainer.processing.generated import Generated
from nobrainer.processing.label_maps import read_maps
from nobrainer.processing.origins import file_records, software_versions
from nobrainer.processing.progress import ProgressBar
from nobrainer.processing.training_images import (
    TrainingImages,
    images_of_scans,
    images_of_tensors,
)
from nobrainer.provenance import now
from nobrainer.recipe import (
    AdversarialConfig,
    GeneratorRecipe,
    ModelConfig,
    Provenance,
)
from nobrainer.training.adversarial import Adversarial, AdversarialJob, sample_average
from nobrainer.training.checkpoint_folder import open_folder
from nobrainer.training.engine import default_device

if TYPE_CHECKING:
    from nobrainer.figure import Picture

_SHOWN = 6
"""Number of images in the picture of a phase."""
MOST_IMAGES = 100_000


class Generation:
    """A generator of images with `fit` and `generate`.

    Args:
        base_model: "progressivegan", two networks that grow from coarse images to fine
            ones; "dcgan", two networks of one resolution; or "label_synthesis", which
            makes images of label maps and learns nothing.
        model_args: arguments of that generator.
        checkpoint_filepath: folder for checkpoints during training, and for a picture
            of samples after each phase; None keeps none.

    After `fit` or `load` there are `model_` (the network), `recipe_`, `history_` (a row
    for each pass over the images) and `labels_`, the classes of its labels or None.

    Raises:
        InputError: an unknown generator or argument; the closest name is suggested.
    """

    def __init__(
        self,
        base_model: str = "progressivegan",
        model_args: Mapping[str, Any] | None = None,
        checkpoint_filepath: str | PathLike[str] | None = None,
    ) -> None:
        args = dict(model_args or {})
        kind = f"argument of generator {base_model!r}"
        check_arguments(kind, GENERATORS[base_model], args)
        self.base_model = base_model
        self.model_args = args
        self.checkpoint_filepath = checkpoint_filepath

    def __repr__(self) -> str:
        state = "not fitted"
        if hasattr(self, "generated_"):
            sides = " x ".join(map(str, self.recipe_.images.shape))
            state = f"images of {sides} voxels"
        return f"Generation({self.base_model!r}, {state})"

    @property
    def model_(self) -> torch.nn.Module:
        """The network that makes the images."""
        return self._fitted().network

    @property
    def recipe_(self) -> GeneratorRecipe:
        """How the generator was made."""
        return self._fitted().recipe

    @property
    def history_(self) -> tuple[dict[str, Any], ...]:
        """A row for each pass over the training images."""
        return self._fitted().history

    @property
    def labels_(self) -> LabelTable | None:
        """The classes of the labels that come with images; None without."""
        return self._fitted().labels

    def fit(
        self,
        dataset_train: Dataset | Iterable[Any],
        epochs: int | None = None,
        *,
        side_mm: float | None = None,
        learning_rate: float = 1e-3,
        penalty: float = 10.0,
        penalty_every: int = 4,
        averaging: float = 0.99,
        seed: int = 0,
        resume: bool = False,
        verbose: bool = True,
    ) -> Self:
        """Learn from heads; images are read once, and kept in memory.

        Where all scans of a dataset have labels, each generated image comes with labels
        of the same classes: the network makes both together.

        Args:
            dataset_train: scans, of which whole heads are taken as cubes; or a loader
                (anything that can be iterated over) of tensors (B, 1, R, R, R), of
                tuples that begin with one, or of dicts with one as "image". Of a
                dataset `.batch` says how many images make a step, of a loader its first
                batch. "label_synthesis" wants label maps, and only these.
            epochs: number of passes over the images; the last phase is then as long as
                is left. None trains every phase for as long as the generator says.
            side_mm: side of the cubes, around the middle of the labels; None takes the
                longest side of the largest scan.
            learning_rate: step of Adam.
            penalty: weight of the squared gradient of the critic (R1), >= 0, at 32
                voxels a side; it grows with the number of voxels. More of it trains
                slower, and diverges less.
            penalty_every: number of steps from one penalty to the next.
            averaging: decay, in [0, 1), of the average of the generator's weights.
            seed: seed of initial weights, latents and order.
            resume: go on from the last checkpoint in `checkpoint_filepath`, if any.
            verbose: show progress: a bar on a terminal, else lines.

        Returns: self.

        Raises:
            InputError: images or arguments that cannot be used.
            DivergedError: a loss was not finite.
        """
        started = now()
        if generators.learns_from_maps(self.base_model):
            with ProgressBar(verbose=verbose) as bar:
                self._keep_maps(dataset_train, bar, started)
            return self
        config = AdversarialConfig(
            epochs, 2, learning_rate, penalty, penalty_every, averaging, seed
        )
        folder = open_folder(self.checkpoint_filepath, 1, resume=resume)
        resolution = self._build(0, seed).resolution
        with ProgressBar(verbose=verbose) as bar:
            found, labels = _read_images(dataset_train, resolution, side_mm, bar)
            gan = self._build(found.config.n_classes, seed)
            recipe = GeneratorRecipe(
                self._model(found.config.n_classes),
                found.config,
                replace(config, batch_size=found.batch_size),
                _origins(dataset_train, started),
            )
            show = None
            if folder is not None:
                show = partial(_draw_phase, labels=labels, folder=folder)
            job = AdversarialJob(
                gan, found.real, recipe, default_device(), folder, show
            )
            training = Adversarial(job, bar)
            _warn_of_short(training.plan.phases[-1].resolution, resolution)
            if folder is not None and resume:
                training.resume(folder)
            history = training.run()
        recipe = replace(recipe, provenance=replace(recipe.provenance, ended=now()))
        self.generated_ = Generated(gan, recipe, labels, history)
        return self

    @overload
    def generate(
        self, n: int = ..., seed: int | None = ..., *, labels: Literal[False] = ...
    ) -> list[nib.Nifti1Image]: ...
    @overload
    def generate(
        self, n: int = ..., seed: int | None = ..., *, labels: Literal[True]
    ) -> list[tuple[nib.Nifti1Image, nib.Nifti1Image]]: ...
    def generate(
        self, n: int = 1, seed: int | None = None, *, labels: bool = False
    ) -> list[Any]:
        """Make images.

        Args:
            n: how many.
            seed: seed of all of them; None takes a fresh one. The first images of a
                seed are the same for every `n`.
            labels: also give the label map of each image.

        Returns: the images (I, J, K), float32, centred at the origin, with axes in RAS
            order; with `labels`, pairs of image and label map for `Dataset.from_files`.
            Intensities are those of the images that the generator learned from: of
            scans normalised ones, of tensors their own.

        Raises:
            InputError: there is no fitted generator, or it makes no labels.
        """
        generated = self._fitted()
        check_count("n", n, 1, MOST_IMAGES)
        if labels and generated.labels is None:
            raise InputError(
                "this generator makes no labels: fit one to a Dataset whose scans all "
                "have labels"
            )
        if seed is None:
            seed = secrets.randbelow(2**31)
        check_count("seed", seed, 0)
        pairs = (generated.make(mix_seed(seed, "image", k)) for k in range(n))
        return [pair if labels else pair[0] for pair in pairs]

    def real_images(
        self, dataset: Dataset, *, verbose: bool = True
    ) -> list[tuple[nib.Nifti1Image, nib.Nifti1Image | None]]:
        """Scans as the generator sees them, to compare its images with.

        Args:
            dataset: scans, labelled if the generator makes labels.
            verbose: show progress.

        Returns: image and label map of each scan, on the grid and in the range of
            intensities of generated images.

        Raises:
            InputError: scans that cannot be used, or have other classes.
        """
        generated = self._fitted()
        check_dataset("dataset", dataset)
        images = generated.recipe.images
        with ProgressBar(verbose=verbose) as bar:
            side_mm = images.shape[0] * images.spacing_mm[0]
            found = images_of_scans(dataset, images.shape[0], side_mm, bar, images)
        if found.config.n_classes != images.n_classes:
            raise InputError(
                f"dataset has n_classes={found.config.n_classes}, the generator "
                f"{images.n_classes}: give both the same"
            )
        stage = Stage(images.shape[0])
        return generated.scaled(found.real.at(torch.arange(len(found.real)), stage))

    def draw(self, n: int = _SHOWN, seed: int | None = None) -> "Picture":
        """Draw the middle slices of images that `generate` makes.

        Returns: a matplotlib figure, which a notebook shows; save it with `savefig`.
        """
        if self.labels_ is None:
            return nobrainer.figure.draw_images(self.generate(n, seed))
        images, labels = zip(*self.generate(n, seed, labels=True), strict=True)
        return nobrainer.figure.draw_images(images, labels, table=self.labels_)

    def state_figures(self, figures: Mapping[str, float]) -> None:
        """Keep figures of how good the images are, for the card of the bundle.

        Args:
            figures: figures by name, see `nobrainer.realism.measure`; they are added to
                those that are known.

        Raises: InputError for a name that the glossary does not have.
        """
        generated = self._fitted()
        for name in figures:
            check_choice("figure of a generator", name, OF_GENERATORS)
        check_finite("figures", dict(figures))
        made = generated.recipe.provenance
        metrics = made.metrics | {name: float(v) for name, v in figures.items()}
        recipe = replace(generated.recipe, provenance=replace(made, metrics=metrics))
        self.generated_ = replace(generated, recipe=recipe)

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write the generator to a directory, all of it or nothing.

        Args:
            directory: where to; a new or empty directory, or with `overwrite` one that
                holds a model.
            overwrite: replace the model that is there.

        Returns: the directory.

        Raises: InputError where it is taken or cannot be written.
        """
        saved = self._fitted().to_bundle()
        return bundle.save(saved, directory, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a generator that `save` wrote; no pickled code runs.

        Raises: InputError where a file is missing, damaged, from a newer nobrainer, or
            not what its own recipe says.
        """
        generated = Generated.read(path)
        config = generated.recipe.generator
        known = cls(config.name, config.args)
        known.generated_ = generated
        return known

    def _fitted(self) -> Generated:
        generated: Generated | None = getattr(self, "generated_", None)
        if generated is None:
            raise InputError("this generator is not fitted: call fit or load first")
        return generated

    def _model(self, n_classes: int) -> ModelConfig:
        args = generators.with_data(self.base_model, self.model_args, n_classes)
        return ModelConfig(self.base_model, args)

    def _build(self, n_classes: int, seed: int) -> Gan:
        """The two networks; the same seed gives the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(mix_seed(seed, "weights"))
            args = self.model_args | {"n_classes": n_classes}
            gan = generators.build(self.base_model, **args)
        assert isinstance(gan, Gan)
        return gan

    def _keep_maps(
        self, dataset: Dataset | Iterable[Any], bar: ProgressBar, started: str
    ) -> None:
        """Fit the generator that makes images of label maps."""
        if not isinstance(dataset, Dataset):
            raise InputError("label_synthesis needs Dataset.from_label_maps(...)")
        network, args, images = read_maps(dataset, bar)
        recipe = GeneratorRecipe(
            ModelConfig(self.base_model, args), images, None, _origins(dataset, started)
        )
        self.generated_ = Generated(network.eval(), recipe, dataset.labels, ())


def _read_images(
    given: Dataset | Iterable[Any],
    resolution: int,
    side_mm: float | None,
    bar: ProgressBar,
) -> tuple[TrainingImages, LabelTable | None]:
    """The images of what `fit` is given, and the classes of their labels, if any."""
    if not isinstance(given, Dataset):
        return images_of_tensors(given, resolution), None
    found = images_of_scans(given, resolution, side_mm, bar)
    return found, given.labels if found.config.n_classes else None


def _origins(dataset: Dataset | Iterable[Any], started: str) -> Provenance:
    """When and on what a training began; its end is not known yet."""
    known = dataset if isinstance(dataset, Dataset) else None
    scans = () if known is None else known.data
    return Provenance(
        started=started,
        ended=started,
        versions=software_versions(),
        files=() if known is None else file_records(known, None),
        metrics={},
        n_synthetic=sum(scan.is_synthetic for scan in scans),
    )


def _warn_of_short(reached: int, asked: int) -> None:
    if reached < asked:
        warnings.warn(
            f"epochs end the training at {reached} voxels a side, before its last "
            f"phase of {asked}: give more epochs, or fewer steps_per_phase",
            stacklevel=3,
        )


def _draw_phase(
    training: Adversarial, number: int, *, labels: LabelTable | None, folder: Path
) -> None:
    """Keep a picture of samples after a phase, beside the checkpoints.

    Args:
        training: the training under way.
        number: number of the phase, from 1.
        labels: the classes of the labels, if there are some.
        folder: the folder of the checkpoints.
    """
    resolution = training.plan.phases[number - 1].resolution
    stage = Stage(resolution)
    known = Generated(training.gan, training.job.recipe, labels, ())
    n_real = min(_SHOWN // 2, len(training.job.images))
    real = training.job.images.at(torch.arange(n_real), stage)
    made = sample_average(training, stage, list(range(_SHOWN - _SHOWN // 2 + 1)))
    pairs = known.scaled([*real, *made])
    figure = nobrainer.figure.draw_images(
        [image for image, _ in pairs],
        [label for _, label in pairs if label is not None],
        table=labels,
        names=["real"] * n_real + ["generated"] * len(made),
        title=f"phase {number}: {resolution} voxels a side, step {training.step}",
    )
    data = BytesIO()
    figure.savefig(data, format="png", dpi=100)
    path = folder / f"phase-{number}.png"
    write_bytes(data.getvalue(), path, overwrite=True)
