"""Med-SegLens: open a segmentation model, compare two populations inside it, find a failure's latents, change them.

The public names stand in ``__init__.pyi`` beside this file, where editors and mypy find them too. Each is imported when
it is first used, so ``import seglens`` costs nothing. Every folder hands on its own in the same way (``from
seglens.cohorts import read_cohort``), except those that are called like the module they live in.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
