"""What the routes of the review page share: the store, who asks and what they are told."""

import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

from fastapi import Cookie, Depends, Request
from starlette.concurrency import run_in_threadpool

from geoslave.review import access as a
from geoslave.review.access import Access, Limits, Throttle
from geoslave.review.store import Reviewer, Store
from geoslave.review.tasks import Task

SHARE_S = 5.0
"""How old what is told of the whole work may be."""


class Page:
    """The store, who may do what, the pictures' folder, and what changes seldom."""

    def __init__(self, store: Store, pictures: Path, access: Access, limits: Limits) -> None:
        self.store = store
        self.pictures = pictures.resolve()
        self.access = access
        self.limits = limits
        self.throttle = Throttle()
        self._kept: dict[str, tuple[float, Any]] = {}
        self._making = threading.RLock()

    # ------------------------------------------------------------ what may be some seconds old

    def kept(self, name: str, seconds: float, make: Callable[[], Any]) -> Any:
        """What is asked often and may be some seconds old; made by one, while others wait."""
        if self._age(name) > seconds:
            with self._making:
                if self._age(name) > seconds:
                    self._kept[name] = (time.monotonic(), make())
        return self._kept[name][1]

    def forget(self, name: str) -> None:
        with self._making:
            if name in self._kept:
                self._kept[name] = (-1e9, self._kept[name][1])

    def _age(self, name: str) -> float:
        return time.monotonic() - self._kept.get(name, (-1e9, None))[0]

    def target(self) -> str:
        """What reviewers look for, in words."""

        def ask() -> str:
            names = Counter(place.class_name for place in self.store.places() if place.class_name)
            return str(self.store.setting("looking_for") or (names.most_common(1) or [("site", 1)])[0][0])

        return str(self.kept("target", 600, ask)).replace("_", " ")

    def shown(self) -> dict[str, bool]:
        """What reviewers see beyond the pictures; nothing unless a coordinator allowed it."""
        held = self.kept("shown", SHARE_S, lambda: self.store.setting("shown", {}))
        return {name: bool(held.get(name, False)) for name in ("score", "coordinates")}

    def done_share(self) -> float:
        """How much of the whole work is done: votes given, of those that tasks get at first."""

        def ask() -> float:
            rows, each = self.store.progress(), self.store.retirement().votes
            done, total = sum(row.done + row.conflicts for row in rows), sum(row.tasks for row in rows)
            votes = sum(row.votes for row in rows)
            return max(done / total, min(votes / (total * each), 0.99)) if total else 1.0

        return float(self.kept("done", SHARE_S, ask))

    # ------------------------------------------------------------ what a browser gets

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

    async def given(self, task_ids: Iterable[str], reviewer: Reviewer) -> dict[str, Any]:
        """The next tasks, and how far the whole work is."""

        def tell() -> dict[str, Any]:
            tasks = [self.for_reviewer(self.store.task(task_id), reviewer) for task_id in task_ids]
            return {"tasks": tasks, "done_share": self.done_share()}

        at_hand = max(self._age("shown"), self._age("done")) < SHARE_S and not any(self.shown().values())
        return tell() if at_hand else await run_in_threadpool(tell)  # it may ask the database


# ---------------------------------------------------------------- who asks


def person_of(page: Page) -> Callable[..., Awaitable[Reviewer]]:
    async def person(
        request: Request, geoslave_session: Annotated[str | None, Cookie(include_in_schema=False)] = None
    ) -> Reviewer:
        try:
            reviewer = page.access.known(geoslave_session)
            if reviewer is None:
                reviewer = await run_in_threadpool(page.access.who, geoslave_session)
        except a.SignedOut:
            page.throttle.pass_one(f"stranger/{address_of(request)}", page.limits.stranger)
            raise
        page.throttle.pass_one(f"person/{reviewer.id}", page.limits.person)
        return reviewer

    return person


def coordinator_of(page: Page) -> Callable[..., Awaitable[Reviewer]]:
    async def coordinator(reviewer: Annotated[Reviewer, Depends(person_of(page))]) -> Reviewer:
        if reviewer.role != "coordinator":
            raise a.Forbidden("only coordinators see this: go back to the review page")
        return reviewer

    return coordinator


def address_of(request: Request) -> str:
    return request.client.host if request.client else "unknown"
