"""The model card: what to know of a model before using it."""

from nobrainer.model_card.card import model_card
from nobrainer.model_card.generator import generator_card

__all__ = ["generator_card", "model_card"]
