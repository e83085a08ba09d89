"""Untrained networks of a study's architectures, each the same in every analysis that is set beside one."""

from typing import TYPE_CHECKING

from seglens.lens_names import segmenter_of

if TYPE_CHECKING:
    from seglens.segmenters.segmenter import Segmenter
    from seglens.studies.stages import Study


def untrained_segmenter(study: "Study", name: str, number: int = 0) -> "Segmenter":
    """The network of a segmenter with other random weights than it may have started from.

    Args:
        study: of the segmenter.
        name: of the segmenter or of one of its lenses.
        number: of the draw, 0 or more.
    """
    from seglens.segmenters.architectures import build_segmenter

    def drawn() -> "Segmenter":
        trained = study.segmenter(name)
        assert trained.architecture is not None  # a study trains what it can build
        return build_segmenter(
            trained.architecture["name"],
            sequences=trained.sequences,
            labels=trained.labels,
            size=trained.size,
            seed=study.settings.seed + 1 + number,
            settings=trained.architecture["settings"],
        ).to(trained.device)

    untrained: Segmenter = study.once(drawn, "untrained", segmenter_of(name), number)
    return untrained
