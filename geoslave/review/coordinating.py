"""Routes of coordinators: progress, conflicts to settle, people, what reviewers are shown."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from geoslave.review import access as a
from geoslave.review.bodies import Id, InviteIn, PersonIn, SettleIn, ShownIn
from geoslave.review.overview import overview, task_map
from geoslave.review.page import Page, coordinator_of
from geoslave.review.store import Reviewer
from geoslave.review.tasks import Vote


def coordinating(page: Page) -> APIRouter:
    """Progress, conflicts, people."""
    router = APIRouter(prefix="/api/coordinator", tags=["coordinating"])
    Person = Annotated[Reviewer, Depends(coordinator_of(page))]

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
        held = page.store.task(task_id)
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
