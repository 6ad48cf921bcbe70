from .transforms import Compose as Compose
from .transforms import compose as compose
from .transforms import untracked as untracked
