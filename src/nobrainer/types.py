"""Array shapes as types: B batch, C channel or class, I J K voxel axes (RAS)."""

from jaxtyping import Float, Integer
from torch import Tensor

Images = Float[Tensor, "B C I J K"]
Labels = Integer[Tensor, "B I J K"]
Logits = Float[Tensor, "B C I J K"]
Shape3 = tuple[int, int, int]
