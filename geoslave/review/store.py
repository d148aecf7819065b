"""Where tasks and votes are kept: append-only, chained by hash, on SQLite or PostgreSQL.

Every vote, every undo and every settlement is a **record** of its own that nobody changes afterwards
(the database refuses). A record carries the hash of the one before it, so a record that was altered,
taken out or slipped in shows (`Store.verify`). What stands now (`standing`, the counts of a task) is
kept beside the records, changed in the same transaction, and `verify` checks that it follows from them.

A task is leased for ten minutes. A vote after that is still taken while the task is open: somebody
looked, and offline votes come late. Only a task that was never leased to the reviewer, or that is
retired meanwhile, is refused.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa

from geoslave.review import database as t
from geoslave.review.database import Database, StoreTrouble
from geoslave.review.tasks import (
    BadVote,
    Mark,
    NoteTooLong,
    Place,
    Pool,
    Retirement,
    ReviewError,
    Task,
    Vote,
    is_id,
    picture_from_dict,
    picture_to_dict,
    plain_text,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = [
    "LEASE_SECONDS",
    "AlreadyVoted",
    "BadVote",
    "ChainBroken",
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
    "UnknownReviewer",
    "UnknownTask",
    "UnknownVote",
    "open_store",
]

LEASE_SECONDS = 600.0
MOST_LEASES = 50
"""A reviewer may hold so many tasks at once (a browser fetches ahead for when it is offline)."""
ROLES = ("reviewer", "coordinator", "imported")
_NEVER = 1 << 40  # votes wanted of a gold task: it never has enough
_SETTINGS_SECONDS = 5.0
_AHEAD = 25  # candidates looked up at once


class UnknownTask(ReviewError):
    """No such task in this store."""


class UnknownReviewer(ReviewError):
    """No such reviewer, or disabled."""


class UnknownVote(ReviewError):
    """No such vote of this reviewer."""


class NotLeased(ReviewError):
    """The task was never given to this reviewer."""


class Retired(ReviewError):
    """The task has been looked at often enough."""


class AlreadyVoted(ReviewError):
    """The reviewer's vote on this task stands; undo it first."""


class KeyReused(ReviewError):
    """The same key came with another vote."""


class NotAllowed(ReviewError):
    """Only a coordinator may do that."""


class InvitationRefused(ReviewError):
    """An invitation that is unknown, used or too old."""


class ChainBroken(ReviewError):
    """Records were changed, taken out or slipped in."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a vote, an undo or a settlement was kept as."""

    vote_id: str
    seq: int
    hash: str
    repeated: bool = False
    """It had been kept before; nothing was added."""
    late: bool = False
    """It came after its lease."""


@dataclass(frozen=True, slots=True)
class Reviewer:
    id: str
    name: str
    role: str
    created_at: str
    disabled: bool = False
    tutorial_done: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one stratum is; gold tasks are not counted in."""

    stratum: str
    tasks: int
    begun: int
    """With one vote at least."""
    done: int
    """Retired by agreement or settled."""
    conflicts: int
    votes: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """A task reviewers do not agree on, with the votes that stand."""

    task: Task
    votes: tuple[Vote, ...]


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """What `verify` saw."""

    records: int
    votes: int
    """That stand."""
    head: str
    """The last hash; write it down elsewhere and a shortened chain shows too."""


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
        self._ahead: dict[tuple[str, str], list[str]] = {}
        self._ahead_turn = threading.Lock()
        self._held_settings: dict[str, Any] = {}
        self._held_since = -math.inf

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
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
        age = time.monotonic() - self._held_since
        if age > _SETTINGS_SECONDS:
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
        rows = [_task_row(task, wanted) for task in tasks]
        located = [_place_row(place) for place in places]
        twice = _first_duplicate([row["task_id"] for row in rows])
        with self._database.writing() as db:
            twice = twice or self._first_known(db, [row["task_id"] for row in rows])
            if twice:
                raise ReviewError(f"task {twice} is there twice: a task is added once")
            for part in _parts(rows):
                db.execute(sa.insert(t.tasks), part)
            for part in _parts(located):
                db.execute(sa.insert(t.places), part)
        return len(rows)

    def task(self, task_id: str) -> Task:
        """Raises UnknownTask."""
        with self._database.reading() as db:
            return _task(self._task_row(db, task_id))

    def tasks(self) -> Iterator[Task]:
        """All tasks, by id."""
        with self._database.reading() as db:
            rows = db.execute(sa.select(t.tasks).order_by(t.tasks.c.task_id)).mappings().all()
        yield from (_task(row) for row in rows)

    def tutorial(self) -> list[Task]:
        """Gold tasks that teach newcomers, by id; their answers are in them."""
        query = sa.select(t.tasks).where(t.tasks.c.tutorial != "").order_by(t.tasks.c.task_id)
        with self._database.reading() as db:
            return [_task(row) for row in db.execute(query).mappings()]

    def places(self) -> Iterator[Place]:
        """Where tasks lie, by task_id. For coordinators and exports; never for a reviewer."""
        with self._database.reading() as db:
            rows = db.execute(sa.select(t.places).order_by(t.places.c.task_id)).mappings().all()
        yield from (_place(row) for row in rows)

    def standings(self) -> dict[str, dict[str, Any]]:
        """Each task's `n_votes`, `retired` (agreed, conflict, settled or None) and `settled` answer."""
        query = sa.select(t.tasks.c.task_id, t.tasks.c.n_votes, t.tasks.c.retired, t.tasks.c.settled)
        with self._database.reading() as db:
            return {row["task_id"]: dict(row) for row in db.execute(query).mappings()}

    # ------------------------------------------------------------ leases

    def lease(self, reviewer_id: str, now: datetime | None = None, held: Collection[str] = ()) -> Task | None:
        """Give the reviewer a task for ten minutes, or None when none is left for them.

        A task they hold already is given again (a page that was loaded anew), unless it is in `held`
        (a browser that fetches ahead). Otherwise: gold and unflagged tasks by their share; within these
        the lowest tier, then the fewest votes, then the reviewer's own order. A task that others hold is
        theirs, as long as it needs no more votes than they can give.

        Raises:
            UnknownReviewer: or disabled.
        """
        moment = _seconds(now)
        with self._database.writing(durable=False) as db:
            self._reviewer(db, reviewer_id)
            mine = (t.leases.c.reviewer_id == reviewer_id) & (t.leases.c.expires > moment)
            rows = db.execute(
                sa.select(t.leases.c.task_id).where(mine).order_by(t.leases.c.expires, t.leases.c.task_id)
            )
            active = [row.task_id for row in rows]
            again = next((task_id for task_id in active if task_id not in held), None)
            if again is not None:
                return self._give(db, again, reviewer_id, moment)
            if len(active) >= MOST_LEASES:
                return None
            for pool in self._pools(db, reviewer_id, len(active)):
                chosen = self._choose(db, reviewer_id, pool, moment, active)
                if chosen is not None:
                    return self._give(db, chosen, reviewer_id, moment)
        return None

    def release(self, reviewer_id: str, task_id: str) -> None:
        """Hand a task back without an answer."""
        mine = (t.leases.c.reviewer_id == reviewer_id) & (t.leases.c.task_id == task_id)
        with self._database.writing() as db:
            db.execute(sa.delete(t.leases).where(mine))

    def _pools(self, db: Connection, reviewer_id: str, ahead: int) -> list[Pool]:
        """The pools in the order in which this reviewer's next task is sought."""
        done = db.execute(sa.select(sa.func.count()).where(t.records.c.reviewer_id == reviewer_id)).scalar() or 0
        shares = self._settings(db)
        gold, unflagged = float(shares.get("gold_share", 0.1)), float(shares.get("unflagged_share", 0.1))
        dice = _number(f"{reviewer_id}/{done + ahead}") / 2**64
        if dice < gold:
            return ["gold", "work", "unflagged"]
        if dice < gold + unflagged:
            return ["unflagged", "work"]
        return ["work", "unflagged"]

    def _choose(self, db: Connection, reviewer_id: str, pool: Pool, moment: float, active: Sequence[str]) -> str | None:
        """The first candidate that is still open; the list is looked up some at a time."""
        for fresh in (False, True):
            for task_id in self._candidates(db, reviewer_id, pool, moment, fresh):
                if task_id in active:
                    continue
                attempt = db.begin_nested()
                if self._open_for(db, task_id, reviewer_id, moment):
                    attempt.commit()
                    return task_id
                attempt.rollback()  # lets the row's lock go: holding several, two reviewers could wait for each other
        return None

    def _candidates(self, db: Connection, reviewer_id: str, pool: Pool, moment: float, fresh: bool) -> Iterator[str]:
        with self._ahead_turn:
            queue = self._ahead.setdefault((reviewer_id, pool), [])
        if fresh:
            queue[:] = db.execute(_next_tasks(reviewer_id, pool, moment)).scalars()
        while True:
            try:
                yield queue.pop(0)
            except IndexError:
                return

    def _open_for(self, db: Connection, task_id: str, reviewer_id: str, moment: float) -> bool:
        """Whether the task still needs this reviewer; its row is locked until the transaction ends."""
        row = db.execute(sa.select(t.tasks).where(t.tasks.c.task_id == task_id).with_for_update()).mappings().first()
        if row is None or row["retired"] is not None:
            return False
        voted = sa.select(sa.func.count()).where(
            t.standing.c.task_id == task_id, t.standing.c.reviewer_id == reviewer_id
        )
        others = sa.select(sa.func.count()).where(
            t.leases.c.task_id == task_id, t.leases.c.reviewer_id != reviewer_id, t.leases.c.expires > moment
        )
        taken = row["n_votes"] + (db.execute(others).scalar() or 0)
        return not db.execute(voted).scalar() and taken < row["votes_wanted"]

    def _give(self, db: Connection, task_id: str, reviewer_id: str, moment: float) -> Task:
        db.execute(sa.delete(t.leases).where(t.leases.c.task_id == task_id, t.leases.c.reviewer_id == reviewer_id))
        lease = {"task_id": task_id, "reviewer_id": reviewer_id, "expires": moment + LEASE_SECONDS}
        db.execute(sa.insert(t.leases), lease)
        return _task(self._task_row(db, task_id))

    # ------------------------------------------------------------ votes

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
        moment = _seconds(now)
        return self._database.together(lambda db: self._keep(db, vote, moment))

    def _keep(self, db: Connection, vote: Vote, moment: float) -> Receipt:
        head = self._head(db)
        before = self._record(db, vote.key)
        if before is not None:
            return _repeated(before, vote)
        self._reviewer(db, vote.reviewer_id)
        row = self._task_row(db, vote.task_id)
        _check_marks(row, vote)
        self._refuse_second(db, vote)
        late = self._refuse_unleased(db, row, vote, moment)
        receipt = self._append(db, head, _vote_record(vote), late=late)
        self._stand(db, row, vote)
        return receipt

    def import_votes(self, votes: Iterable[Vote]) -> tuple[int, dict[str, int]]:
        """Keep votes made elsewhere, which were never leased here; their reviewers are added.

        Returns:
            how many were kept, and why how many were left out.
        """
        kept = 0
        left: dict[str, int] = {}
        wanted = self.retirement()
        for part in _batches(votes, 25_000):
            with self._database.writing() as db:
                kept += self._import_part(db, part, left, wanted)
        return kept, left

    def undo(self, reviewer_id: str, vote_id: str, now: datetime | None = None) -> Receipt:
        """Take a vote back. The vote stays in the records, the undo is one of its own; the task is leased anew.

        Raises:
            UnknownVote: if the reviewer made no such vote.
        """
        moment = _seconds(now)
        with self._database.writing() as db:
            head = self._head(db)
            before = self._record(db, vote_id)
            if before is None or before["reviewer_id"] != reviewer_id or before["kind"] != "vote":
                raise UnknownVote(f"no vote {_shown(vote_id)} of yours: it cannot be undone")
            undone = db.execute(sa.select(t.records).where(t.records.c.undoes == vote_id)).mappings().first()
            if undone is not None:
                return Receipt(undone["vote_id"], undone["seq"], undone["hash"], repeated=True)
            vote = _vote_from(before)
            record = _vote_record(vote) | {"kind": "undo", "vote_id": str(uuid4()), "undoes": vote_id}
            record |= {"marks": "[]", "note": "", "created_at": _text(now)}
            receipt = self._append(db, head, record)
            db.execute(sa.delete(t.standing).where(t.standing.c.vote_id == vote_id))
            self._recount(db, self._task_row(db, vote.task_id))
            self._give(db, vote.task_id, reviewer_id, moment)
        return receipt

    def settle(self, task_id: str, coordinator_id: str, answer: str, note: str = "") -> Receipt:
        """A coordinator's last word on a task; it retires. Settled again, the last one holds.

        Raises:
            UnknownTask, BadVote, NotAllowed: if the task, the answer or the coordinator is none.
        """
        vote = Vote(task_id, coordinator_id, answer, note=note, key=str(uuid4()))
        with self._database.writing() as db:
            head = self._head(db)
            if self._reviewer(db, coordinator_id)["role"] != "coordinator":
                raise NotAllowed("only a coordinator settles conflicts")
            self._task_row(db, task_id)
            receipt = self._append(db, head, _vote_record(vote) | {"kind": "settle"})
            change = sa.update(t.tasks).where(t.tasks.c.task_id == task_id)
            db.execute(change.values(retired="settled", settled=answer))
        return receipt

    def votes(self, reviewer_id: str | None = None, task_id: str | None = None) -> list[Vote]:
        """The votes that stand, in the order they came."""
        query = sa.select(t.records).join(t.standing, t.standing.c.vote_id == t.records.c.vote_id)
        if reviewer_id is not None:
            query = query.where(t.records.c.reviewer_id == reviewer_id)
        if task_id is not None:
            query = query.where(t.records.c.task_id == task_id)
        with self._database.reading() as db:
            return [_vote_from(row) for row in db.execute(query.order_by(t.records.c.seq)).mappings()]

    def count_votes(self, reviewer_id: str) -> int:
        """How many votes of a reviewer stand."""
        query = sa.select(sa.func.count()).where(t.standing.c.reviewer_id == reviewer_id)
        with self._database.reading() as db:
            return int(db.execute(query).scalar() or 0)

    def records(self) -> list[dict[str, Any]]:
        """Everything that was ever kept, in order."""
        with self._database.reading() as db:
            return [dict(row) for row in db.execute(sa.select(t.records).order_by(t.records.c.seq)).mappings()]

    def progress(self) -> list[Progress]:
        """How far each stratum is, by name."""
        c = t.tasks.c
        query = (
            sa.select(
                c.stratum,
                sa.func.count().label("tasks"),
                _count_where(c.n_votes > 0).label("begun"),
                _count_where(c.retired.in_(("agreed", "settled"))).label("done"),
                _count_where(c.retired == "conflict").label("conflicts"),
                sa.func.sum(c.n_votes).label("votes"),
            )
            .where(c.pool != "gold")
            .group_by(c.stratum)
            .order_by(c.stratum)
        )
        with self._database.reading() as db:
            rows = db.execute(query).mappings().all()
        return [
            Progress(row["stratum"], *(int(row[n]) for n in ("tasks", "begun", "done", "conflicts", "votes")))
            for row in rows
        ]

    def conflicts(self) -> list[Conflict]:
        """Tasks that reviewers did not agree on and nobody settled."""
        query = sa.select(t.tasks).where(t.tasks.c.retired == "conflict").order_by(t.tasks.c.task_id)
        with self._database.reading() as db:
            found = [_task(row) for row in db.execute(query).mappings()]
        return [Conflict(task, tuple(self.votes(task_id=task.task_id))) for task in found]

    def verify(self) -> ChainCheck:
        """Check every hash and that what stands follows from the records.

        Raises:
            ChainBroken: that names the first record at which it breaks.
        """
        with self._database.reading() as db:
            head = db.execute(sa.select(t.chain)).mappings().one()
            stand = {row.vote_id: row.answer for row in db.execute(sa.select(t.standing))}
            now = sa.select(t.tasks.c.task_id, t.tasks.c.n_votes, t.tasks.c.settled)
            tasks = {row.task_id: (row.n_votes, row.settled) for row in db.execute(now)}
            rows = db.execute(sa.select(t.records).order_by(t.records.c.seq)).mappings()
            last, replayed, settled = self._follow(rows)
        if (head["seq"], head["hash"]) != last:
            raise ChainBroken(f"{self.name}: the chain ends at record {last[0]}, but {head['seq']} were kept")
        if {vote_id: answer for vote_id, (_, answer) in replayed.items()} != stand:
            raise ChainBroken(f"{self.name}: the votes that stand do not follow from the records")
        tally = dict.fromkeys(tasks, 0)
        for task_id, _ in replayed.values():
            tally[task_id] += 1
        if {task_id: (n, settled.get(task_id)) for task_id, n in tally.items()} != tasks:
            raise ChainBroken(f"{self.name}: the counts of votes, or what was settled, do not follow from the records")
        return ChainCheck(last[0], len(stand), last[1])

    def _follow(self, rows: Iterable[Any]) -> tuple[tuple[int, str], dict[str, tuple[str, str]], dict[str, str]]:
        """The last record, the votes that stand after it, and what was settled."""
        seq, previous = 0, t.GENESIS
        replayed: dict[str, tuple[str, str]] = {}
        settled: dict[str, str] = {}
        for row in rows:
            seq += 1
            if row["seq"] != seq or row["previous"] != previous or row["hash"] != _hash(row):
                raise ChainBroken(f"{self.name}: the chain breaks at record {seq}: it was changed after it was kept")
            previous = row["hash"]
            if row["kind"] == "vote":
                replayed[row["vote_id"]] = (row["task_id"], row["answer"])
            elif row["kind"] == "undo":
                replayed.pop(row["undoes"], None)
            elif row["kind"] == "settle":
                settled[row["task_id"]] = row["answer"]
        return (seq, previous), replayed, settled

    def _import_part(self, db: Connection, part: Sequence[Vote], left: dict[str, int], rule: Retirement) -> int:
        head = self._head(db)
        rows = {row["task_id"]: row for row in self._rows_in(db, t.tasks, "task_id", {v.task_id for v in part})}
        keys = {row["vote_id"] for row in self._rows_in(db, t.records, "vote_id", {v.key for v in part})}
        stand = {(row["task_id"], row["reviewer_id"]) for row in self._rows_in(db, t.standing, "task_id", set(rows))}
        self._add_imported(db, {v.reviewer_id for v in part})
        kept: list[dict[str, Any]] = []
        for vote in part:
            why = _why_left(vote, rows, keys, stand)
            if why:
                left[why] = left.get(why, 0) + 1
                continue
            record = _chained(_vote_record(vote), head)
            head = (record["seq"], record["hash"])
            kept.append(record)
            keys.add(vote.key)
            stand.add((vote.task_id, vote.reviewer_id))
        if kept:
            names = ("task_id", "reviewer_id", "vote_id", "answer")
            db.execute(sa.insert(t.records), kept)
            db.execute(sa.insert(t.standing), [{name: record[name] for name in names} for record in kept])
            db.execute(sa.update(t.chain).values(seq=head[0], hash=head[1]))
            self._recount_many(db, [rows[task_id] for task_id in sorted({record["task_id"] for record in kept})], rule)
        return len(kept)

    def _add_imported(self, db: Connection, ids: set[str]) -> None:
        known = {row["id"] for row in self._rows_in(db, t.reviewers, "id", ids)}
        added = [_reviewer_row(new, new, "imported") for new in sorted(ids - known)]
        if added:
            db.execute(sa.insert(t.reviewers), added)

    def _rows_in(self, db: Connection, table: sa.Table, column: str, wanted: set[str]) -> list[Any]:
        found: list[Any] = []
        for part in _parts(sorted(wanted), 500):
            found += db.execute(sa.select(table).where(table.c[column].in_(part))).mappings().all()
        return found

    def _head(self, db: Connection) -> tuple[int, str]:
        """The chain's end; locked, so that records are kept one after the other."""
        row = db.execute(sa.select(t.chain.c.seq, t.chain.c.hash).with_for_update()).one()
        return row.seq, row.hash

    def _append(self, db: Connection, head: tuple[int, str], record: dict[str, Any], late: bool = False) -> Receipt:
        record = _chained(record, head)
        db.execute(sa.insert(t.records), record)
        db.execute(sa.update(t.chain).values(seq=record["seq"], hash=record["hash"]))
        return Receipt(record["vote_id"], record["seq"], record["hash"], late=late)

    def _stand(self, db: Connection, row: Any, vote: Vote) -> None:
        """The vote counts now."""
        names = {"task_id": vote.task_id, "reviewer_id": vote.reviewer_id, "vote_id": vote.key, "answer": vote.answer}
        db.execute(sa.insert(t.standing), names)
        mine = (t.leases.c.task_id == vote.task_id) & (t.leases.c.reviewer_id == vote.reviewer_id)
        db.execute(sa.delete(t.leases).where(mine))
        self._recount(db, row)

    def _recount(self, db: Connection, row: Any) -> None:
        """The task's votes counted anew, and whether it has enough."""
        task_id = row["task_id"]
        answers = db.execute(sa.select(t.standing.c.answer).where(t.standing.c.task_id == task_id)).scalars().all()
        rule = Retirement(**self._settings(db).get("retirement", {}))
        values = _counted(row, answers, rule)
        db.execute(sa.update(t.tasks).where(t.tasks.c.task_id == task_id).values(**values))

    def _recount_many(self, db: Connection, rows: Sequence[Any], rule: Retirement) -> None:
        """The same for many tasks, in a few statements."""
        answers: dict[str, list[str]] = {row["task_id"]: [] for row in rows}
        for stand in self._rows_in(db, t.standing, "task_id", set(answers)):
            answers[stand["task_id"]].append(stand["answer"])
        changes = [{"one": row["task_id"]} | _counted(row, answers[row["task_id"]], rule) for row in rows]
        change = sa.update(t.tasks).where(t.tasks.c.task_id == sa.bindparam("one"))
        names = ("n_votes", "retired", "votes_wanted")
        db.execute(
            change.values({name: sa.bindparam(f"new_{name}") for name in names}),
            [{"one": one["one"]} | {f"new_{name}": one[name] for name in names} for one in changes],
        )

    def _record(self, db: Connection, vote_id: str) -> Any:
        if not is_id(vote_id):
            return None
        return db.execute(sa.select(t.records).where(t.records.c.vote_id == vote_id)).mappings().first()

    def _task_row(self, db: Connection, task_id: str) -> Any:
        row = None
        if is_id(task_id):
            row = db.execute(sa.select(t.tasks).where(t.tasks.c.task_id == task_id)).mappings().first()
        if row is None:
            raise UnknownTask(f"no task {_shown(task_id)} here: load the page again")
        return row

    def _refuse_second(self, db: Connection, vote: Vote) -> None:
        mine = (t.standing.c.task_id == vote.task_id) & (t.standing.c.reviewer_id == vote.reviewer_id)
        if db.execute(sa.select(t.standing.c.vote_id).where(mine)).first() is not None:
            raise AlreadyVoted(f"your vote on task {vote.task_id} stands: undo it first to change it")

    def _refuse_unleased(self, db: Connection, row: Any, vote: Vote, moment: float) -> bool:
        """Whether the vote comes late; refused if the task was never given to the reviewer, or is done."""
        mine = (t.leases.c.task_id == vote.task_id) & (t.leases.c.reviewer_id == vote.reviewer_id)
        expires = db.execute(sa.select(t.leases.c.expires).where(mine)).scalar()
        if expires is None:
            raise NotLeased(f"task {vote.task_id} was not given to you: take the next one")
        late = bool(expires <= moment)
        if row["retired"] is not None and (late or row["retired"] == "settled"):
            raise Retired(f"task {vote.task_id} has enough votes meanwhile: take the next one")
        return late

    def _first_known(self, db: Connection, ids: Sequence[str]) -> str | None:
        known = self._rows_in(db, t.tasks, "task_id", set(ids))
        return known[0]["task_id"] if known else None

    # ------------------------------------------------------------ reviewers

    def add_reviewer(
        self, name: str, role: str = "reviewer", *, reviewer_id: str | None = None, token_hash: str | None = None
    ) -> str:
        """Add a person; returns their id (opaque unless given). An id that is there already stays as it is."""
        if role not in ROLES:
            raise ReviewError(f"the role '{role}' is not known: give one of {', '.join(ROLES)}")
        row = _reviewer_row(reviewer_id or uuid4().hex[:16], plain_text(name)[:80], role, token_hash)
        if not is_id(row["id"]):
            raise ReviewError("a reviewer's id has letters, digits and _.:@- only, at most 80")
        with self._database.writing() as db:
            if db.execute(sa.select(t.reviewers.c.id).where(t.reviewers.c.id == row["id"])).first() is None:
                db.execute(sa.insert(t.reviewers), row)
        return str(row["id"])

    def reviewer(self, reviewer_id: str) -> Reviewer:
        """Raises UnknownReviewer, also for one who is disabled."""
        with self._database.reading() as db:
            return _reviewer(self._reviewer(db, reviewer_id))

    def reviewers(self) -> list[Reviewer]:
        """All of them, in the order they came."""
        query = sa.select(t.reviewers).order_by(t.reviewers.c.created_at, t.reviewers.c.id)
        with self._database.reading() as db:
            return [_reviewer(row) for row in db.execute(query).mappings()]

    def reviewer_by_token(self, token_hash: str) -> Reviewer | None:
        """Who holds the token with this hash; None if nobody does, or they are disabled."""
        query = sa.select(t.reviewers).where(t.reviewers.c.token_hash == token_hash, t.reviewers.c.disabled == 0)
        with self._database.reading() as db:
            row = db.execute(query).mappings().first()
        return None if row is None else _reviewer(row)

    def change_reviewer(self, reviewer_id: str, **changes: Any) -> None:
        """Change `name`, `role`, `token_hash`, `disabled` or `tutorial_done`."""
        odd = set(changes) - {"name", "role", "token_hash", "disabled", "tutorial_done"}
        if odd or changes.get("role", "reviewer") not in ROLES:
            raise ReviewError(f"a reviewer has no such {', '.join(sorted(odd)) or 'role'}")
        values = {name: int(value) if isinstance(value, bool) else value for name, value in changes.items()}
        with self._database.writing() as db:
            self._reviewer(db, reviewer_id, disabled_too=True)
            db.execute(sa.update(t.reviewers).where(t.reviewers.c.id == reviewer_id).values(**values))

    def invitation(self, token_hash: str, role: str, expires: datetime) -> None:
        """Keep a one-time invitation: the hash of its token (never the token), for which role, until when."""
        if role not in ("reviewer", "coordinator"):
            raise ReviewError(f"nobody is invited as '{role}': reviewer or coordinator")
        row = {"hash": token_hash, "role": role, "expires": _seconds(expires), "used_at": None, "reviewer_id": None}
        with self._database.writing() as db:
            db.execute(sa.insert(t.invitations), row)

    def redeem(self, invitation_hash: str, name: str, token_hash: str, now: datetime | None = None) -> Reviewer:
        """Use an invitation, once: adds the reviewer, who from now on holds the token with `token_hash`.

        Raises:
            InvitationRefused: if it is unknown, used or too old.
        """
        c = t.invitations.c
        still = (c.hash == invitation_hash) & c.used_at.is_(None) & (c.expires > _seconds(now))
        with self._database.writing() as db:
            row = db.execute(sa.select(t.invitations).where(still).with_for_update()).mappings().first()
            if row is None:
                raise InvitationRefused("this invitation is unknown, used or too old: ask for a new one")
            added = _reviewer_row(uuid4().hex[:16], plain_text(name)[:80], row["role"], token_hash)
            db.execute(sa.insert(t.reviewers), added)
            used = {"used_at": _text(now), "reviewer_id": added["id"]}
            db.execute(sa.update(t.invitations).where(c.hash == invitation_hash).values(**used))
        return _reviewer(added)

    def _reviewer(self, db: Connection, reviewer_id: str, disabled_too: bool = False) -> Any:
        row = None
        if is_id(reviewer_id):
            row = db.execute(sa.select(t.reviewers).where(t.reviewers.c.id == reviewer_id)).mappings().first()
        if row is None or (row["disabled"] and not disabled_too):
            raise UnknownReviewer("this reviewer is not known here, or was disabled: ask the coordinator")
        return row


def retires(answers: Sequence[str], rule: Retirement) -> tuple[str | None, int]:
    """Whether votes are enough: (agreed, conflict or None; how many votes the task should get)."""
    n = len(answers)
    if n < rule.votes:
        return None, rule.votes
    said = ["yes" if answer == "offset" else answer for answer in answers]
    top = max(said.count(answer) for answer in set(said))
    if top >= rule.agreement * n - 1e-9 and max(set(said), key=said.count) != "unsure":
        return "agreed", n
    if n >= rule.most:
        return "conflict", n
    return None, n + 1


# ---------------------------------------------------------------- rows


def _next_tasks(reviewer_id: str, pool: Pool, moment: float) -> sa.Select[Any]:
    """Tasks the reviewer may be given, best first: tier, fewest votes, an order of their own."""
    c = t.tasks.c
    others = (
        sa.select(t.leases.c.task_id, sa.func.count().label("n"))
        .where(t.leases.c.expires > moment, t.leases.c.reviewer_id != reviewer_id)
        .group_by(t.leases.c.task_id)
        .subquery()
    )
    mine = sa.select(t.standing.c.task_id).where(
        t.standing.c.reviewer_id == reviewer_id, t.standing.c.task_id == c.task_id
    )
    own = _number(reviewer_id)
    factor, shift = own % (t.MODULUS - 1) + 1, own // t.MODULUS % t.MODULUS
    return (
        sa.select(c.task_id)
        .outerjoin(others, others.c.task_id == c.task_id)
        .where(c.pool == pool, c.retired.is_(None), c.n_votes + sa.func.coalesce(others.c.n, 0) < c.votes_wanted)
        .where(~sa.exists(mine), c.tutorial == "")  # newcomers were told the answers of examples
        .order_by(c.tier, *(() if pool == "gold" else (c.n_votes,)), (c.spot * factor + shift) % t.MODULUS, c.task_id)
        .limit(_AHEAD)
    )


def _task_row(task: Task, wanted: int) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "kind": task.kind,
        "pool": task.pool,
        "stratum": task.stratum,
        "inclusion_probability": float(task.inclusion_probability),
        "gold": task.gold,
        "tutorial": task.tutorial,
        "pictures": json.dumps([picture_to_dict(picture) for picture in task.pictures]),
        "tier": int(task.tier),
        "spot": _number(f"spot/{task.task_id}") % t.MODULUS,
        "n_votes": 0,
        "votes_wanted": _NEVER if task.pool == "gold" else wanted,
        "retired": None,
        "settled": None,
    }


def _task(row: Any) -> Task:
    names = ("task_id", "kind", "stratum", "inclusion_probability", "gold", "pool", "tier", "tutorial")
    pictures = tuple(picture_from_dict(picture) for picture in json.loads(row["pictures"]))
    return Task(pictures=pictures, **{name: row[name] for name in names})


def _place_row(place: Place) -> dict[str, Any]:
    names = (
        "task_id",
        "crs",
        "outline",
        "detection_id",
        "tile_id",
        "class_name",
        "scene_id",
        "date",
        "score",
        "lon",
        "lat",
    )
    return {name: getattr(place, name) for name in names} | {"grids": json.dumps(place.grids)}


def _place(row: Any) -> Place:
    grids = {path: tuple(numbers) for path, numbers in json.loads(row["grids"]).items()}
    return Place(**{**row, "grids": grids})


def _reviewer_row(reviewer_id: str, name: str, role: str, token_hash: str | None = None) -> dict[str, Any]:
    row = {"id": reviewer_id, "name": name, "role": role, "token_hash": token_hash}
    return row | {"created_at": _text(None), "disabled": 0, "tutorial_done": 0}


def _reviewer(row: Any) -> Reviewer:
    told = (row["id"], row["name"], row["role"], row["created_at"])
    return Reviewer(*told, bool(row["disabled"]), bool(row["tutorial_done"]))


def _vote_record(vote: Vote) -> dict[str, Any]:
    return {
        "kind": "vote",
        "vote_id": vote.key,
        "task_id": vote.task_id,
        "reviewer_id": vote.reviewer_id,
        "answer": vote.answer,
        "marks": json.dumps([[mark.x, mark.y, mark.picture] for mark in vote.marks]) if vote.marks else "[]",
        "note": vote.note,
        "undoes": None,
        "created_at": _text(vote.created_at),
        "source": vote.source,
    }


def _vote_from(row: Any) -> Vote:
    marks = tuple(Mark(float(x), float(y), picture) for x, y, picture in json.loads(row["marks"]))
    told = (row["task_id"], row["reviewer_id"], row["answer"], marks, row["note"], row["vote_id"])
    return Vote(*told, datetime.fromisoformat(row["created_at"]), row["source"])


def _chained(record: dict[str, Any], head: tuple[int, str]) -> dict[str, Any]:
    record = record | {"seq": head[0] + 1, "previous": head[1], "received_at": _text(None)}
    return record | {"hash": _hash(record)}


_HASHED = (
    *("seq", "previous", "kind", "vote_id", "task_id", "reviewer_id", "answer", "marks", "note", "undoes"),
    *("created_at", "received_at", "source"),
)


_canonical = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _hash(record: Any) -> str:
    told = _canonical([record[name] for name in _HASHED])
    return hashlib.sha256(told.encode()).hexdigest()


def _repeated(before: Any, vote: Vote) -> Receipt:
    """The receipt of a vote that was kept before."""
    same = _vote_record(vote)
    names = ("kind", "task_id", "reviewer_id", "answer", "marks", "note")
    if any(before[name] != same[name] for name in names):
        raise KeyReused(f"the key {vote.key} came before with another vote: every vote needs a key of its own")
    return Receipt(before["vote_id"], before["seq"], before["hash"], repeated=True)


def _counted(row: Any, answers: Sequence[str], rule: Retirement) -> dict[str, Any]:
    """A task's counts as these answers make them."""
    if row["pool"] == "gold" or row["retired"] == "settled":
        return {"n_votes": len(answers), "retired": row["retired"], "votes_wanted": row["votes_wanted"]}
    retired, wanted = retires(answers, rule)
    return {"n_votes": len(answers), "retired": retired, "votes_wanted": wanted}


def _check_marks(row: Any, vote: Vote) -> None:
    if not vote.marks:
        return
    task = _task(row)
    if task.kind != "search":
        raise BadVote(f"task {task.task_id} asks about one site: marks belong to a search")
    if vote.answer != "yes":
        raise BadVote(f"a search with marks is answered yes, not {vote.answer}")
    sizes = {picture.path: (picture.width, picture.height) for picture in task.pictures}
    for mark in vote.marks:
        width, height = sizes.get(mark.picture, (-1, -1))
        if not (0 <= mark.x <= width and 0 <= mark.y <= height):
            raise BadVote(f"a mark lies outside the pictures of task {task.task_id}")


def _why_left(vote: Vote, rows: dict[str, Any], keys: set[str], stand: set[tuple[str, str]]) -> str:
    if vote.task_id not in rows:
        return "unknown task"
    if vote.key in keys:
        return "imported before"
    if (vote.task_id, vote.reviewer_id) in stand:
        return "second vote of a reviewer on a task"
    try:
        _check_marks(rows[vote.task_id], vote)
    except BadVote:
        return "marks that do not fit the task"
    return ""


def _count_where(condition: Any) -> Any:
    return sa.func.sum(sa.case((condition, 1), else_=0))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _seconds(now: datetime | None) -> float:
    return (now or datetime.now(UTC)).timestamp()


def _text(now: datetime | None) -> str:
    return (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="microseconds")


def _shown(text: object) -> str:
    return repr(plain_text(str(text)[:40]))


def _parts(rows: Sequence[Any], size: int = 1000) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _batches(votes: Iterable[Vote], size: int) -> Iterator[list[Vote]]:
    """So that a large export is never in memory as a whole."""
    coming = iter(votes)
    while part := list(itertools.islice(coming, size)):
        yield part


def _first_duplicate(ids: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((one for one in ids if one in seen or seen.add(one)), None)  # type: ignore[func-returns-value]
