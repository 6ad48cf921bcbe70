"""Data sets in the Brain Imaging Data Structure (BIDS): from a folder to a derivative.

Names load on first use, because segmenting and pages need packages that take seconds
to load.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
