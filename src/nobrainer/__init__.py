"""nobrainer: Bayesian segmentation of 3-D brain MRI that says how sure it is.

Names load on first use, so `import nobrainer` is quick; `__init__.pyi` lists them.
Only the threads of PyTorch are set up at once, since they must be before it is loaded.
"""

import gc
from typing import Any

import lazy_loader

from nobrainer.cores import leave_cores_to_others

__version__ = "0.1.0"

leave_cores_to_others()

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Load a name of `__init__.pyi`, and what it imports, on first use.

    Python would look through all that it has loaded for garbage again and again, which
    was measured to take a tenth of the time. Instead it counts as old, at once.
    """
    # A name that is not here loads nothing. What a user has frozen must stay so.
    if name not in __all__ or not gc.isenabled() or gc.get_freeze_count():
        return _load(name)
    gc.disable()
    try:
        # Versions of lazy_loader before 0.6 look most names up at every use.
        found = globals()[name] = _load(name)
    finally:
        gc.freeze()
        gc.unfreeze()
        gc.enable()
    return found
