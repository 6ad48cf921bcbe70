"""Names by which programs for nobrainer 1 and 2 know what is here, and their models.

Most of what they call has its old name here as well. Where ours differs, the old one is
a line of `OLD_NAMES`: the package that had it hands it on when a program asks for it,
and nothing in nobrainer itself uses it. The page "Coming from nobrainer 1 and 2" maps
all calls, old and new.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from nobrainer.errors import InputError

OLD_NAMES = {
    "nobrainer.models.list_available_models": "listing.print_models",
    "nobrainer.processing.Dataset": "dataset.Dataset",
    "nobrainer.processing.Generation": "generation.Generation",
    "nobrainer.processing.Segmentation": "segmentation.Segmentation",
    "nobrainer.training.get_device": "engine.default_device",
}
"""Where a program looks for an old name, and what stands for it in the same package:
the module, and the name in it."""

_KERAS = (
    "is a model of Keras, as nobrainer 1 has them, and cannot be read: train a network "
    "anew, or predict with a model that comes with nobrainer"
)
_TORCH = (
    "holds weights of PyTorch alone, not how scans were prepared: load them into the "
    "same network, nobrainer.models.get(name)(...), for nobrainer.prediction.predict"
)
_BEGINNINGS = {b"\x89HDF": _KERAS, b"PK\x03\x04": _TORCH}
"""With what the files of such models begin: HDF5, and the archive of PyTorch."""


def refuse_old_model(path: Path) -> None:
    """Say of a model of nobrainer 1 or 2 what can be read; let everything else pass.

    Args:
        path: a file or folder that was given as a model and is none of ours.

    Raises:
        InputError: it is such a model.
    """
    advice = None
    if path.is_file():
        with path.open("rb") as file:
            advice = _BEGINNINGS.get(file.read(4))
    elif (path / "saved_model.pb").exists():
        advice = _KERAS
    elif (path / "model.pth").exists():
        advice = _TORCH
    if advice is not None:
        raise InputError(f"{path}: {advice}")


def with_old_names(
    package: str, own: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """The `__getattr__` of a package that answers to its old names, too.

    Args:
        package: the name of the package.
        own: what finds the names that the package loads on first use; None where it
            loads none.
    """

    def find(name: str) -> Any:
        if (place := OLD_NAMES.get(f"{package}.{name}")) is not None:
            module, _, ours = place.partition(".")
            return getattr(import_module(f"{package}.{module}"), ours)
        if own is not None:
            return own(name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


class OldFields:
    """What datasets have under another name in nobrainer 2."""

    config: Any

    @property
    def _patches_per_volume(self) -> int:
        return self.config.patches_per_volume
