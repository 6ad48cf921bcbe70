"""The models that come with nobrainer: each a folder beside this file, named after it.

A folder is an ordinary bundle, and all that is said of a model is read from there. The
name of a model may be given wherever the place of a model is asked for.
"""

from nobrainer.shipped.registry import (
    DEFAULT,
    ShippedModel,
    describe,
    find,
    folder_of,
    names,
)

__all__ = ["DEFAULT", "ShippedModel", "describe", "find", "folder_of", "names"]
