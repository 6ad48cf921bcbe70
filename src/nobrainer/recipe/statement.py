"""What only those who trained a model know of it, in their own words."""

from dataclasses import dataclass

from nobrainer.checks import shorten
from nobrainer.errors import InputError


@dataclass(frozen=True)
class Source:
    """Data that a model learned from, named as its publisher asks.

    name: what the data is called.
    url: where it is published, beginning with https://.
    licence: its licence, an SPDX identifier such as "Apache-2.0".
    attribution: whom to credit, a sentence with the publication to cite.
    """

    name: str
    url: str
    licence: str
    attribution: str

    def __post_init__(self) -> None:
        _check_filled(self, "source", ("name", "licence", "attribution"))
        if not self.url.startswith("https://"):
            raise InputError(
                f"source.url must begin with https://, got {shorten(self.url)}"
            )


@dataclass(frozen=True)
class Statement:
    """What those who trained a model state; all else in a recipe is recorded.

    name: what the model is called.
    licence: licence of the weights, an SPDX identifier such as "Apache-2.0".
    citation: how to cite the model.
    sources: the data that it learned from.
    training: what the settings do not say of the training, in sentences.
    held_out: what was kept out of the training, and what it was used for.
    limits: what the model does not do well, a sentence each.
    """

    name: str
    licence: str
    citation: str
    sources: tuple[Source, ...] = ()
    training: str = ""
    held_out: str = ""
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_filled(self, "statement", ("name", "licence", "citation"))


def _check_filled(
    record: Source | Statement, kind: str, names: tuple[str, ...]
) -> None:
    """Refuse texts that say nothing."""
    for name in names:
        if not getattr(record, name).strip():
            raise InputError(f"{kind}.{name} must not be empty")
