from .arrays import Arrays as Arrays
from .export import export as export
from .verification import verify as verify
