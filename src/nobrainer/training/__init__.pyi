from .fabric import make_fabric as make_fabric
from .fit import SCHEDULES as SCHEDULES
from .fit import Job as Job
from .fit import Training as Training
