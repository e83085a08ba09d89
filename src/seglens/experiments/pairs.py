"""Pairs of segmenters of a study, and what of their dictionaries is alive."""

from collections.abc import Mapping
from itertools import combinations
from math import prod

from seglens.dictionaries.codes import Codes
from seglens.dictionaries.lens import Lens
from seglens.diffing.functional import common_grid
from seglens.experiments.experiment import NotApplicableError
from seglens.studies.compared import Compared, Probed, origin_of, probe_of, same_start
from seglens.studies.hookpoints import design_of
from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.settings import StudySettings
from seglens.studies.stages import Study

TRAINED, SAME_RANDOM, DIFFERENT = "one trained model", "the same random weights", "different random weights"


def pairs_alike(settings: StudySettings) -> list[tuple[str, str]]:
    """Pairs of segmenters of one architecture: only their weights can be compared.

    Raises:
        NotApplicableError: there is none, or the study fits no floors and ceilings.
    """
    own = settings.segmenters
    pairs = [(a, b) for a, b in combinations(own, 2) if design_of(settings, a) == design_of(settings, b)]
    if not pairs:
        listed = ", ".join(f"{name} ({one.architecture})" for name, one in own.items())
        raise NotApplicableError(f"needs two segmenters of one architecture; the study has {listed}")
    if not settings.dictionaries.controls:
        raise NotApplicableError("needs the fits of floors and ceilings; set dictionaries.controls to true")
    return pairs


def start_of(segmenters: Mapping[str, SegmenterSettings], a: str, b: str) -> str:
    """Name how two segmenters started. All that start from nothing draw their weights with the study's seed."""
    if not same_start(segmenters, a, b):
        return DIFFERENT
    origins = {origin_of(segmenters, name) for name in (a, b)}
    fresh = len(origins) > 1 and all(
        segmenters[origin].pretrained is None and segmenters[origin].model is None for origin in origins
    )
    return SAME_RANDOM if fresh else TRAINED


def pair_name(a: str, b: str) -> str:
    """How tables call a pair."""
    return f"{a} / {b}"


def probe_codes(study: Study, source: str, target: str) -> tuple[tuple[Codes, Codes], int]:
    """Codes of both segmenters' own dictionaries on the same unseen slices, half of each cohort, and tokens a slice."""
    sides = []
    for name in (source, target):
        dictionary, alive = study.with_alive(name)
        probe = probe_of(study.own_slices(name, "test"))
        sides.append(Compared(name, Lens(study.segmenter(name), dictionary), alive, probe))
    probes = list({side.probe.hash: side.probe for side in sides}.values())
    seen = [Probed(side, probes) for side in sides]
    grid = common_grid(seen[0].grid, seen[1].grid)
    codes = seen[0].codes(sides[0].lens.dictionary, grid), seen[1].codes(sides[1].lens.dictionary, grid)
    return codes, prod(grid)
