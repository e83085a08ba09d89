"""The explorer's server: pages and an API over one finished run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from seglens.documents import to_document
from seglens.explorer import cases, comparing, exporting, latents, proposing, volumes, zeroing
from seglens.explorer.names import Names
from seglens.explorer.opened import OpenedRun, UnknownError
from seglens.explorer.state import CurrentState, State
from seglens.summaries import summary_of

AT_ONCE = 4
"""Requests, besides one that needs a survey (see `State.surveying`)."""
STATIC = Path(__file__).parent / "static"
overview = APIRouter(tags=["overview"])


@overview.get("/overview")
def overview_of_run(state: CurrentState) -> dict[str, Any]:
    """The run's summary (see summary.json), and what of it can be opened."""
    summary = summary_of(state.run.run)
    return {
        "summary": to_document(summary) if summary else {},
        "segmenters": state.run.segmenters,
        "cohorts": state.run.cohorts,
    }


def create_app(run: Path) -> FastAPI:
    """The app over a finished run, without its guard (see `seglens.explorer.serving`).

    Args:
        run: folder of a finished run.

    Raises:
        ValueError: there is nothing to look at.
    """
    app = FastAPI(
        title="Med-SegLens explorer",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=_few_at_once,
    )
    app.state.explorer = State(OpenedRun(run), Names(run))
    app.include_router(overview, prefix="/api")
    for module in (zeroing, latents, cases, proposing, comparing, exporting, volumes):
        app.include_router(module.router, prefix="/api")
    app.add_exception_handler(UnknownError, _unknown)
    app.add_exception_handler(ValueError, _refused)
    app.add_exception_handler(RequestValidationError, _misread)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/{page:path}", include_in_schema=False)
    def page(page: str) -> FileResponse:
        """Every address that is no other is the one page, which reads the rest of the address itself."""
        if page.startswith("api/"):
            raise UnknownError(f"no /{page}")
        return FileResponse(STATIC / "index.html")

    return app


@asynccontextmanager
async def _few_at_once(_: FastAPI) -> AsyncIterator[None]:
    """One person looks: forty threads would run no network faster, and each keeps the memory that it once used."""
    current_default_thread_limiter().total_tokens = AT_ONCE
    yield


def _unknown(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=404)


def _refused(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=422)


def _misread(request: Request, error: Exception) -> JSONResponse:
    """Name what is wrong with a request, field by field; its values are left out, for a NaN among them is no JSON."""
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, fault['loc'][1:])) or 'the body'}: {fault['msg']}" for fault in error.errors()]
    return JSONResponse({"detail": "; ".join(faults)}, status_code=422)
