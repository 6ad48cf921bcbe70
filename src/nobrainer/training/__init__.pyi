from .fabric import make_fabric as make_fabric
from .fit import Training as Training
from .job import Job as Job
from .options import TrainingOptions as TrainingOptions
