"""nobrainer: Bayesian segmentation of 3-D brain MRI that says how sure it is.

Names load on first use, so `import nobrainer` is quick; `__init__.pyi` lists them.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
