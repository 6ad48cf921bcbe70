"""nobrainer: Bayesian segmentation of 3-D brain MRI that says how sure it is.

Names load on first use, so `import nobrainer` is quick.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "bayes",
        "bundle",
        "figure",
        "models",
        "quality",
        "ranking",
        "report",
        "research",
        "structures",
    ],
    submod_attrs={
        "data.samples": ["get_data"],
        "errors": ["DivergedError", "InputError"],
        "evaluation": ["summarise"],
        "processing.dataset": ["Dataset", "extract_patches"],
        "processing.ensemble": ["Ensemble"],
        "processing.prediction": ["BatchError", "Prediction"],
        "processing.segmentation": ["Segmentation"],
    },
)
