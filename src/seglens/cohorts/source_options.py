"""Options of a data set's folder: one type for the study file, the command line and `read_cohort`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from seglens.foreign.plain_numbers import is_whole, whole_keys

Flag = Annotated[bool, Field(strict=True)]
"""A truth; 1, "true" and "yes" are none."""
Whole = Annotated[int, Field(strict=True)]
PARTICULAR = ("images", "masks", "channels", "inverted", "orientation")
"""Options that only the layouts heed which name them."""


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Permissions for a data set's files; by default nothing that changes a number.

    Attributes:
        nonfinite: images with NaN or infinite voxels are quarantined, or these are set to zero, counted and noted. A
            mask with any is always quarantined.
        resample: bring files onto the grid of the case's first sequence (images linearly, masks by nearest neighbour)
            and note it, instead of quarantining the case.
        follow_links: also read what links out of the data set's folder lead to.
        max_gib: the most that an unpacked file may hold, GiB.
    """

    nonfinite: Literal["quarantine", "zero"] = "quarantine"
    resample: Flag = False
    follow_links: Flag = False
    max_gib: Annotated[float, Field(strict=True, gt=0)] = 2.0

    def __post_init__(self) -> None:
        if self.nonfinite not in ("quarantine", "zero"):
            raise ValueError(f'nonfinite is {self.nonfinite!r}; it is "quarantine" or "zero"')
        if not 0 < self.max_gib <= 1024:
            raise ValueError(f"max_gib is {self.max_gib}; it must be above 0 and at most 1024")


@dataclass(frozen=True, kw_only=True)
class Reading(ReadingOptions):
    """The permissions of one data set's files, with the folder that they must lie in.

    Attributes:
        root: the folder that files must lie in once links are followed; None: anywhere.
    """

    root: Path | None = None

    @property
    def max_bytes(self) -> int:
        """The cap in bytes."""
        return int(self.max_gib * 2**30)

    def allows(self, path: Path) -> bool:
        """Whether the file lies, links followed, where files may lie."""
        try:
            return self.root is None or path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # links in a circle: reading the file says so
            return True


STRICT = Reading()


@dataclass(frozen=True, kw_only=True)
class SourceOptions(ReadingOptions):
    """Options of one folder of images: how it is arranged, what its masks mean, what is allowed of its files.

    Attributes:
        layout: how the folder is arranged; ``auto`` looks.
        labels: label value to class name, 0 the background. By default the layout's own: the four tumour labels
            (brats), those of dataset.json or dseg.tsv (nnunet, msd, bids), background and tumour (folder).
        mask_values: value in the mask files to value in ``labels``; a value that is not in it is a finding and never
            merged. By default the layout's own codes; 0 and 255 for a 2-D mask with two labels.
        mask_threshold: of masks that were resized or saved as JPEG: what is as bright or brighter is the one label
            that is not the background, such as 128.
        images: 2-D folders: pattern of the image files relative to the folder, such as
            ``{patient}/{patient}_{slice}.tif``; ``{patient}`` is the patient, ``{slice}`` (digits) the place in the
            volume, ``{sequence}`` the sequence where each has a file of its own, ``*`` anything within a name.
        masks: 2-D folders: pattern of the mask files, of the same fields, one mask an image. An image whose mask file
            is absent is a finding.
        channels: sequence to channel number from 0: of 2-D files as they are stored, and in place of the names in
            dataset.json. Sequences R, G and B are the channels 0, 1 and 2 of colour pictures without being named here.
        inverted: 2-D folders: intensities are stored as 255 - x where x > 0.
        orientation: 2-D folders: where rows and columns run to, masks too, of A P and of L R. ``PL``: the patient's
            front at the top and left at the right; ``RA``: arrays [x y] of RAS volumes saved as they are.
        patient: regular expression searched in the case id; its first group, or all of it, is the patient. By default
            the layout's rule: the id without its timepoint (brats) or session (bids), the field ``{patient}`` (folder).
    """

    layout: str = "auto"
    labels: Annotated[Mapping[int, str] | None, BeforeValidator(whole_keys)] = None
    mask_values: Annotated[Mapping[int, Whole] | None, BeforeValidator(whole_keys)] = None
    mask_threshold: Annotated[float, Field(strict=True, gt=0)] | None = None
    images: str | None = None
    masks: str | None = None
    channels: Mapping[str, Whole] | None = None
    inverted: Flag = False
    orientation: str = "PL"
    patient: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_keys(self.labels)
        whole_keys(self.mask_values)
        for name in ("mask_values", "channels"):
            if strange := [value for value in (getattr(self, name) or {}).values() if not is_whole(value)]:
                raise ValueError(f"{name}: {strange[0]!r} is no whole number; write it in decimal digits, such as 1")
        if self.mask_threshold is not None and not 0 < self.mask_threshold < math.inf:
            raise ValueError(f"mask_threshold is {self.mask_threshold}; it must be above 0, such as 128")

    def reading(self, root: Path) -> Reading:
        """Permissions for the files of a data set in this folder."""
        return Reading(
            nonfinite=self.nonfinite,
            resample=self.resample,
            follow_links=self.follow_links,
            max_gib=self.max_gib,
            root=None if self.follow_links else root.resolve(),
        )

    def given(self) -> tuple[str, ...]:
        """The particular options that are not at their defaults."""
        return tuple(name for name in PARTICULAR if getattr(self, name) != getattr(DEFAULTS, name))


DEFAULTS = SourceOptions()
