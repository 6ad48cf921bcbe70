"""How a model was made: frozen records with a JSON round trip, and nothing else.

A recipe together with the training files reproduces a model. Prediction reads its
preprocessing from here, so it cannot differ from training.
"""

from nobrainer.recipe.cohort import Cohort, TrainingAppearance
from nobrainer.recipe.generator import (
    AdversarialConfig,
    GeneratorRecipe,
    ImagesConfig,
)
from nobrainer.recipe.recipe import (
    FORMAT_VERSION,
    FileRecord,
    Fold,
    Provenance,
    Recipe,
    caution_about,
    refuse_newer,
)
from nobrainer.recipe.search import SearchRecord
from nobrainer.recipe.settings import (
    DEFAULT_LEARNING_RATE,
    DataConfig,
    ModelConfig,
    PreprocessConfig,
    TrainingConfig,
    WeightsFormat,
    usual_patches,
)
from nobrainer.recipe.statement import Source, Statement
from nobrainer.recipe.synthesis import Synthesis

__all__ = [
    "DEFAULT_LEARNING_RATE",
    "FORMAT_VERSION",
    "AdversarialConfig",
    "Cohort",
    "DataConfig",
    "FileRecord",
    "Fold",
    "GeneratorRecipe",
    "ImagesConfig",
    "ModelConfig",
    "PreprocessConfig",
    "Provenance",
    "Recipe",
    "SearchRecord",
    "Source",
    "Statement",
    "Synthesis",
    "TrainingAppearance",
    "TrainingConfig",
    "WeightsFormat",
    "caution_about",
    "refuse_newer",
    "usual_patches",
]
