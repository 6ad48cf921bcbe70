"""How much memory the work on a scan takes, before it is read."""

from functools import cache
from math import prod
from pathlib import Path

from nobrainer.bids.scan import Settings, Unit, load_model
from nobrainer.errors import InputError
from nobrainer.inference.moments import statistics_bytes
from nobrainer.inference.slabs import MEMORY_BYTES
from nobrainer.io import read_geometry

PROCESS_BYTES = 600_000_000
"""What a process takes beside all that grows with a scan: 540 MB were measured, with
what pictures and pages load."""
_OF_NETWORK, _OF_MAPS, _OF_FILE = 250, 20, 28
"""Bytes for each voxel: of a network's results and of the maps on the working grid; of
the scan and its maps on its own grid. Generous: with 33 classes a head of 256³ at 1 mm
was foretold 2.6 GB, and took 1.7."""


def forecast_bytes(settings: Settings, unit: Unit) -> int:
    """The most memory that a process takes which does a scan, roughly.

    Args:
        settings: what is done with every scan.
        unit: the scan; of its file only the header is read.
    """
    try:
        geometry = read_geometry(unit.source.path)
    except (InputError, OSError):
        # Whoever does it will say what is wrong.
        return PROCESS_BYTES
    spacing_mm, n_classes = _of_model(settings.model_dir)
    n_voxels = prod(geometry.shape)
    n_working = n_voxels
    if spacing_mm is not None:
        n_working = int(n_voxels * geometry.voxel_mm3 / prod(spacing_mm))
    network = n_working * (statistics_bytes(n_classes) + _OF_NETWORK)
    return (
        PROCESS_BYTES
        + min(MEMORY_BYTES, network)
        + n_working * _OF_MAPS
        + n_voxels * _OF_FILE
    )


@cache
def _of_model(model_dir: Path) -> tuple[tuple[float, float, float] | None, int]:
    """The spacing of the working grid, and the number of classes."""
    recipe = load_model(model_dir).recipe_
    return recipe.preprocess.spacing_mm, recipe.data.n_classes
