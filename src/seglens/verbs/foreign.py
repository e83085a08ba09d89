"""The verbs about what others made: ``seglens unpack``, ``convert-pkl`` and ``name``."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from seglens.verbs.options import DECIMAL, DONE, WHOLE


def unpack(
    archive: Annotated[Path, Parameter(help="A .zip or .tar file, as data sets and models come.")],
    *,
    out: Annotated[Path, Parameter(help="Folder to be made.")],
) -> int:
    """Unpack an archive that somebody else made: nothing lands outside the folder, no bomb unfolds."""
    from seglens.foreign.archives import unpack as unpack_archive

    print(f"{unpack_archive(archive, out)} files in {out}")
    return DONE


def convert_pkl(
    source: Annotated[Path, Parameter(help="A .pkl file of an image and its labels, or a folder of them.")],
    *,
    out: Annotated[Path, Parameter(help="Folder for the cohort, in nnU-Net's raw layout.")],
    orientation: Annotated[str, Parameter(help="Where the three axes run to, such as LIA; pickles do not say it.")],
    spacing_mm: Annotated[tuple[float, float, float], DECIMAL, Parameter(help="Voxel size along the axes.")] = (
        1.0,
        1.0,
        1.0,
    ),
    sequence: Annotated[str, Parameter(help="What the images show.")] = "T1",
) -> int:
    """Turn pickled pairs of arrays (TransMorph's IXI) into NIfTI, without running what a pickle says."""
    from seglens.cohorts.pickled import convert_pickles
    from seglens.terminal import StageDisplay

    with StageDisplay()("convert") as progress:
        convert_pickles(
            source, out, orientation=orientation, spacing_mm=spacing_mm, sequence=sequence, progress=progress
        )
    return DONE


def name(
    run: Annotated[Path, Parameter(help="A run's folder.")],
    segmenter: Annotated[str, Parameter(help="Whose latents.")],
    *,
    base_url: Annotated[str, Parameter(help="A server with OpenAI's protocol, such as http://localhost:8000/v1.")],
    model: Annotated[str, Parameter(help="Its model.")],
    latents: Annotated[int, WHOLE, Parameter(help="The so many live ones with most mass.")] = 50,
) -> int:
    """Ask a language model for names of latents, beside the rule's; it gets figures and class names, nothing else."""
    from seglens.artifacts import write_text_whole
    from seglens.runs import Run
    from seglens.semantics.atlas import LatentAtlas
    from seglens.semantics.language_model import local_model, suggest_names
    from seglens.terminal import StageDisplay

    atlas = LatentAtlas.read(Run(run).artifact(f"atlas/{segmenter}"))
    ask = local_model(base_url, model, os.environ.get("SEGLENS_API_KEY", "none"))
    with StageDisplay()(f"names {segmenter}") as progress:
        named = suggest_names(atlas, ask, n_latents=latents, progress=progress)
    path = run / "names" / f"{segmenter.replace('/', '-')}.json"
    write_text_whole(path, named.write_json() + "\n")
    print(f"{named['suggestion'].count()} of {named.height} latents named: {path}")
    return DONE
