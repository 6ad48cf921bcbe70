"""What makes probabilities and volumes honest, fitted on held-out labelled scans.

Names load on first use, because the scaling needs PyTorch and SciPy.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
