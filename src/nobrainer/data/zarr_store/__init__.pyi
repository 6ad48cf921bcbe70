from .arrays import Arrays as Arrays
