from .fabric import make_fabric as make_fabric
from .job import Job as Job
from .loop import Training as Training
from .members import TrainingPlan as TrainingPlan
from .members import WarmStart as WarmStart
from .options import TrainingOptions as TrainingOptions
from .own_network import fit as fit
