"""Pictures of predictions, and charts of how good and how sure they are.

Names load on first use, because matplotlib takes seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
