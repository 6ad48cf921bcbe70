"""Scans and label maps in and out: NIfTI and MGZ files, and objects in memory.

What enters here is checked here, once: the rest of the package may rely on three
axes, finite values and an affine in millimetres that can be inverted.

Names load on first use, because Zarr takes a second to load.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
