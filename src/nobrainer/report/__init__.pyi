from .cohort import write_cohort as write_cohort
from .document import Picture as Picture
from .evaluation import write_evaluation as write_evaluation
from .scan import draw_slices as draw_slices
from .scan import write_case as write_case
from .subject import SubjectScan as SubjectScan
from .subject import write_subject as write_subject
