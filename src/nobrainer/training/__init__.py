"""Training: objective, engine, loop and checkpoints.

What needs Lightning Fabric loads on first use: prediction does without.
"""

import lazy_loader

from nobrainer.compat import with_old_names

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, _load)
