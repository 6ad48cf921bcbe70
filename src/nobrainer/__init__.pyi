from . import bayes as bayes
from . import bundle as bundle
from . import changes as changes
from . import figure as figure
from . import models as models
from . import quality as quality
from . import ranking as ranking
from . import regions as regions
from . import report as report
from . import research as research
from . import shipped as shipped
from . import structures as structures
from . import tissues as tissues
from .cores import use_threads as use_threads
from .data.patches import extract_patches as extract_patches
from .data.samples import get_data as get_data
from .data.samples import get_template as get_template
from .errors import DivergedError as DivergedError
from .errors import InputError as InputError
from .evaluation import summarise as summarise
from .processing.dataset import Dataset as Dataset
from .processing.ensemble import Ensemble as Ensemble
from .processing.prediction import BatchError as BatchError
from .processing.prediction import Prediction as Prediction
from .processing.segmentation import Segmentation as Segmentation
from .recipe import Synthesis as Synthesis

__version__: str
