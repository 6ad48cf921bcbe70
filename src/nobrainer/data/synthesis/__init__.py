"""Images of heads made from their label maps, on the device of the maps.

A network that is trained on images of random contrast, shape and quality has to find
structures by what does not change. Every step is a batched operation of torch, and no
number goes back to the host. The steps have a module each: `deformation`,
`intensities`, `scanner` and `field_of_view` draw what the sections of
`nobrainer.recipe.Synthesis` say; `normalisation` finds the figures of the whole head;
`batch` puts the steps in order.

Source of the idea: Billot et al., "SynthSeg: Segmentation of brain MRI scans of any
contrast and resolution without retraining", Medical Image Analysis 86 (2023) 102789.
"""

from nobrainer.data.synthesis.anatomy import Anatomy
from nobrainer.data.synthesis.batch import Draw, synthesise
from nobrainer.data.synthesis.normalisation import count_values

__all__ = ["Anatomy", "Draw", "count_values", "synthesise"]
