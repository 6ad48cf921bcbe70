"""A store: prepared scans with their labels in one place on disk, as Zarr arrays.

Names load on first use, because Zarr takes a second to load.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
