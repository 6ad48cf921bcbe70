"""The model card: what to know of a model before using it."""

from nobrainer.model_card.card import model_card

__all__ = ["model_card"]
