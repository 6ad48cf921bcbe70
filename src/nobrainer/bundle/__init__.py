"""A trained model on disk: a directory of plain files with checksums.

| file | what it holds |
|---|---|
| `weights.safetensors` | the state of the network |
| `recipe.json` | how the model was made |
| `labels.tsv` | the name, colour and id of each class |
| `history.jsonl` | one row per epoch |
| `calibration.json` | how its probabilities are scaled, if that was fitted |
| `quality.json` | how the quality of its results is predicted, if that was fitted |
| `README.md` | the model card: all of this for people, never read back |
| `croissant.json` | the same for other software (JSON-LD), never read back |
| `SHA256SUMS` | checksums of all the others, for `sha256sum -c SHA256SUMS` |

Nothing in it is code: no pickle is written or read.
"""

from nobrainer.bundle.bundle import is_finished, load, load_generator, save
from nobrainer.bundle.contents import Bundle, pack_weights
from nobrainer.bundle.generator import GeneratorBundle
from nobrainer.bundle.place import check_place, digest, is_model, is_taken

__all__ = [
    "Bundle",
    "GeneratorBundle",
    "check_place",
    "digest",
    "is_finished",
    "is_model",
    "is_taken",
    "load",
    "load_generator",
    "pack_weights",
    "save",
]
