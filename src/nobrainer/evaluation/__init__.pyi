from .compare import evaluate as evaluate
from .rows import Evaluation as Evaluation
from .rows import Row as Row
from .rows import summarise as summarise
