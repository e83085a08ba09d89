"""Export what is shown: the table of latents with the names that people gave, and the map's places."""

import io
from collections.abc import Iterator
from typing import Literal

import numpy as np
import polars as pl
from anyio.to_thread import run_sync
from fastapi import APIRouter, Response

from seglens.explorer.answers import BINARY, arrays_answer
from seglens.explorer.opened import Opened, OpenedRun
from seglens.explorer.state import CurrentState, State
from seglens.explorer.zeroing import measured_effects

router = APIRouter(prefix="/segmenters/{segmenter}", tags=["share"])
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes text that begins so for a formula."""
PART = 2048
TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json", "parquet": "application/vnd.apache.parquet"}


@router.get("/export", response_class=Response)
def export(segmenter: str, state: CurrentState, form: Literal["csv", "json", "parquet"] = "csv") -> Response:
    """All latents as a file: what was measured, effects on Dice as far as they were, and the given names."""
    opened = state.run.opened(segmenter)
    table = _named(opened, state)
    if form == "csv":
        text = [
            pl.col(name).map_elements(_as_text, pl.String) for name, kind in table.schema.items() if kind == pl.String
        ]
        body = table.with_columns(text).write_csv().encode()
    elif form == "json":
        body = table.fill_nan(None).write_json().encode()
    else:
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        body = buffer.getvalue()
    attached = {"content-disposition": f'attachment; filename="latents.{form}"'}
    return Response(body, media_type=TYPES[form], headers=attached)


@router.get("/map", response_class=Response, responses=BINARY)
async def places(segmenter: str, state: CurrentState, of: Literal["decoder", "codes"] = "decoder") -> Response:
    """Every latent's place in two dimensions: the two leading principal components, and the share that they explain.

    Of its unit decoder direction, or of its codes (square roots of its mass in each surveyed slice, scaled to length
    1). Nothing is sampled away; latents without mass in these slices have no place by codes (NaN).
    """
    limiter = state.surveying if of == "codes" else None
    return await run_sync(_places, state.run, segmenter, of, limiter=limiter)


def principal_places(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows, scaled to length 1, along the two directions in which they differ most.

    By the covariance of the columns, a part of the rows at a time: of a dictionary of 100 MB no copy is made.

    Args:
        rows: [n d]; rows of zeros have no place (NaN).

    Returns:
        Places [n 2], float32, and the share of the squared differences that they show, 0..1.
    """
    width = rows.shape[1]
    total, products, n = np.zeros(width), np.zeros((width, width)), 0
    for _, part in _unit_rows(rows):
        total += part.sum(0)
        products += part.T @ part
        n += len(part)
    found = np.full((len(rows), 2), np.nan, dtype=np.float32)
    if n == 0:
        return found, 0.0
    mean = total / n
    sizes, directions = np.linalg.eigh(products - n * np.outer(mean, mean))
    chosen = directions[:, ::-1][:, :2]
    chosen = np.pad(chosen * np.sign(chosen[0] + 1e-30), [(0, 0), (0, 2 - chosen.shape[1])])
    for known, part in _unit_rows(rows):
        found[known] = (part - mean.astype(np.float32)) @ chosen.astype(np.float32)
    return found, float(sizes[-2:].sum() / max(sizes.sum(), 1e-30))


def _places(run: OpenedRun, segmenter: str, of: str) -> Response:
    opened = run.opened(segmenter)
    if of == "decoder":
        rows = opened.dictionary.W_dec.detach().numpy()
    else:
        rows = np.sqrt(np.maximum(run.survey(opened).mass.T, 0))
    found, explained = principal_places(rows)
    return arrays_answer({"places": found}, {"explained": explained, "of": of})


def _unit_rows(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers and values of the rows that are not all zero, at most `PART` at a time, each of length 1."""
    for start in range(0, len(rows), PART):
        part = rows[start : start + PART]
        length = np.linalg.norm(part, axis=1)
        known = length.nonzero()[0]
        yield known + start, part[known] / length[known, None]


def _named(opened: Opened, state: State) -> pl.DataFrame:
    given = state.names.of(opened.dictionary_hash)
    latents = range(opened.atlas.n_latents)
    own = {
        f"given_{field}": [getattr(given[latent], field) if latent in given else None for latent in latents]
        for field in ("name", "who", "when")
    }
    sure = [given[latent].confidence if latent in given else None for latent in latents]
    texts = [pl.Series(name, values, dtype=pl.String) for name, values in own.items()]
    effects = measured_effects(opened).get_columns()
    return opened.atlas.table.with_columns(*effects, *texts, pl.Series("given_confidence", sure, dtype=pl.Float64))


def _as_text(value: str) -> str:
    return f"'{value}" if value.startswith(FORMULA_STARTS) else value
