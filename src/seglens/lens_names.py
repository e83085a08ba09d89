"""Names of a study's lenses; light to import, for the command's help reads the table of analyses."""


def lens_name(segmenter: str, hookpoint: str) -> str:
    """Name of a segmenter seen at another hookpoint than its first: ``adult@stage3``; at the first it is ``adult``."""
    return f"{segmenter}@{hookpoint}"


def segmenter_of(lens: str) -> str:
    """Name of the segmenter of a lens: ``adult`` of ``adult@stage3`` and of ``adult``."""
    return lens.partition("@")[0]
