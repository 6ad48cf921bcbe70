"""Array shapes as types: B batch, C channel or class, I J K voxel axes (RAS)."""

import numpy as np
from jaxtyping import Float, Integer
from torch import Tensor

Images = Float[Tensor, "B C I J K"]
Labels = Integer[Tensor, "B I J K"]
Logits = Float[Tensor, "B C I J K"]
Probabilities = Float[Tensor, "B C I J K"]
Scalar = Float[Tensor, ""]

ImageArray = Float[np.ndarray, "I J K"]
LabelArray = Integer[np.ndarray, "I J K"]
Affine = Float[np.ndarray, "4 4"]
Shape3 = tuple[int, int, int]
