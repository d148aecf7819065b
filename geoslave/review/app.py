"""The review page's server: FastAPI over the store, with the page's own files beside it.

Everything a route may do is decided here from the person's session; the browser is trusted with
nothing. Each answer that fails says in one line what to do (`message`). Bodies above `MAX_BODY` are
refused before they are read into memory.
"""

# no `from __future__ import annotations`: FastAPI reads the routes' annotations where they are made

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from geoslave.errors import GeoslaveError, MissingExtra

try:
    from fastapi import APIRouter, Cookie, Depends, FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, JSONResponse
    from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
    from starlette.exceptions import HTTPException
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError:  # pragma: no cover - the core install
    raise MissingExtra("the review page", "review") from None

from geoslave.review import access as a
from geoslave.review import store as s
from geoslave.review.access import Access, Limits, Throttle
from geoslave.review.overview import overview, task_map
from geoslave.review.store import Reviewer, Store
from geoslave.review.tasks import MAX_MARKS, MAX_NOTE, Mark, Task, Vote

WEB = Path(__file__).parent / "web"
OPENLAYERS = WEB / "vendor" / "ol.js"
"""Fetched by scripts/fetch_web.py; without it pictures stand still."""
MAX_BODY = 1 << 17
DRAINED = 1 << 25  # a larger body is not even read to its end
AHEAD = 10
"""Tasks a browser may ask for at once."""
PAGES = {"/": "index.html", "/coordinator": "coordinator.html", "/join": "join.html"}
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

Answer = Literal["yes", "no", "unsure", "bad_imagery", "offset"]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:@-]{1,80}$")]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MarkIn(_Body):
    x: float = Field(allow_inf_nan=False)
    y: float = Field(allow_inf_nan=False)
    picture: str = Field(max_length=300)


class VoteIn(_Body):
    task_id: Id
    answer: Answer
    marks: tuple[MarkIn, ...] = Field((), max_length=MAX_MARKS)
    note: str = ""
    key: Id
    created_at: AwareDatetime | None = None


class LeaseIn(_Body):
    want: int = Field(1, ge=1, le=AHEAD)
    held: tuple[Id, ...] = Field((), max_length=60)
    """Tasks the browser holds already."""


class JoinIn(_Body):
    token: str = Field(max_length=1000)
    name: str = Field("", max_length=80)


class TryIn(_Body):
    answer: Answer
    marks: tuple[MarkIn, ...] = Field((), max_length=MAX_MARKS)


class SettleIn(_Body):
    answer: Answer
    note: str = Field("", max_length=MAX_NOTE)


class InviteIn(_Body):
    role: Literal["reviewer", "coordinator"] = "reviewer"


class ShownIn(_Body):
    score: bool = False
    coordinates: bool = False


class PersonIn(_Body):
    disabled: bool


class Page:
    """What the routes share: the store, who may do what, the pictures' folder, and what changes seldom."""

    def __init__(self, store: Store, pictures: Path, access: Access, limits: Limits) -> None:
        self.store = store
        self.pictures = pictures.resolve()
        self.access = access
        self.limits = limits
        self.throttle = Throttle()
        self._tasks: dict[str, Task] = {}
        self._kept: dict[str, tuple[float, Any]] = {}

    def task(self, task_id: str) -> Task:
        """Tasks never change, so that they need no second look."""
        if task_id not in self._tasks:
            if len(self._tasks) > 20_000:
                self._tasks.clear()
            self._tasks[task_id] = self.store.task(task_id)
        return self._tasks[task_id]

    def kept(self, name: str, seconds: float, make: Callable[[], Any]) -> Any:
        """What is asked often and may be some seconds old."""
        made, value = self._kept.get(name, (-1e9, None))
        if time.monotonic() - made > seconds:
            value = make()
            self._kept[name] = (time.monotonic(), value)
        return value

    def forget(self, name: str) -> None:
        self._kept.pop(name, None)

    def target(self) -> str:
        """What reviewers look for, in words."""

        def ask() -> str:
            names = Counter(place.class_name for place in self.store.places() if place.class_name)
            return str(self.store.setting("looking_for") or (names.most_common(1) or [("site", 1)])[0][0])

        return str(self.kept("target", 600, ask)).replace("_", " ")

    def shown(self) -> dict[str, bool]:
        """What reviewers see beyond the pictures; nothing unless a coordinator allowed it."""
        held = self.kept("shown", 5, lambda: self.store.setting("shown", {}))
        return {name: bool(held.get(name, False)) for name in ("score", "coordinates")}

    def done_share(self) -> float:
        """How much of the whole work is done: votes given, of those that tasks get at first."""

        def ask() -> float:
            rows, each = self.store.progress(), self.store.retirement().votes
            done, total = sum(row.done + row.conflicts for row in rows), sum(row.tasks for row in rows)
            votes = sum(row.votes for row in rows)
            return max(done / total, min(votes / (total * each), 0.99)) if total else 1.0

        return float(self.kept("done", 5, ask))

    def for_reviewer(self, task: Task, reviewer: Reviewer) -> dict[str, Any]:
        """A task as a browser gets it: pictures by ticket; score and place only where allowed."""
        told = task.for_reviewer()
        ticket = self.access.ticket(reviewer, task.task_id)
        for number, picture in enumerate(told["pictures"]):
            picture["url"] = f"/pictures/{ticket}/{number}"
        shown = self.shown()
        if any(shown.values()) and task.gold is None:
            place = self.kept("places", 600, lambda: {p.task_id: p for p in self.store.places()}).get(task.task_id)
            if place is not None:
                told |= {"score": place.score} if shown["score"] else {}
                told |= {"lon": place.lon, "lat": place.lat} if shown["coordinates"] else {}
        return told


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
    app.include_router(_common(page))
    app.include_router(_reviewing(page))
    app.include_router(_coordinating(page))
    _add_files(app)
    _add_errors(app)
    app.add_middleware(_Guard, page=page)
    return app


# ---------------------------------------------------------------- who asks


def _person(page: Page) -> Callable[..., Reviewer]:
    def person(
        request: Request, geoslave_session: Annotated[str | None, Cookie(include_in_schema=False)] = None
    ) -> Reviewer:
        try:
            reviewer = page.access.who(geoslave_session)
        except a.SignedOut:
            page.throttle.pass_one(f"stranger/{_address(request)}", page.limits.stranger)
            raise
        page.throttle.pass_one(f"person/{reviewer.id}", page.limits.person)
        return reviewer

    return person


def _coordinator(page: Page) -> Callable[..., Reviewer]:
    def coordinator(reviewer: Annotated[Reviewer, Depends(_person(page))]) -> Reviewer:
        if reviewer.role != "coordinator":
            raise a.Forbidden("only coordinators see this: go back to the review page")
        return reviewer

    return coordinator


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


# ---------------------------------------------------------------- routes of everybody


def _common(page: Page) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["everybody"])
    Person = Annotated[Reviewer, Depends(_person(page))]

    @router.post("/join")
    def join(body: JoinIn, request: Request, response: Response) -> dict[str, Any]:
        """Use an invitation: the answer carries the session's cookie."""
        page.throttle.pass_one(f"join/{_address(request)}", page.limits.joining)
        if not page.access.login:
            raise a.Forbidden("nobody signs in here: this page is open to this computer alone")
        reviewer, cookie = page.access.join(body.token, body.name.strip() or "reviewer")
        secure = request.url.scheme == "https"
        days = a.SESSION_DAYS * 86_400
        response.set_cookie(a.COOKIE, cookie, max_age=days, httponly=True, samesite="strict", secure=secure)
        return {"name": reviewer.name, "role": reviewer.role}

    @router.post("/leave")
    def leave(reviewer: Person, response: Response) -> dict[str, Any]:
        """End the session."""
        page.access.leave(reviewer)
        response.delete_cookie(a.COOKIE, httponly=True, samesite="strict")
        return {"left": page.access.login}

    @router.get("/me")
    def me(reviewer: Person) -> dict[str, Any]:
        """Who is signed in, and what the page needs to begin."""
        return {
            "id": reviewer.id,
            "name": reviewer.name,
            "role": reviewer.role,
            "login": page.access.login,
            "tutorial_done": reviewer.tutorial_done,
            "answered": page.store.count_votes(reviewer.id)
            if hasattr(page.store, "count_votes")
            else len(page.store.votes(reviewer.id)),
            "done_share": page.done_share(),
            "target": page.target(),
            "max_note": MAX_NOTE,
        }

    return router


def _reviewing(page: Page) -> APIRouter:
    router = APIRouter(tags=["reviewing"])
    Person = Annotated[Reviewer, Depends(_person(page))]

    @router.post("/api/tasks/lease")
    def lease(body: LeaseIn, reviewer: Person) -> JSONResponse:
        """The next tasks, leased for ten minutes."""
        held = list(body.held)
        given = []
        for _ in range(body.want):
            task = page.store.lease(reviewer.id, held=held)
            if task is None:
                break
            held.append(task.task_id)
            given.append(page.for_reviewer(task, reviewer))
        return JSONResponse({"tasks": given, "done_share": page.done_share()})

    @router.post("/api/votes")
    def vote(body: VoteIn, reviewer: Person) -> dict[str, Any]:
        """Keep a vote. Sent again with the same key it gives the same receipt and counts once."""
        receipt = page.store.vote(
            Vote(
                body.task_id,
                reviewer.id,
                body.answer,
                tuple(Mark(mark.x, mark.y, mark.picture) for mark in body.marks),
                body.note,
                body.key,
                _plausible(body.created_at),
            )
        )
        return {"vote_id": receipt.vote_id, "repeated": receipt.repeated, "late": receipt.late}

    @router.post("/api/votes/{vote_id}/undo")
    def undo(vote_id: Id, reviewer: Person) -> dict[str, Any]:
        """Take a vote of one's own back; its task is leased anew."""
        receipt = page.store.undo(reviewer.id, vote_id)
        return {"undone": vote_id, "repeated": receipt.repeated}

    @router.get("/api/tutorial")
    def tutorial(reviewer: Person) -> dict[str, Any]:
        """Examples for newcomers, without their answers."""
        return {"tasks": [page.for_reviewer(task, reviewer) for task in page.store.tutorial()]}

    @router.post("/api/tutorial/{task_id}")
    def try_one(task_id: Id, body: TryIn, reviewer: Person) -> dict[str, Any]:
        """Whether an answer to an example is right, and why. It is no vote."""
        task = page.task(task_id)
        if not task.tutorial:
            raise s.UnknownTask("this task is no example of the tutorial: load the page again")
        said = "yes" if body.answer == "offset" else body.answer
        return {"right": said == task.gold, "expected": task.gold, "why": task.tutorial}

    @router.post("/api/tutorial")
    def tutorial_done(reviewer: Person) -> dict[str, Any]:
        """The person has seen the examples."""
        page.store.change_reviewer(reviewer.id, tutorial_done=True)
        page.access.forget()
        return {"tutorial_done": True}

    @router.get("/pictures/{ticket}/{number}", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    def picture(ticket: str, number: int, reviewer: Person) -> Response:
        """A picture of a task this person was given."""
        task = page.task(page.access.admitted(reviewer, ticket))
        if not 0 <= number < len(task.pictures):
            raise s.UnknownTask("this task has no such picture: load the page again")
        path = (page.pictures / task.pictures[number].path).resolve()
        if not path.is_relative_to(page.pictures) or not path.is_file():
            raise s.UnknownTask("a picture of this task is missing on the server: tell the coordinator")
        return Response(path.read_bytes(), headers={"Cache-Control": "private, no-store"}, media_type="image/png")

    return router


# ---------------------------------------------------------------- routes of coordinators


def _coordinating(page: Page) -> APIRouter:
    router = APIRouter(prefix="/api/coordinator", tags=["coordinating"])
    Person = Annotated[Reviewer, Depends(_coordinator(page))]

    @router.get("/overview")
    def look(reviewer: Person) -> dict[str, Any]:
        """Progress, agreement, reviewers, and what reviewers are shown."""
        facts = page.kept("overview", 3, lambda: overview(page.store))
        return facts | {"shown": page.shown(), "target": page.target(), "login": page.access.login}

    @router.get("/conflicts")
    def conflicts(reviewer: Person) -> dict[str, Any]:
        """Tasks to settle, with the votes on them."""
        names = {one.id: one.name for one in page.store.reviewers()}
        found = page.store.conflicts()
        told = [
            page.for_reviewer(one.task, reviewer)
            | {"stratum": one.task.stratum, "votes": [_told(vote, names) for vote in one.votes]}
            for one in found[:50]
        ]
        return {"conflicts": told, "total": len(found)}

    @router.get("/tasks/{task_id}")
    def task(task_id: Id, reviewer: Person) -> dict[str, Any]:
        """One task with its votes."""
        names = {one.id: one.name for one in page.store.reviewers()}
        held = page.task(task_id)
        votes = [_told(vote, names) for vote in page.store.votes(task_id=task_id)]
        return page.for_reviewer(held, reviewer) | {"stratum": held.stratum, "gold": held.gold, "votes": votes}

    @router.post("/tasks/{task_id}/settle")
    def settle(task_id: Id, body: SettleIn, reviewer: Person) -> dict[str, Any]:
        """The last word on a task."""
        receipt = page.store.settle(task_id, reviewer.id, body.answer, body.note)
        page.forget("overview")
        return {"vote_id": receipt.vote_id, "task_id": task_id, "answer": body.answer}

    @router.get("/map")
    def where(reviewer: Person) -> dict[str, Any]:
        """Where the tasks lie, as GeoJSON."""
        collection: dict[str, Any] = page.kept("map", 3, lambda: task_map(page.store))
        return collection

    @router.post("/invitations")
    def invite(body: InviteIn, reviewer: Person) -> dict[str, Any]:
        """A link for one new person."""
        _need_login(page)
        return {"token": page.access.invite(body.role), "role": body.role, "days": a.INVITATION_DAYS}

    @router.post("/reviewers/{reviewer_id}/link")
    def link(reviewer_id: Id, reviewer: Person) -> dict[str, Any]:
        """A new link for somebody who lost their session."""
        _need_login(page)
        return {"token": page.access.invite_back(reviewer_id), "days": a.INVITATION_DAYS}

    @router.post("/reviewers/{reviewer_id}")
    def change(reviewer_id: Id, body: PersonIn, reviewer: Person) -> dict[str, Any]:
        """Shut somebody out, or let them in again. Their votes stay."""
        if reviewer_id == reviewer.id:
            raise a.Forbidden("you cannot shut yourself out: ask another coordinator")
        page.store.change_reviewer(reviewer_id, disabled=body.disabled)
        page.access.forget()
        page.forget("overview")
        return {"id": reviewer_id, "disabled": body.disabled}

    @router.post("/shown")
    def show(body: ShownIn, reviewer: Person) -> dict[str, Any]:
        """What reviewers see beyond the pictures. Seeing the score biases them."""
        page.store.set_setting("shown", body.model_dump())
        page.forget("shown")
        return {"shown": page.shown()}

    return router


def _told(vote: Vote, names: dict[str, str]) -> dict[str, Any]:
    return {
        "reviewer": names.get(vote.reviewer_id, vote.reviewer_id),
        "answer": vote.answer,
        "note": vote.note,
        "marks": [asdict(mark) for mark in vote.marks],
        "created_at": vote.created_at.isoformat(),
    }


def _need_login(page: Page) -> None:
    if not page.access.login:
        raise a.Forbidden("links are of use where people sign in: start the page with --login or --host")


def _plausible(told: datetime | None) -> datetime:
    """When the person answered, by their clock; now, where that clock cannot be right."""
    now = datetime.now(UTC)
    if told is None or not now - timedelta(days=90) <= told <= now:
        return now
    return told.astimezone(UTC)


# ---------------------------------------------------------------- files


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


# ---------------------------------------------------------------- errors


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(GeoslaveError)
    def ours(_request: Request, error: GeoslaveError) -> JSONResponse:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
        headers = {"Retry-After": str(getattr(error, "seconds", 2))} if status in (429, 503) else {}
        return JSONResponse({"message": str(error), "kind": type(error).__name__}, status, headers=headers)

    @app.exception_handler(RequestValidationError)
    def wrong(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:100].encode("utf-8", "replace").decode()
        message = f"{where}: {first['msg']}: load the page again"
        return JSONResponse({"message": message, "kind": "BadRequest"}, 422)

    @app.exception_handler(HTTPException)
    def http(_request: Request, error: HTTPException) -> JSONResponse:
        message = "there is nothing here: go to the review page, /" if error.status_code == 404 else str(error.detail)
        return JSONResponse({"message": message, "kind": "Http"}, error.status_code, headers=error.headers)


class _Guard:
    """Before any route: size, origin and place of a request; after it: the security headers."""

    def __init__(self, app: ASGIApp, page: Page) -> None:
        self.app = app
        self.page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _with_headers(send, scope)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            host = headers.get("host", "")
            if not self.page.access.login:
                a.check_local(host, set(headers))
            a.check_origin(scope["method"], host, headers.get("origin"), headers.get("sec-fetch-site"))
        except a.Forbidden as error:
            await JSONResponse({"message": str(error), "kind": "Forbidden"}, 403)(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MAX_BODY:
            if int(length) <= DRAINED:
                await _drain(receive)
            await _too_large(scope, receive, send)
            return
        await self._bounded(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A body that does not say its length is cut off where it grows too large."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise _TooLarge
            return message

        async def unless_too_large(message: Message) -> None:
            if seen <= MAX_BODY:
                await send(message)

        with suppress(_TooLarge):
            await self.app(scope, counted, unless_too_large)
        if seen > MAX_BODY:
            await _too_large(scope, receive, send)


class _TooLarge(Exception):
    pass


async def _drain(receive: Receive) -> None:
    """Read a body to nowhere, so that a browser that is still sending gets our answer."""
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    message = f"what was sent is larger than {MAX_BODY >> 10} kB: a note has at most {MAX_NOTE} characters"
    await JSONResponse({"message": message, "kind": "TooLarge"}, 413, {"Connection": "close"})(scope, receive, send)


def _with_headers(send: Send, scope: Scope) -> Callable[[Message], Awaitable[None]]:
    added = [(k.lower().encode(), v.encode()) for k, v in a.security_headers(scope.get("scheme") == "https").items()]

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            held = {name.lower() for name, _ in message["headers"]}
            extra = added + ([] if b"cache-control" in held else [(b"cache-control", b"no-store")])
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return with_headers
