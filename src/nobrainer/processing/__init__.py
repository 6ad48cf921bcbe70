"""What a user types in Python: `Dataset`, `Segmentation` and `Generation`."""

from nobrainer.compat import with_old_names

__getattr__ = with_old_names(__name__)
