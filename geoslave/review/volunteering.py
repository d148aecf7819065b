"""Routes of everybody who reviews: joining, tasks, votes, examples, pictures.

Votes and leases are what two hundred people send at once, so these routes stay in the event loop: they wait for the
store's writer and hold no thread of their own. What reads a file or asks the database runs in a thread.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from geoslave.review import access as a
from geoslave.review.bodies import Id, JoinIn, LeaseIn, TryIn, VoteIn
from geoslave.review.page import Page, address_of, person_of
from geoslave.review.store import Reviewer, Taken, Turn, UnknownTask
from geoslave.review.tasks import MAX_NOTE, Mark, Vote


def everybodys(page: Page) -> APIRouter:
    """Coming, going, and who one is."""
    router = APIRouter(prefix="/api", tags=["everybody"])
    Person = Annotated[Reviewer, Depends(person_of(page))]

    @router.post("/join")
    def join(body: JoinIn, request: Request, response: Response) -> dict[str, Any]:
        """Use an invitation: the answer carries the session's cookie."""
        page.throttle.pass_one(f"join/{address_of(request)}", page.limits.joining)
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
            "answered": page.store.count_votes(reviewer.id),
            "done_share": page.done_share(),
            "target": page.target(),
            "max_note": MAX_NOTE,
        }

    return router


def reviewing(page: Page) -> APIRouter:
    """Tasks and votes."""
    router = APIRouter(tags=["reviewing"])
    Person = Annotated[Reviewer, Depends(person_of(page))]

    async def take(turn: Turn) -> Taken:
        taken = await asyncio.wrap_future(page.store.submit(turn))
        if taken.refused is not None:
            raise taken.refused
        return taken

    @router.post("/api/tasks/lease")
    async def lease(body: LeaseIn, reviewer: Person) -> JSONResponse:
        """The next tasks, leased for ten minutes."""
        taken = await take(Turn(reviewer.id, time.time(), want=body.want, held=frozenset(body.held)))
        return JSONResponse(await page.given(taken.tasks, reviewer))

    @router.post("/api/votes")
    async def vote(body: VoteIn, reviewer: Person) -> JSONResponse:
        """Keep a vote, and give the next tasks if some are wanted.

        Sent again with the same key it gives the same receipt and counts once.
        """
        vote = _vote_of(body, reviewer)
        taken = await take(Turn(reviewer.id, time.time(), vote, body.want, frozenset((*body.held, body.task_id))))
        receipt = taken.receipt
        assert receipt is not None
        told = {"vote_id": receipt.vote_id, "repeated": receipt.repeated, "late": receipt.late}
        return JSONResponse(told | (await page.given(taken.tasks, reviewer) if body.want else {}))

    @router.post("/api/votes/{vote_id}/undo")
    def undo(vote_id: Id, reviewer: Person) -> dict[str, Any]:
        """Take a vote of one's own back; its task is leased anew."""
        receipt = page.store.undo(reviewer.id, vote_id)
        return {"undone": vote_id, "repeated": receipt.repeated}

    @router.get("/pictures/{ticket}/{number}", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    async def picture(ticket: str, number: int, reviewer: Person) -> Response:
        """A picture of a task this person was given."""
        task_id = page.access.admitted(reviewer, ticket)
        content = await run_in_threadpool(_picture, page, task_id, number)
        return Response(content, headers={"Cache-Control": "private, no-store"}, media_type="image/png")

    return router


def learning(page: Page) -> APIRouter:
    """The examples that newcomers see first."""
    router = APIRouter(prefix="/api/tutorial", tags=["reviewing"])
    Person = Annotated[Reviewer, Depends(person_of(page))]

    @router.get("")
    def tutorial(reviewer: Person) -> dict[str, Any]:
        """Examples for newcomers, without their answers."""
        return {"tasks": [page.for_reviewer(task, reviewer) for task in page.store.tutorial()]}

    @router.post("/{task_id}")
    def try_one(task_id: Id, body: TryIn, reviewer: Person) -> dict[str, Any]:
        """Whether an answer to an example is right, and why. It is no vote."""
        task = page.store.task(task_id)
        if not task.tutorial:
            raise UnknownTask("this task is no example of the tutorial: load the page again")
        said = "yes" if body.answer == "offset" else body.answer
        return {"right": said == task.gold, "expected": task.gold, "why": task.tutorial}

    @router.post("")
    def tutorial_done(reviewer: Person) -> dict[str, Any]:
        """The person has seen the examples."""
        page.store.change_reviewer(reviewer.id, tutorial_done=True)
        page.access.forget()
        return {"tutorial_done": True}

    return router


def _vote_of(body: VoteIn, reviewer: Reviewer) -> Vote:
    marks = tuple(Mark(mark.x, mark.y, mark.picture) for mark in body.marks)
    return Vote(body.task_id, reviewer.id, body.answer, marks, body.note, body.key, _plausible(body.created_at))


def _plausible(told: datetime | None) -> datetime:
    """When the person answered, by their clock; now, where that clock cannot be right."""
    now = datetime.now(UTC)
    if told is None or not now - timedelta(days=90) <= told <= now:
        return now
    return told.astimezone(UTC)


def _picture(page: Page, task_id: str, number: int) -> bytes:
    """
    Raises:
        UnknownTask: if there is none, or it lies outside the folder.
    """
    task, folder = page.store.task(task_id), page.pictures
    if not 0 <= number < len(task.pictures):
        raise UnknownTask("this task has no such picture: load the page again")
    path = (folder / task.pictures[number].path).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise UnknownTask("a picture of this task is missing on the server: tell the coordinator")
    return path.read_bytes()
