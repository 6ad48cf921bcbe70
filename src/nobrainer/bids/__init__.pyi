from .filters import Filters as Filters
from .group.level import Group as Group
from .group.level import write_group as write_group
from .layout import Layout as Layout
from .layout import Source as Source
from .layout import read_layout as read_layout
from .names import Names as Names
from .names import name_all as name_all
