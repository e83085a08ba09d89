"""A local web app over the artifacts of a finished run: see a latent, turn it, watch the mask change."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
