"""Training: objective, engine, loop and checkpoints.

What needs Lightning Fabric loads on first use: prediction does without.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
