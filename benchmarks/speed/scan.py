"""A head from its file to maps in files, by the model in the box, in a warm process.

The head is the MNI152 template, which comes with nilearn.
"""

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
from benchmarks.speed.limits import Limits
from benchmarks.speed.measure import Case, Options, Table, alternate, seconds
from benchmarks.speed.predict import our_row
from nilearn.datasets import load_mni152_template

import nobrainer as nb
from nobrainer.errors import UnusualScanWarning
from nobrainer.io import write

N_DRAWS = 5


def run(options: Options, _: Limits) -> list[Table]:
    """A table of the number formats; none where the model would be elsewhere."""
    model = nb.Segmentation.load("brain")
    if model.device != options.device.type:
        return []
    template = load_mni152_template(resolution=4 if options.quick else 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nib.save(template, folder / "head.nii.gz")

        def once(precision: str) -> None:
            with warnings.catch_warnings():
                # The template is a mean of many heads, and smoother than one.
                warnings.simplefilter("ignore", UnusualScanWarning)
                maps = model.predict(
                    folder / "head.nii.gz",
                    n_samples=N_DRAWS,
                    seed=0,
                    precision=precision,
                    verbose=False,
                )
            for number, image in enumerate(maps):
                write(image, folder / f"{number}.nii.gz", overwrite=True)

        cases: dict[str, Callable[[], float]] = {}
        for dtype in options.dtypes:
            precision = str(dtype).removeprefix("torch.")
            once(precision)
            cases[our_row(dtype)] = partial(
                seconds, partial(once, precision), options.device
            )
        samples = alternate(cases, options.few)
    shape = " x ".join(map(str, template.shape))
    title = f"Model in the box: {shape} head, {N_DRAWS} draws, file to files"
    rows = {row: Case(times) for row, times in samples.items()}
    return [Table("scan", "scan", title, "", our_row(options.dtypes[-1]), rows)]
