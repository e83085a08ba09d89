"""Exit codes and options that mean the same in every verb."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

DONE, FAULT, REFUSED, QUARANTINED = 0, 1, 2, 3
"""Exit codes; docs/exit-codes.md says what they mean."""

Out = Annotated[Path, Parameter(help="Folder of the run; finished stages in it are reused.")]
Jobs = Annotated[int | None, Parameter(help="Stages at once, a worker process each; by default one a core, 4 at most.")]
StudyFile = Annotated[Path, Parameter(help="The study's YAML file; `seglens run --example` prints one.")]
Strict = Annotated[bool, Parameter(help="Stop where a case would be quarantined.", negative="")]
