"""The page of a search: FastAPI over a desk, for the person at this computer.

It answers to 127.0.0.1 alone and to no other page in the same browser, by the rules of the review page
(`review.access`); there is no login, for nobody else can reach it. What one wants others to answer goes to them as
review tasks.
"""

# no `from __future__ import annotations`: FastAPI reads the routes' annotations where they are made

import json
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import geoslave.review
from geoslave.errors import GeoslaveError, MissingExtra

try:
    from fastapi import APIRouter, FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, JSONResponse
    from pydantic import BaseModel, ConfigDict, Field
    from starlette.exceptions import HTTPException
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError:  # pragma: no cover - the core install
    raise MissingExtra("the page of a search", "review") from None

from geoslave.review.access import Forbidden, check_local, check_origin
from geoslave.review.guard import with_headers
from geoslave.search import SearchError
from geoslave.search import labels as l
from geoslave.search import pages as d
from geoslave.search import pictures as p
from geoslave.search.pages import Desk
from geoslave.search.training import FEWEST_NEGATIVES, FEWEST_SITES

WEB = Path(__file__).parent / "web"
_REVIEW = Path(geoslave.review.__file__).parent / "web"
_SHARED = ("style.css", "theme.js", "api.js")
"""Files of the review page that this one uses."""
PROGRESS = "training.json"
MAX_BODY = 1 << 17


class TrainingRefused(SearchError):
    """A training is running, or too little is known to train with."""


STATUS: dict[type[GeoslaveError], int] = {
    Forbidden: 403,
    p.NoSuchChip: 404,
    d.NotOnPage: 409,
    d.PageNotDone: 409,
    d.NothingToUndo: 409,
    TrainingRefused: 409,
    l.BadMark: 422,
}
"""Error -> HTTP status; others of ours are 400."""

Share = Annotated[float, Field(ge=-1, le=2, allow_inf_nan=False)]
Corner = tuple[Share, Share]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AnswerIn(_Body):
    chip: Id
    answer: Literal["yes", "no", "unsure"] | None
    at: Corner | None = None


class RestIn(_Body):
    answer: Literal["no", "unsure"]


class MarksIn(_Body):
    marks: tuple[Annotated[tuple[Corner, ...], Field(max_length=l.MOST_CORNERS)], ...] = Field(max_length=l.MOST_MARKS)


class NextIn(_Body):
    then: Literal["ranking", "model", "place"] | None = None


class TrainIn(_Body):
    start_from: str | None = Field(None, max_length=200, pattern=r"^[A-Za-z0-9_.-]+$")


class Training:
    """A training in a process of its own: it may take hours, and the page goes on."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self._folder = folder
        self._command = tuple(command)
        self._process: subprocess.Popen[str] | None = None
        self._follower: threading.Thread | None = None
        self._turn = threading.Lock()
        self._told: dict[str, Any] = {}

    def start(self, more: Sequence[str]) -> None:
        """
        Raises:
            TrainingRefused: if one is running.
        """
        with self._turn:
            if self.running:
                raise TrainingRefused("a training is running already: wait for it, or stop it")
            (self._folder / PROGRESS).unlink(missing_ok=True)
            self._told = {}
            self._process = subprocess.Popen(
                [*self._command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            self._follower = threading.Thread(target=self._follow, args=(self._process,), daemon=True)
            self._follower.start()

    @property
    def running(self) -> bool:
        """Until it is known how it ended: else a failed one would look like the good one before it."""
        return self._follower is not None and self._follower.is_alive()

    def stop(self) -> None:
        """End it; nothing of it is kept."""
        if self._process is not None and self.running:
            self._process.terminate()

    def state(self) -> dict[str, Any]:
        """running, how far it is, what went wrong, and the last model of this campaign."""
        running = self.running
        return {
            "running": running,
            "progress": _read(self._folder / PROGRESS) if running else None,
            "failed": self._told.get("failed"),
            "last": _read(self._folder / "trained.json"),
        }

    def _follow(self, process: "subprocess.Popen[str]") -> None:
        _, said = process.communicate()
        if process.returncode:
            lines = [line for line in said.splitlines() if line.strip() and not line.startswith("Note:")]
            self._told = {"failed": (lines or ["it was stopped"])[-1].removeprefix("Error: ")}


def create_app(desk: Desk, train_command: Sequence[str] = ()) -> FastAPI:
    """The page of a search as an ASGI application.

    Args:
        train_command: what trains this campaign (see `training_command`); without it the page offers none.
    """
    training = Training(desk.campaign.folder, train_command) if train_command else None
    app = FastAPI(title="geoslave search", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.training = training
    app.include_router(_looking(desk, training))
    app.include_router(_answering(desk))
    app.include_router(_training(desk, training))
    _add_files(app)
    _add_errors(app)
    app.add_middleware(_Guard)
    return app


def training_command(campaign: Path) -> list[str]:
    """The command that trains a campaign, in this installation."""
    return [sys.executable, "-m", "geoslave.cli.main", "search", "train", str(campaign), "--json"]


# ---------------------------------------------------------------- routes


def _looking(desk: Desk, training: Training | None) -> APIRouter:
    router = APIRouter(tags=["looking"])

    @router.get("/api/round")
    def round_() -> dict[str, Any]:
        """The page on the desk, and what the round says."""
        return _round(desk, training)

    @router.get("/api/target")
    def target() -> dict[str, Any]:
        """What is sought."""
        sought = desk.target
        settings = desk.campaign.index.settings
        return {
            "name": sought.name,
            "title": sought.title,
            "shows": sought.shows,
            "season": sought.season,
            "dates": sought.dates,
            "lookalikes": list(sought.lookalikes),
            "typical_m": list(sought.typical_m),
            "sourced": "typical_m" in sought.sources,
            "frame_m": round(settings.core_px * float(desk.campaign.index.facts["reading"]["gsd_m"])),
            "campaign": desk.campaign.name,
            "fewest_sites": FEWEST_SITES,
            "fewest_negatives": FEWEST_NEGATIVES,
            "can_train": training is not None,
        }

    @router.get("/api/chips/{chip}")
    def chip(chip: Id) -> dict[str, Any]:
        """The large view of a chip."""
        return desk.chip(chip)

    @router.get("/pictures/{chip}/{view}", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    def picture(chip: Id, view: Literal["small", "large"], scene: str = "") -> Response:
        """A chip's picture; with `scene`, the same ground in another scene."""
        png = desk.pictures.png(chip, view, scene[:200])
        return Response(png, headers={"Cache-Control": "private, max-age=3600"}, media_type="image/png")

    return router


def _answering(desk: Desk) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["answering"])

    @router.post("/answer")
    def answer(body: AnswerIn) -> dict[str, Any]:
        """Answer for a chip of the page; null takes the answer back."""
        desk.answer(body.chip, body.answer, body.at)
        return desk.page()

    @router.post("/rest")
    def rest(body: RestIn) -> dict[str, Any]:
        """Answer for all chips of the page that wait."""
        desk.answer_rest(body.answer)
        return desk.page()

    @router.post("/chips/{chip}/marks")
    def marks(chip: Id, body: MarksIn) -> dict[str, Any]:
        """Keep where sites lie on a chip: shares of the large picture's side; one corner is a point."""
        desk.mark(chip, body.marks)
        return desk.page()

    @router.post("/undo")
    def undo() -> dict[str, Any]:
        """Take the last step on this page back."""
        back = desk.undo()
        return {**desk.page(), "undone": back}

    @router.post("/next")
    def next_(body: NextIn) -> dict[str, Any]:
        """Hand the page in; the next one is drawn from all answers so far."""
        if body.then == "place" and desk.page()["open"]:
            desk.lay_out("place")
        else:
            desk.hand_in(body.then)
        return {"page": desk.page(), "round": desk.round()}

    return router


def _training(desk: Desk, training: Training | None) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["training"])

    def known() -> Training:
        if training is None:
            raise Forbidden("this page cannot train: run  geoslave search train")
        return training

    @router.get("/training")
    def state() -> dict[str, Any]:
        """How far a training is."""
        told = known().state()
        if not told["running"]:
            desk.forget_round()
        return told

    @router.post("/training")
    def start(body: TrainIn) -> dict[str, Any]:
        """Train a model on what is known, look with it, and ask about what it is unsure of."""
        round_ = desk.round()
        if not round_["ready"]:
            raise TrainingRefused(f"too little to train with: {' and '.join(round_['missing'])}")
        known().start(["--start-from", body.start_from] if body.start_from else [])
        return known().state()

    @router.post("/training/stop")
    def stop() -> dict[str, Any]:
        """End a training."""
        known().stop()
        return known().state()

    return router


def _round(desk: Desk, training: Training | None) -> dict[str, Any]:
    return {
        "page": desk.page(),
        "round": desk.round(),
        "training": None if training is None else training.state(),
    }


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# ---------------------------------------------------------------- files, errors, the guard


def _add_files(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(WEB / "search.html", headers={"Cache-Control": "no-cache"})

    @app.get("/web/{name}", include_in_schema=False)
    def web(name: str) -> FileResponse:
        folder = _REVIEW if name in _SHARED else WEB
        file = (folder / name).resolve()
        if not file.is_relative_to(folder.resolve()) or not file.is_file() or file.suffix == ".html":
            raise HTTPException(404)
        return FileResponse(file, headers={"Cache-Control": "no-cache"})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(GeoslaveError)
    def ours(_request: Request, error: GeoslaveError) -> JSONResponse:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
        return JSONResponse({"message": str(error), "kind": type(error).__name__}, status)

    @app.exception_handler(RequestValidationError)
    def wrong(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:100].encode("utf-8", "replace").decode()
        message = f"{where}: {first['msg']}: load the page again"
        return JSONResponse({"message": message, "kind": "BadRequest"}, 422)

    @app.exception_handler(HTTPException)
    def http(_request: Request, error: HTTPException) -> JSONResponse:
        message = "there is nothing here: go to the page of the search, /" if error.status_code == 404 else error.detail
        return JSONResponse({"message": str(message), "kind": "Http"}, error.status_code, headers=error.headers)


class _Guard:
    """Before any route: who asks, from where, how much; after it: the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = with_headers(send, scope)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        try:
            check_local(host, set(headers))
            check_origin(scope["method"], host, headers.get("origin"), headers.get("sec-fetch-site"))
        except Forbidden as error:
            await JSONResponse({"message": str(error), "kind": "Forbidden"}, 403)(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            message = f"what was sent is larger than {MAX_BODY >> 10} kB: load the page again"
            answer = JSONResponse({"message": message, "kind": "TooLarge"}, 413, {"Connection": "close"})
            await answer(scope, receive, send)
            return
        await self.app(scope, _again(body, receive), send)


async def _body(receive: Receive) -> bytes | None:
    """The whole body of a request; None where it is too large."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """The body that was read, then whatever else comes."""
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once
