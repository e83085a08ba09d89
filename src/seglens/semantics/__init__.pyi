from .atlas import LatentAtlas as LatentAtlas
from .atlas import describe as describe
