"""The card of a generator of images, in Markdown, made from its records."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nobrainer.data.labels import LabelTable
from nobrainer.glossary import OF_GENERATORS
from nobrainer.model_card.markdown import flat, mark, show, table
from nobrainer.recipe import GeneratorRecipe


def generator_card(
    recipe: GeneratorRecipe,
    labels: LabelTable | None,
    history: Sequence[Mapping[str, Any]],
) -> str:
    """Describe a generator to those who may use it.

    Args:
        recipe: how it was made.
        labels: the classes of the labels that come with its images; None without.
        history: its training, a row for each pass over the images.

    Returns:
        Markdown with tables; the same records give the same text.
    """
    recipe = GeneratorRecipe.from_json(recipe.to_json())
    name = recipe.generator.name
    sections = {
        "Images": _images(recipe, labels),
        "How to use it": _how_to(labels is not None),
        "Training": _training(recipe, history),
        "Figures": _figures(recipe),
        "Limits": _limits(recipe),
        "Provenance": _provenance(recipe),
    }
    told = [f"## {name}\n\n{text}" for name, text in sections.items()]
    return "\n\n".join((f"# {mark(name)}: images of heads", *told)) + "\n"


def _images(recipe: GeneratorRecipe, labels: LabelTable | None) -> str:
    images = recipe.images
    voxels = " x ".join(map(str, images.shape))
    spacing = " x ".join(map(show, images.spacing_mm))
    source = "tensors" if images.preprocess is None else "scans"
    unit = "their own" if images.preprocess is None else "normalised"
    kept = "" if recipe.training else " It keeps their label maps."
    text = (
        f"Images of {voxels} voxels of {spacing} mm, with {unit} intensities from "
        f"{show(images.low)} to {show(images.high)}. The generator comes from "
        f"{images.n_images} {source}.{kept}"
    )
    if images.preprocess is None:
        text += " Tensors have no voxel size, so that it stands for nothing."
    if labels is None:
        return text + " They have no labels."
    rows = zip(labels.values, labels.names, strict=True)
    return f"{text}\n\nEach comes with labels:\n\n{table(['label', 'class'], rows)}"


def _how_to(has_labels: bool) -> str:
    more = ""
    if has_labels:
        more = (
            "\n\npairs = generator.generate(4, seed=0, labels=True)\n"
            "dataset = nb.Dataset.from_files(pairs)"
        )
    return f"""\
```python
import nobrainer as nb

generator = nb.Generation.load("path/to/this/folder")
for number, image in enumerate(generator.generate(4, seed=0)):
    image.to_filename(f"generated-{{number}}.nii.gz"){more}
```"""


def _training(recipe: GeneratorRecipe, history: Sequence[Mapping[str, Any]]) -> str:
    if recipe.training is None:
        return (
            "There was none: every image is made from one of the label maps, with "
            "random shape, contrast and quality (`generator.args` in `recipe.json`)."
        )
    settings = {
        "generator": asdict(recipe.generator),
        "training": asdict(recipe.training),
    }
    rows = [row for row in flat(settings) if row[1] not in (None, (), "")]
    steps = history[-1]["step"] if history else 0
    return (
        f"Two networks were trained against each other for {steps} steps; this is the "
        "one that makes images. The settings, by their names in `recipe.json`:"
        f"\n\n{table(['setting', 'value'], rows)}"
    )


def _figures(recipe: GeneratorRecipe) -> str:
    metrics = recipe.provenance.metrics
    if not metrics:
        return (
            "None were taken. `nobrainer.realism.measure` says how varied and how real "
            "its images are, and whether they repeat those that it learned from."
        )
    rows = [
        (metric.title, metrics[name], metric.meaning)
        for name, metric in OF_GENERATORS.items()
        if name in metrics
    ]
    return table(["figure", "value", "meaning"], rows)


def _limits(recipe: GeneratorRecipe) -> str:
    n_synthetic = recipe.provenance.n_synthetic
    synthetic = f", {n_synthetic} of them synthetic" if n_synthetic else ""
    return f"""\
- Its images show nobody, but what is in them comes from {recipe.images.n_images} \
images{synthetic}: it knows no other anatomy, scanner or disease, and of rare features \
probably less than was there.
- **Not a medical device**, and no evidence: nothing can be learned of people from \
images that were made up.
- A generator can give away images that it was trained on. Share it as their consent \
allows; the distance to the nearest training image, among the figures, is a hint and \
no proof that it does not."""


def _provenance(recipe: GeneratorRecipe) -> str:
    made = recipe.provenance
    versions = table(["software", "version"], sorted(made.versions.items()))
    return f"""\
Trained from {mark(made.started)} to {mark(made.ended)} with

{versions}

`recipe.json` has every setting and the checksums of {len(made.files)} files, \
`history.jsonl` the training, `croissant.json` the same for other software. `sha256sum \
-c SHA256SUMS` in this folder checks the files."""
