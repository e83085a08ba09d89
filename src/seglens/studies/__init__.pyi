from .analysis import Analysis as Analysis
from .report import write_report as write_report
from .settings import StudySettings as StudySettings
from .study import run_study as run_study
