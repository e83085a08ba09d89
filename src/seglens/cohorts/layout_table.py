"""The table of layouts: a row a way in which data sets lie in folders, in the order in which ``auto`` looks."""

from collections.abc import Mapping

LAYOUTS: Mapping[str, str] = {
    "folder": "seglens.cohorts.image_folder",
    "msd": "seglens.cohorts.msd",
    "nnunet": "seglens.cohorts.nnunet",
    "bids": "seglens.cohorts.bids",
    "brats": "seglens.cohorts.brats",
    "flat": "seglens.cohorts.flat",
}
"""Name to the module whose ``LAYOUT`` it is, a `seglens.cohorts.layouts.Layout`; imported when it is needed."""
ENTRY_POINTS = "seglens.layouts"
"""The entry points by which installed packages add rows: each gives a `Layout`, named as its entry point."""
AUTO = "auto"
"""The first layout of the table that fits."""
