"""Prediction of whole volumes: tiles, draws and running statistics.

Blended windows, MONAI's, load on first use: it takes seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
