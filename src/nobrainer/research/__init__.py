"""Autoresearch: search for a better recipe, judge it honestly, keep the best model.

Names load on first use: the process of a run needs few of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
