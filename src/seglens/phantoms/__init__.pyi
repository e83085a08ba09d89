from .cohort import write_phantom_cohort as write_phantom_cohort
from .in_memory import phantom_cohort as phantom_cohort
