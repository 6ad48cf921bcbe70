"""Reports that people look at: one page a scan, an evaluation or a cohort.

Names load on first use, because the viewers on the page of a scan take seconds to load.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
