"""The review page's server: FastAPI over the store, with the page's own files beside it.

Everything a route may do is decided from the person's session; the browser is trusted with nothing. Each
answer that fails says in one line what to do (`message`). Bodies above `guard.MAX_BODY` are refused before they
are read into memory. The routes are in `volunteering` and `coordinating`, what they share in `page`.
"""

# no `from __future__ import annotations`: FastAPI reads the routes' annotations where they are made

from collections.abc import Callable
from pathlib import Path

from geoslave.errors import GeoslaveError, MissingExtra

try:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, JSONResponse
    from starlette.exceptions import HTTPException
except ImportError:  # pragma: no cover - the core install
    raise MissingExtra("the review page", "review") from None

from geoslave.review import access as a
from geoslave.review import store as s
from geoslave.review.access import Access, Limits
from geoslave.review.coordinating import coordinating
from geoslave.review.guard import Guard
from geoslave.review.page import Page
from geoslave.review.store import Store
from geoslave.review.volunteering import everybodys, learning, reviewing

WEB = Path(__file__).parent / "web"
OPENLAYERS = WEB / "vendor" / "ol.js"
"""Fetched by scripts/fetch_web.py; without it pictures stand still."""
PAGES = {"/": "index.html", "/coordinator": "coordinator.html", "/join": "join.html", "/offline.js": "offline.js"}
"""Route -> file. A service worker rules over what lies beside it, so that its file is at the top."""
STATUS: dict[type[GeoslaveError], int] = {
    a.SignedOut: 401,
    s.UnknownReviewer: 401,
    a.Forbidden: 403,
    s.NotLeased: 403,
    s.NotAllowed: 403,
    s.InvitationRefused: 403,
    s.UnknownTask: 404,
    s.UnknownVote: 404,
    s.Retired: 409,
    s.AlreadyVoted: 409,
    s.KeyReused: 409,
    s.NoteTooLong: 413,
    s.BadVote: 422,
    a.TooOften: 429,
    s.StoreTrouble: 503,
}
"""Error -> HTTP status; others of ours are 400."""


def create_app(store: Store, pictures: Path, *, login: bool = False, limits: Limits | None = None) -> FastAPI:
    """The review page as an ASGI application.

    Args:
        store: where tasks and votes are kept.
        pictures: the folder that tasks' picture paths are relative to.
        login: people sign in; else there is one local reviewer, and requests must come from this computer.
        limits: requests a second; the default suits people.
    """
    page = Page(store, pictures, Access(store, login=login), limits or Limits())
    app = FastAPI(title="geoslave review", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.page = page
    for router in (everybodys(page), reviewing(page), learning(page), coordinating(page)):
        app.include_router(router)
    _add_files(app)
    _add_errors(app)
    app.add_middleware(Guard, login=login)
    return app


def _add_files(app: FastAPI) -> None:
    for route, name in PAGES.items():
        app.add_api_route(route, _file_route(WEB / name), include_in_schema=False)

    @app.get("/web/{path:path}", include_in_schema=False)
    def web(path: str) -> FileResponse:
        file = (WEB / path).resolve()
        if not file.is_relative_to(WEB.resolve()) or not file.is_file() or file.suffix == ".html":
            raise HTTPException(404)
        return FileResponse(file, headers={"Cache-Control": "no-cache"})


def _file_route(path: Path) -> Callable[[], FileResponse]:
    def page() -> FileResponse:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    return page


def _add_errors(app: FastAPI) -> None:
    """Every refusal as one line of JSON."""

    @app.exception_handler(GeoslaveError)
    async def ours(_request: Request, error: GeoslaveError) -> JSONResponse:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
        headers = {"Retry-After": str(getattr(error, "seconds", 2))} if status in (429, 503) else {}
        return JSONResponse({"message": str(error), "kind": type(error).__name__}, status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def wrong(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:100].encode("utf-8", "replace").decode()
        message = f"{where}: {first['msg']}: load the page again"
        return JSONResponse({"message": message, "kind": "BadRequest"}, 422)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        message = "there is nothing here: go to the review page, /" if error.status_code == 404 else str(error.detail)
        return JSONResponse({"message": message, "kind": "Http"}, error.status_code, headers=error.headers)
