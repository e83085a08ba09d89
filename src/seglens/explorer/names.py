"""Names that people give to latents: kept in the run's folder, with who gave them, when, and how sure they were."""

import json
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from pydantic import BaseModel, ConfigDict, Field

from seglens.artifacts import write_text_whole

FILE = "names.json"
MAX_LENGTH = 120


class GivenName(BaseModel):
    """One person's name for a latent.

    Attributes:
        name: text, shown as text and never as markup.
        who: whoever gave it; free text.
        confidence: 0 a guess, 1 certain.
        when: UTC, ISO 8601.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=MAX_LENGTH)
    who: str = Field(default="", max_length=MAX_LENGTH)
    confidence: float = Field(default=1.0, ge=0, le=1)
    when: str = ""


class Names:
    """The given names of a run, by dictionary hash and latent: a new fit has new latents and starts without any.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self._file = folder / FILE
        self._lock = Lock()

    def of(self, dictionary_hash: str) -> dict[int, GivenName]:
        """Latent to its name."""
        given = self._read().get(dictionary_hash, {})
        return {int(latent): GivenName.model_validate(entry) for latent, entry in given.items()}

    def give(self, dictionary_hash: str, latent: int, given: GivenName | None) -> GivenName | None:
        """Keep a name, or with None go back to the name by rule; written whole or not at all."""
        with self._lock:
            everything = self._read()
            own = everything.setdefault(dictionary_hash, {})
            own.pop(str(latent), None)
            if given is not None:
                given = given.model_copy(update={"when": datetime.now(UTC).isoformat(timespec="seconds")})
                own[str(latent)] = given.model_dump()
            write_text_whole(self._file, json.dumps(everything, indent=1, ensure_ascii=False) + "\n")
        return given

    def _read(self) -> dict[str, dict[str, dict[str, str | float]]]:
        if not self._file.is_file():
            return {}
        content: dict[str, dict[str, dict[str, str | float]]] = json.loads(self._file.read_text(encoding="utf-8"))
        return content
