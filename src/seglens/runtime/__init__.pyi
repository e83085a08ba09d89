from .distributed import launched as launched
