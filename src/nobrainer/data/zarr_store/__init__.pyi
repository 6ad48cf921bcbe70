from .arrays import Arrays as Arrays
from .verification import verify as verify
