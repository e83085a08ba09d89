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
    from seglens.segmenters.architectures import with_random_weights

    def drawn() -> "Segmenter":
        trained = study.segmenter(name)
        return with_random_weights(trained, study.settings.seed + 1 + number).to(trained.device)

    untrained: Segmenter = study.once(drawn, "untrained", segmenter_of(name), number)
    return untrained
