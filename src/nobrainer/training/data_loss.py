"""The part of a training's loss that looks at the labels: a named or a user's one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nobrainer.checks import check_choice, shorten
from nobrainer.errors import InputError
from nobrainer.losses import LOSSES

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (B, C, I, J, K) and labels (B, I, J, K) to a mean over voxels."""
USUAL = "cross_entropy"


@dataclass(frozen=True)
class DataLoss:
    """The data term of the loss, as the user asked for it.

    given: a name in `nobrainer.losses.LOSSES`, or a function of logits and labels; None
        stands for cross-entropy.
    class_weights: one weight for each class, "auto" for inverse frequency, or None for
        equal weights; only with a named loss.

    Raises:
        InputError: an unknown name, no function, or class weights beside one.
    """

    given: str | Loss | None = None
    class_weights: Sequence[float] | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.given, str):
            LOSSES.check(self.given)
        elif isinstance(self.given, type) or not (
            self.given is None or callable(self.given)
        ):
            raise InputError(
                "loss must be a name or a function of logits and labels, got "
                f"{shorten(self.given)}: of a class give an instance"
            )
        elif self.given is not None and self.class_weights is not None:
            raise InputError(
                "class_weights go with a named loss: put them into your own loss"
            )

    @property
    def name(self) -> str:
        """The name of the loss in the recipe, which cannot keep a function's code."""
        if self.given is None:
            return USUAL
        if isinstance(self.given, str):
            return self.given
        kind = getattr(self.given, "__qualname__", type(self.given).__qualname__)
        return f"callable:{kind}"

    def known_weights(self, n_classes: int) -> tuple[float, ...] | None:
        """The weight of each class, as far as it is known before labels are read.

        None stands for equal weights, and for "auto", whose weights follow from the
        labels.

        Raises:
            InputError: the weights are not one number for each of `n_classes`.
        """
        given = self.class_weights
        if given is None:
            return None
        if isinstance(given, str):
            check_choice("class_weights", given, ["auto"])
            return None
        # A mapping is refused, because its keys would be taken for the weights.
        if isinstance(given, Mapping) or len(given) != n_classes:
            raise InputError(
                f"class_weights must be {n_classes} numbers, one a class, got {given!r}"
            )
        try:
            return tuple(map(float, given))
        except (TypeError, ValueError) as error:
            raise InputError(f"class_weights must be numbers, got {given!r}") from error

    def build(self, weights: tuple[float, ...] | None) -> Loss:
        """The function to minimise.

        Args:
            weights: weight of each class (C,); None weighs all alike. A user's own
                function does not get them.
        """
        if callable(self.given):
            return self.given
        return LOSSES[self.given or USUAL](
            None if weights is None else torch.tensor(weights)
        )
