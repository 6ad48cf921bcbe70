"""From files to patches: samples, labels, preprocessing, augmentation.

The transforms, MONAI's, load on first use: it takes seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
