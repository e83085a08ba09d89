from .effects import HookpointChoice as HookpointChoice
from .effects import choose_hookpoint as choose_hookpoint
from .effects import hookpoint_effects as hookpoint_effects
from .extraction import extract as extract
from .hooks import capture as capture
from .hooks import edit as edit
from .store import ActivationStore as ActivationStore
from .volume_tokens import extract_volumes as extract_volumes
