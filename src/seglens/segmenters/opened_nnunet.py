"""An nnU-Net v2 results folder, opened: what its plans say is done before and after its networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from seglens.artifacts import hash_of
from seglens.cohorts.case_volume import CaseVolume
from seglens.cohorts.volume_preprocessing import PreparedVolume, prepare_volume
from seglens.documents import to_document
from seglens.foreign.plans import ModelPlan, Normalisation
from seglens.segmenters.nnunet import CHECKPOINT, codes_of, open_folder
from seglens.segmenters.opened import OpenedModel
from seglens.shapes import Extent


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenedNnunet(OpenedModel):
    """An nnU-Net of others.

    Attributes:
        plan: what it expects, does and says.
        trainer: what trained it.
    """

    plan: ModelPlan
    trainer: str = ""

    @property
    def codes(self) -> Mapping[int, int]:
        """Label to the value that is written for it."""
        return codes_of(self.plan)

    @property
    def canonical(self) -> bool:
        """Whether its reader turned images to RAS+."""
        return self.plan.canonical

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Of the plans' grid."""
        return self.plan.spacing

    @property
    def usual_extent(self) -> Extent | None:
        """Extent of the training set's median."""
        return self.plan.median_extent

    @cached_property
    def hash(self) -> str:
        """Identity of the networks and of all that is done before and after them."""
        networks = {name: segmenter.hash for name, segmenter in self.folds.items()}
        return hash_of({"networks": networks, "plan": to_document(self.plan), "mirrors": list(self.mirror_axes)})

    @cached_property
    def preparation(self) -> str:
        """Identity of channels, normalisation, grid and windows."""
        plan = self.plan
        rules = [to_document(plan.normalisation, tuple[Normalisation, ...]), to_document(plan.images)]
        grid = [list(plan.transpose_forward), list(plan.spacing), list(plan.patch), plan.canonical]
        return hash_of({"channels": list(plan.channels), "rules": rules, "grid": grid})

    def facts(self) -> dict[str, str]:
        """Description for people: a heading to a line."""
        plan = self.plan
        network = "PlainConvUNet" if plan.network.kind == "plain" else "ResidualEncoderUNet"
        trained = f", by {self.trainer}" if self.trainer else ""
        normalised = [
            f"{name} {rule.scheme}{' of what is not zero' if rule.masked else ''}"
            for name, rule in zip(self.sequences, plan.normalisation, strict=True)
        ]
        return {
            "model": f"{self.folder.name} ({network}, {plan.network.spatial_dims}-D, of {plan.dataset}{trained})",
            "folds": ", ".join(self.folds),
            "normalised": ", ".join(normalised),
        }

    def prepare(self, volume: CaseVolume) -> PreparedVolume:
        """A volume as the networks are shown it.

        Raises:
            ValueError: as `prepare_volume`.
        """
        return prepare_volume(volume, self.plan)


def open_nnunet(path: Path, folds: Sequence[str] | None = None, *, checkpoint: str | None = None) -> OpenedNnunet:
    """Open a results folder; arguments and errors as `open_folder`."""
    opened = open_folder(path, folds, checkpoint=checkpoint or CHECKPOINT)
    return OpenedNnunet(opened.folder, opened.folds, opened.mirror_axes, plan=opened.plan, trainer=opened.trainer)
