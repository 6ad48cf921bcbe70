from .filters import Filters as Filters
from .layout import Layout as Layout
from .layout import Source as Source
from .layout import read_layout as read_layout
from .names import Names as Names
from .names import name_all as name_all
