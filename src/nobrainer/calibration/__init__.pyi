from .collected import Collected as Collected
from .collected import collect as collect
from .fitting import calibrate as calibrate
from .fitting import fit_collected as fit_collected
from .intervals import fit_intervals as fit_intervals
from .scaling import Method as Method
from .scaling import fit_scaling as fit_scaling
