from .fabric import make_fabric as make_fabric
from .fit import Training as Training
from .job import Job as Job
from .members import TrainingPlan as TrainingPlan
from .members import WarmStart as WarmStart
from .options import TrainingOptions as TrainingOptions
