"""nobrainer: Bayesian segmentation of 3-D brain MRI that says how sure it is.

Names load on first use, so `import nobrainer` is quick; `__init__.pyi` lists them.
Only the threads of PyTorch are set up at once, since they must be before it is loaded.
"""

import lazy_loader

from nobrainer.cores import leave_cores_to_others

__version__ = "0.1.0"

leave_cores_to_others()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
