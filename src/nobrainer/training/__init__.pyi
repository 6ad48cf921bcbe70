from .fabric import make_fabric as make_fabric
from .fit import Job as Job
from .fit import Training as Training
from .options import TrainingOptions as TrainingOptions
