"""Images made from label maps, as a generator beside those that learn."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nobrainer.data.synthesis import Anatomy, Draw, synthesise
from nobrainer.json_records import build_record
from nobrainer.recipe import Synthesis


class LabelMaps(nn.Module):
    """Label maps of heads, of which images are made, see `nobrainer.data.synthesis`.

    The maps are its state. All arguments come from the data set that it is given.

    Args:
        synthesis: the fields of a `Synthesis`.
        values: the label values of the maps, as `Anatomy.of` takes them.
        classes: class of each of these values.
        shapes: voxels of each map along its axes.
    """

    def __init__(
        self,
        synthesis: Mapping[str, Any],
        values: Sequence[int],
        classes: Sequence[int],
        shapes: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        stored = {k: [*v] if isinstance(v, tuple) else v for k, v in synthesis.items()}
        self.synthesis = build_record(Synthesis, stored, "synthesis")
        self.anatomy = Anatomy.of(
            values, dict(zip(values, classes, strict=True)), self.synthesis.pairs
        )
        self.n_maps = len(shapes)
        for number, shape in enumerate(shapes):
            empty = torch.zeros(tuple(shape), dtype=torch.int16)
            self.register_buffer(f"map_{number}", empty)

    def keep(self, number: int, positions: Tensor) -> None:
        """Keep a map.

        Args:
            number: number of the map, from 0.
            positions: position in `anatomy` of the value of each voxel, (I, J, K).
        """
        self.get_buffer(f"map_{number}").copy_(positions)

    def draw(self, seed: int, spacing_mm: Sequence[float]) -> Draw:
        """Make an image of one of the maps, which the seed chooses, too.

        Args:
            seed: seed of all that is drawn, 0 to 2**63 - 1.
            spacing_mm: voxel size of the maps along each axis.

        Returns: one image and its labels.
        """
        chosen = self.get_buffer(f"map_{seed % self.n_maps}")
        return synthesise(
            chosen[None], self.anatomy, self.synthesis, [seed], spacing_mm=spacing_mm
        )
