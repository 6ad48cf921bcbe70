"""The import path of `get_data` that users know."""

from nobrainer.data.samples import get_data

__all__ = ["get_data"]
