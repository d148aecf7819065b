"""Where tasks and votes are kept: append-only, chained by hash, on SQLite or PostgreSQL.

Every vote, every undo and every settlement is a **record** of its own that nobody changes afterwards
(the database refuses). A record carries the hash of the one before it, so a record that was altered,
taken out or slipped in shows (`Store.verify`). What stands now (`standing`, the counts of a task) is
kept beside the records, changed in the same transaction, and `verify` checks that it follows from them.

A task is leased for ten minutes. A vote after that is still taken while the task is open: somebody
looked, and offline votes come late. Only a task that was never leased to the reviewer, or that is
retired meanwhile, is refused.

This file is the door; behind it `turns` keeps votes and gives tasks (`dealing` chooses them), `records` holds the
chain, `votes` what stands, `people` reviewers and invitations, `rows` what a row of the database means.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa

from geoslave.review import database as t
from geoslave.review import people, records, turns, votes
from geoslave.review.database import Database, StoreTrouble, concerns_everybody
from geoslave.review.dealing import LEASE_SECONDS, Dealer
from geoslave.review.records import ChainCheck, Receipt
from geoslave.review.refusals import (
    AlreadyVoted,
    ChainBroken,
    InvitationRefused,
    KeyReused,
    NotAllowed,
    NotLeased,
    Retired,
    UnknownReviewer,
    UnknownTask,
    UnknownVote,
)
from geoslave.review.rows import (
    WHOLE_TASKS,
    Reviewer,
    parts,
    place_of,
    place_row,
    reviewer_of,
    rows_in,
    seconds_of,
    task_of,
    task_row,
    text_of,
)
from geoslave.review.tasks import BadVote, NoteTooLong, Place, Retirement, ReviewError, Task, Vote
from geoslave.review.turns import Taken, Turn
from geoslave.review.votes import COUNTED, Conflict, Progress, retires
from geoslave.review.writer import Writer

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = [
    "LEASE_SECONDS",
    "AlreadyVoted",
    "BadVote",
    "ChainBroken",
    "ChainCheck",
    "Conflict",
    "InvitationRefused",
    "KeyReused",
    "NotAllowed",
    "NotLeased",
    "NoteTooLong",
    "Progress",
    "Receipt",
    "Retired",
    "ReviewError",
    "Reviewer",
    "Store",
    "StoreTrouble",
    "Taken",
    "Turn",
    "UnknownReviewer",
    "UnknownTask",
    "UnknownVote",
    "open_store",
    "retires",
]

_SETTINGS_SECONDS = 5.0
_REMEMBERED_TASKS = 20_000
_IMPORTED_AT_ONCE = 10_000


def open_store(url_or_path: str | Path) -> Store:
    """Open a review's store, make it where it is not there, and bring it to this version.

    Args:
        url_or_path: a file (SQLite), or postgresql://user@host/name.

    Raises:
        ReviewError: if it cannot be opened, is something else, or was made by a newer geoslave.
        MissingExtra: if the extra `review` is not installed.
    """
    database = Database(url_or_path)
    try:
        database.migrate()
    except BaseException:
        database.close()
        raise
    return Store(database)


class Store:
    """Tasks, votes and reviewers. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer: Writer[Turn, Taken] = Writer(self._take, "review-writer", concerns_everybody)
        self._dealer = Dealer()
        self._tasks: dict[str, Task] = {}
        self._held_settings: dict[str, Any] = {}
        self._held_since = -math.inf

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._writer.close()
        self._database.close()

    @property
    def name(self) -> str:
        """The store's name as messages call it: no path, no password."""
        return self._database.name

    # ------------------------------------------------------------ settings

    def setting(self, name: str, default: Any = None) -> Any:
        """A fact about this review that was kept with `set_setting`."""
        with self._database.reading() as db:
            held = db.execute(sa.select(t.settings.c.value).where(t.settings.c.name == name)).scalar()
        return default if held is None else json.loads(held)

    def set_setting(self, name: str, value: Any) -> None:
        """Keep a fact about this review (anything JSON holds): `retirement`, `gold_share`, `unflagged_share`, ..."""
        with self._database.writing() as db:
            db.execute(sa.delete(t.settings).where(t.settings.c.name == name))
            db.execute(sa.insert(t.settings).values(name=name, value=json.dumps(value)))
        self._held_since = -math.inf

    def retirement(self) -> Retirement:
        """When tasks are done; the setting `retirement`, else the defaults."""
        return Retirement(**self.setting("retirement", {}))

    def _settings(self, db: Connection) -> dict[str, Any]:
        """All settings, looked up anew every few seconds: another process may have changed them."""
        if time.monotonic() - self._held_since > _SETTINGS_SECONDS:
            held = {row.name: json.loads(row.value) for row in db.execute(sa.select(t.settings))}
            self._held_settings, self._held_since = held, time.monotonic()
        return self._held_settings

    # ------------------------------------------------------------ tasks

    def add_tasks(self, tasks: Iterable[Task], places: Iterable[Place] = ()) -> int:
        """Add tasks and where they lie; returns how many. All of them, or on an error none.

        Raises:
            ReviewError: if a task_id is there already.
        """
        wanted = self.retirement().votes
        rows = [task_row(task, wanted) for task in tasks]
        located = [place_row(place) for place in places]
        with self._database.writing() as db:
            twice = _first_twice(db, [row["task_id"] for row in rows])
            if twice:
                raise ReviewError(f"task {twice} is there twice: a task is added once")
            for part in parts(rows):
                db.execute(sa.insert(t.tasks), part)
            for part in parts(located):
                db.execute(sa.insert(t.places), part)
        return len(rows)

    def task(self, task_id: str) -> Task:
        """Raises UnknownTask."""
        held = self._tasks.get(task_id)  # tasks never change
        if held is None:
            with self._database.reading() as db:
                held = self._remember(task_of(votes.task_row_of(db, task_id)))
        return held

    def _remember(self, task: Task) -> Task:
        if len(self._tasks) > _REMEMBERED_TASKS:
            self._tasks = {}
        self._tasks[task.task_id] = task
        return task

    def tasks(self) -> Iterator[Task]:
        """All tasks, by id."""
        with self._database.reading() as db:
            rows = db.execute(sa.select(t.tasks).order_by(t.tasks.c.task_id)).mappings().all()
        yield from (task_of(row) for row in rows)

    def tutorial(self) -> list[Task]:
        """Gold tasks that teach newcomers, by id; their answers are in them."""
        query = sa.select(t.tasks).where(t.tasks.c.tutorial != "").order_by(t.tasks.c.task_id)
        with self._database.reading() as db:
            return [task_of(row) for row in db.execute(query).mappings()]

    def places(self) -> Iterator[Place]:
        """Where tasks lie, by task_id. For coordinators and exports; never for a reviewer."""
        with self._database.reading() as db:
            rows = db.execute(sa.select(t.places).order_by(t.places.c.task_id)).mappings().all()
        yield from (place_of(row) for row in rows)

    def standings(self) -> dict[str, dict[str, Any]]:
        """Each task's `n_votes`, `retired` (agreed, conflict, settled or None) and `settled` answer."""
        query = sa.select(t.tasks.c.task_id, t.tasks.c.n_votes, t.tasks.c.retired, t.tasks.c.settled)
        with self._database.reading() as db:
            return {row["task_id"]: dict(row) for row in db.execute(query).mappings()}

    # ------------------------------------------------------------ turns: votes and leases

    def submit(self, turn: Turn) -> Future[Taken]:
        """Keep a vote, give the next tasks; turns that wait at the same time share a transaction.

        The future's result comes when all of it is on the disk. It raises StoreTrouble if the database refuses
        (full disk): nothing was accepted, send it again. Other refusals are in `Taken.refused`.
        """
        return self._writer.submit(turn)

    def _take(self, asked: Sequence[Turn]) -> list[Taken]:
        with self._database.writing(durable=any(turn.vote is not None for turn in asked)) as db:
            settings = self._settings(db)
            taken = turns.take(db, asked, self._dealer, Retirement(**settings.get("retirement", {})), settings)
            unknown = {task_id for one in taken for task_id in one.tasks if task_id not in self._tasks}
            for row in rows_in(db, WHOLE_TASKS, unknown):
                self._remember(task_of(row))
        return taken

    def lease(self, reviewer_id: str, now: datetime | None = None, held: Collection[str] = ()) -> Task | None:
        """Give the reviewer a task for ten minutes, or None when none is left for them.

        A task they hold already is given again (a page that was loaded anew), unless it is in `held`
        (a browser that fetches ahead). Otherwise: gold and unflagged tasks by their share; within these
        the lowest tier, then the fewest votes, then the reviewer's own order. A task that others hold is
        theirs, as long as it needs no more votes than they can give.

        Raises:
            UnknownReviewer: or disabled.
        """
        taken = self._turn(Turn(reviewer_id, seconds_of(now), want=1, held=frozenset(held)))
        return self.task(taken.tasks[0]) if taken.tasks else None

    def release(self, reviewer_id: str, task_id: str) -> None:
        """Hand a task back without an answer."""
        mine = (t.leases.c.reviewer_id == reviewer_id) & (t.leases.c.task_id == task_id)
        with self._database.writing() as db:
            db.execute(sa.delete(t.leases).where(mine))

    def vote(self, vote: Vote, now: datetime | None = None) -> Receipt:
        """Keep a vote, exactly once by its `key`; it is on the disk when this returns.

        Sent again it gives the same receipt. A vote that comes after its lease counts while the task is
        open (`Receipt.late`).

        Raises:
            UnknownTask, UnknownReviewer, NotLeased, Retired, AlreadyVoted: see there.
            KeyReused: if the key came before with another vote.
            BadVote: marks on a picture that is not the task's, or on a task that is no search.
            StoreTrouble: if the database refuses (full disk). The vote was not accepted: send it again.
        """
        receipt = self._turn(Turn(vote.reviewer_id, seconds_of(now), vote)).receipt
        assert receipt is not None
        return receipt

    def _turn(self, turn: Turn) -> Taken:
        taken = self.submit(turn).result()
        if taken.refused is not None:
            raise taken.refused
        return taken

    # ------------------------------------------------------------ votes

    def import_votes(self, coming: Iterable[Vote]) -> tuple[int, dict[str, int]]:
        """Keep votes made elsewhere, which were never leased here; their reviewers are added.

        Returns:
            how many were kept, and why how many were left out.
        """
        kept = 0
        left: dict[str, int] = {}
        rule = self.retirement()
        for part in votes.batches(coming, _IMPORTED_AT_ONCE):
            with self._database.writing() as db:
                kept += votes.bring_in(db, part, left, rule)
        return kept, left

    def undo(self, reviewer_id: str, vote_id: str, now: datetime | None = None) -> Receipt:
        """Take a vote back. The vote stays in the records, the undo is one of its own; the task is leased anew.

        Raises:
            UnknownReviewer: or disabled.
            UnknownVote: if the reviewer made no such vote.
            Retired: if a coordinator settled the task meanwhile.
        """
        with self._database.writing() as db:
            rule = Retirement(**self._settings(db).get("retirement", {}))
            receipt, opened = votes.undo(db, reviewer_id, vote_id, rule, text_of(now))
            if opened is not None:
                turns.lease(db, opened, reviewer_id, seconds_of(now))
        return receipt

    def settle(self, task_id: str, coordinator_id: str, answer: str, note: str = "") -> Receipt:
        """A coordinator's last word on a task; it retires. Settled again, the last one holds.

        Raises:
            UnknownTask, BadVote, NotAllowed: if the task, the answer or the coordinator is none.
        """
        vote = Vote(task_id, coordinator_id, answer, note=note, key=str(uuid4()))
        with self._database.writing() as db:
            return votes.settle(db, vote)

    def votes(self, reviewer_id: str | None = None, task_id: str | None = None) -> list[Vote]:
        """The votes that stand, in the order they came."""
        with self._database.reading() as db:
            return votes.standing_votes(db, reviewer_id, task_id)

    def count_votes(self, reviewer_id: str) -> int:
        """How many votes of a reviewer stand."""
        with self._database.reading() as db:
            return votes.count(db, reviewer_id)

    def records(self) -> list[dict[str, Any]]:
        """Everything that was ever kept, in order."""
        with self._database.reading() as db:
            return [dict(row) for row in db.execute(sa.select(t.records).order_by(t.records.c.seq)).mappings()]

    def progress(self) -> list[Progress]:
        """How far each stratum is, by name."""
        with self._database.reading() as db:
            return votes.progress(db)

    def conflicts(self) -> list[Conflict]:
        """Tasks that reviewers did not agree on and nobody settled."""
        with self._database.reading() as db:
            return votes.conflicts(db)

    def verify(self) -> ChainCheck:
        """Check every hash and that what stands follows from the records.

        Raises:
            ChainBroken: that names the first record at which it breaks.
        """
        with self._database.reading() as db:
            return records.verify(db, self.name)

    # ------------------------------------------------------------ reviewers

    def add_reviewer(
        self, name: str, role: str = "reviewer", *, reviewer_id: str | None = None, token_hash: str | None = None
    ) -> str:
        """Add a person; returns their id (opaque unless given). An id that is there already stays as it is."""
        with self._database.writing() as db:
            return people.add(db, name, role, reviewer_id, token_hash)

    def reviewer(self, reviewer_id: str) -> Reviewer:
        """Raises UnknownReviewer, also for one who is disabled."""
        with self._database.reading() as db:
            return reviewer_of(people.row_of(db, reviewer_id))

    def reviewers(self) -> list[Reviewer]:
        """All of them, in the order they came."""
        query = sa.select(t.reviewers).order_by(t.reviewers.c.created_at, t.reviewers.c.id)
        with self._database.reading() as db:
            return [reviewer_of(row) for row in db.execute(query).mappings()]

    def signed_in(self) -> dict[str, Reviewer]:
        """Everybody who holds a token and is not disabled, by its hash."""
        with self._database.reading() as db:
            return people.signed_in(db)

    def reviewer_by_token(self, token_hash: str) -> Reviewer | None:
        """Who holds the token with this hash; None if nobody does, or they are disabled."""
        with self._database.reading() as db:
            return people.by_token(db, token_hash)

    def change_reviewer(self, reviewer_id: str, **changes: Any) -> None:
        """Change `name`, `role`, `token_hash`, `disabled` or `tutorial_done`."""
        with self._database.writing() as db:
            people.change(db, reviewer_id, changes)

    def invitation(self, token_hash: str, role: str, expires: datetime) -> None:
        """Keep a one-time invitation: the hash of its token (never the token), for which role, until when."""
        with self._database.writing() as db:
            people.invite(db, token_hash, role, expires)

    def redeem(self, invitation_hash: str, name: str, token_hash: str, now: datetime | None = None) -> Reviewer:
        """Use an invitation, once: adds the reviewer, who from now on holds the token with `token_hash`.

        Raises:
            InvitationRefused: if it is unknown, used or too old.
        """
        with self._database.writing() as db:
            return people.redeem(db, invitation_hash, name, token_hash, now)


def _first_twice(db: Connection, ids: Sequence[str]) -> str | None:
    """The first id that is told twice, or is there already."""
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            return one
        seen.add(one)
    known = rows_in(db, COUNTED, seen)
    return known[0]["task_id"] if known else None
