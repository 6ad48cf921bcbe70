"""How good a segmentation is likely to be, without a reference to compare with.

Figures of one segmentation, its features, are turned into a score and into reasons to
look at it. Names load on first use, because the fit needs SciPy's optimisers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
