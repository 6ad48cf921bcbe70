"""Where the results of a scan lie in the derivative, by the rules of BIDS."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from nobrainer.bids.entities import entities_of, write_name
from nobrainer.bids.layout import Source

_MAIN = "T1w"
_RESULTS = ("dseg", "mask", "probseg")
_DROPPED = {"desc", "seg", "label"}
"""Entities of a source that results have for themselves."""
TISSUES = {"GM": "grey matter", "WM": "white matter", "CSF": "cerebrospinal fluid"}
"""Labels of the probability maps, and what they show."""


@dataclass(frozen=True)
class Names:
    """The names of all that is written for one scan, from the folder of results.

    scan: name of the scan: the source's entities and its suffix.
    scheme: label of the segmentation, see `scheme_label`.
    entities: the entities that all results share.
    """

    scan: str
    scheme: str
    entities: Mapping[str, str]

    @classmethod
    def of(cls, source: Source, scheme: str) -> "Names":
        """Choose the names for a scan.

        Results carry the entities of the source. A scan that is no T1w says so by its
        space: `space-T2w` are the maps on the grid of the T2w.

        Args:
            source: the scan.
            scheme: label of the segmentation.
        """
        allowed = frozenset.intersection(*map(entities_of, _RESULTS)) - _DROPPED
        kept = {key: one for key, one in source.entities.items() if key in allowed}
        if source.suffix != _MAIN:
            kept.setdefault("space", source.suffix)
        return cls(write_name(source.entities, source.suffix), scheme, kept)

    @property
    def subject(self) -> str:
        """The participant, with "sub-"."""
        return f"sub-{self.entities['sub']}"

    @property
    def folder(self) -> PurePosixPath:
        """Folder of the results."""
        session = self.entities.get("ses")
        parts = [self.subject, *([f"ses-{session}"] if session else []), "anat"]
        return PurePosixPath(*parts)

    @property
    def prefix(self) -> str:
        """The shared entities as the start of a name, without a last underscore."""
        return write_name(self.entities, "").removesuffix("_")

    def labels(self, extension: str = ".nii.gz") -> PurePosixPath:
        """The label map, or what explains it: ".json", or ".tsv" for its values."""
        return self._derived("dseg", extension, seg=self.scheme)

    def mask(self, extension: str = ".nii.gz") -> PurePosixPath:
        """The mask of the brain, or its ".json"."""
        return self._derived("mask", extension, desc="brain")

    def tissue(self, label: str, extension: str = ".nii.gz") -> PurePosixPath:
        """The probability map of a tissue, or its ".json".

        Args:
            label: one of `TISSUES`.
            extension: the end of the name.
        """
        return self._derived("probseg", extension, label=label)

    def uncertainty(self, kind: str) -> PurePosixPath:
        """A map of the uncertainty: "entropy" or "variance"."""
        return self._derived(kind, ".nii.gz")

    def morphometry(self, extension: str = ".tsv") -> PurePosixPath:
        """The table of the structures, or the ".json" that explains its columns."""
        return self._derived("morph", extension, desc="volumetric")

    @property
    def draws(self) -> PurePosixPath:
        """The table of the volumes in each draw."""
        return self._derived("draws", ".tsv")

    @property
    def quality(self) -> PurePosixPath:
        """What is said of the quality of the segmentation."""
        return self._derived("quality", ".json")

    @property
    def page(self) -> PurePosixPath:
        """The page of the participant, which shows all scans."""
        return PurePosixPath(f"{self.subject}.html")

    def figure(self, what: str) -> PurePosixPath:
        """A figure or page of this scan alone.

        Args:
            what: end of its name, such as "dseg.png".
        """
        return PurePosixPath(self.subject, "figures", f"{self.prefix}_{what}")

    def _derived(self, suffix: str, extension: str, **own: str) -> PurePosixPath:
        name = write_name({**self.entities, **own}, suffix)
        return self.folder / f"{name}{extension}"


def scheme_label(scheme: str) -> str:
    """The label of a scheme of classes: only letters and digits may stand in a name.

    >>> scheme_label("50-class")
    '50class'
    """
    return re.sub(r"[^0-9a-zA-Z]", "", scheme)


def name_all(
    sources: Iterable[Source], scheme: str
) -> tuple[list[tuple[Source, Names]], list[str]]:
    """Choose the names for all scans of a run.

    Args:
        sources: the scans.
        scheme: label of the segmentation.

    Returns:
        Each scan with its names; and a line for each scan that is left out, because
        its results would lie where those of another do.
    """
    named = [(one, Names.of(one, scheme)) for one in sources]
    taken: dict[PurePosixPath, list[Source]] = defaultdict(list)
    for source, names in named:
        taken[names.quality].append(source)
    chosen, problems = [], []
    for source, names in named:
        others = [one.relative for one in taken[names.quality] if one is not source]
        if others:
            problems.append(
                f"{source.relative}: its results would be called like those of "
                f"{', '.join(others)}: choose one by --bids-filter-file"
            )
        else:
            chosen.append((source, names))
    return chosen, problems
