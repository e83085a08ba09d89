"""Names that people give to latents: kept in the run's folder, with who gave them, when, and how sure they were."""

import json
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from seglens.artifacts import write_text_whole
from seglens.documents import DocumentError, from_document, to_document
from seglens.foreign.json_text import read_json

FILE = "names.json"
MAX_LENGTH = 120
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def _one_line(text: str) -> str:
    for mark in text:
        if unicodedata.category(mark) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(mark) in _TURNING:
            raise ValueError(f"it holds the character U+{ord(mark):04X}; give one line, without control characters")
    return text


_Line = Annotated[str, AfterValidator(_one_line)]


class GivenName(BaseModel):
    """One person's name for a latent.

    Attributes:
        name: text, shown as text and never as markup.
        who: whoever gave it; free text.
        confidence: 0 a guess, 1 certain.
        when: UTC, ISO 8601.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Line = Field(min_length=1, max_length=MAX_LENGTH)
    who: _Line = Field(default="", max_length=MAX_LENGTH)
    confidence: float = Field(default=1.0, ge=0, le=1)
    when: str = ""


KIND: Any = dict[str, dict[int, GivenName]]
"""Of the file: dictionary hash to latent to name."""


class Names:
    """The given names of a run, by dictionary hash and latent: a new fit has new latents and starts without any.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self._file = folder / FILE
        self._lock = Lock()

    def of(self, dictionary_hash: str) -> dict[int, GivenName]:
        """Latent to its name.

        Raises:
            ValueError: the file is damaged, or gives a latent two names; both lines are named.
        """
        return self._read().get(dictionary_hash, {})

    def give(self, dictionary_hash: str, latent: int, given: GivenName | None) -> GivenName | None:
        """Keep a name, or with None go back to the name by rule; written whole or not at all."""
        with self._lock:
            everything = self._read()
            own = everything.setdefault(dictionary_hash, {})
            own.pop(latent, None)
            if given is not None:
                given = given.model_copy(update={"when": datetime.now(UTC).isoformat(timespec="seconds")})
                own[latent] = given
            text = json.dumps(to_document(everything, KIND), indent=1, ensure_ascii=False)
            write_text_whole(self._file, text + "\n")
        return given

    def _read(self) -> dict[str, dict[int, GivenName]]:
        if not self._file.is_file():
            return {}
        try:
            content: dict[str, dict[int, GivenName]] = from_document(self._file.read_bytes(), KIND, self._file)
        except DocumentError as error:
            raise ValueError(f"{str(error).rpartition('; ')[0]}; restore it from a copy, or remove it") from None
        read_json(self._file)  # people edit this file: a latent that is named twice is refused, no name is dropped
        return content
