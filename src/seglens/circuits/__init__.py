"""A segmenter as a graph of its parts, and which of its edges a segmentation rests on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
