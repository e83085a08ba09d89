"""Cohorts with planted truth: anatomy, MR physics, lesions and populations, from one seed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
