"""How good predictions and their uncertainty are on labelled volumes, as tidy rows.

Names load on first use: rows can be read without what computes them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
