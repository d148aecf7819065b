"""What browsers ask in one go: keep my vote, give me my next tasks; many of them in one transaction.

A vote and the next task come in one request, and requests that arrive while the disk is busy share the
next transaction. What they need to know is looked up for all of them together, and what they change is
written together: a dozen statements and one sync of the disk, whether one waits or a hundred.

Every transaction that changes votes or leases first locks the end of the chain, so that several servers on one
PostgreSQL take turns too, and nothing that is looked up here can change before it is written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from geoslave.review import database as t
from geoslave.review import people, records
from geoslave.review.dealing import LEASE_SECONDS, MOST_LEASES, Dealer
from geoslave.review.records import Receipt
from geoslave.review.refusals import AlreadyVoted, NotLeased, Retired, UnknownReviewer, UnknownTask
from geoslave.review.rows import WHOLE_TASKS, among, insert_many, rows_in, shown, task_of, vote_row
from geoslave.review.tasks import Pool, Retirement, ReviewError, Vote, is_id
from geoslave.review.votes import COUNTED, STANDING, check_marks, counted, write_counts

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_PEOPLE = among(t.reviewers.c.id)
_RECORDS = among(t.records.c.vote_id)
_LEASES_ON = among(t.leases.c.task_id)
_LEASES_OF = (  # what a coordinator settled meanwhile is nobody's to answer
    among(t.leases.c.reviewer_id, *t.leases.c)
    .join_from(t.leases, t.tasks, t.leases.c.task_id == t.tasks.c.task_id)
    .where(t.tasks.c.retired.is_distinct_from("settled"))
)
_END = sa.delete(t.leases).where(
    (t.leases.c.task_id == sa.bindparam("a_task")) & (t.leases.c.reviewer_id == sa.bindparam("of"))
)
_LEASE = sa.text(
    "INSERT INTO leases (task_id, reviewer_id, expires) VALUES (:task_id, :reviewer_id, :expires) "
    "ON CONFLICT (task_id, reviewer_id) DO UPDATE SET expires = excluded.expires"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One reviewer's request."""

    reviewer_id: str
    moment: float
    """Seconds since 1970."""
    vote: Vote | None = None
    """To be kept."""
    want: int = 0
    """How many tasks they would like."""
    held: frozenset[str] = frozenset()
    """Tasks the browser holds already."""


@dataclass(slots=True)
class Taken:
    """What came of a turn."""

    receipt: Receipt | None = None
    tasks: list[str] = field(default_factory=list)
    """Leased for ten minutes, best first."""
    refused: ReviewError | None = None
    """Why nothing new was kept and nothing given."""


def take(
    db: Connection, turns: Sequence[Turn], dealer: Dealer, rule: Retirement, shares: dict[str, Any]
) -> list[Taken]:
    """Take turns, one after the other, in a transaction."""
    desk = _Desk(db, turns, dealer, rule, shares)
    taken = [desk.take(turn) for turn in turns]
    desk.write()
    return taken


def lease(db: Connection, task_id: str, reviewer_id: str, moment: float) -> None:
    """Give a task, or give it anew."""
    db.execute(_LEASE, _lease_row(task_id, reviewer_id, moment))


def _lease_row(task_id: str, reviewer_id: str, moment: float) -> dict[str, Any]:
    return {"task_id": task_id, "reviewer_id": reviewer_id, "expires": moment + LEASE_SECONDS}


class _Desk:
    """What the turns of one transaction need to know, and what they change."""

    def __init__(
        self, db: Connection, turns: Sequence[Turn], dealer: Dealer, rule: Retirement, shares: dict[str, Any]
    ) -> None:
        self._db, self._dealer, self._rule, self._shares = db, dealer, rule, shares
        self._head = records.head_of(db)
        votes = [turn.vote for turn in turns if turn.vote is not None]
        self._people = {row["id"]: row for row in rows_in(db, _PEOPLE, _ids(turn.reviewer_id for turn in turns))}
        self._records = {row["vote_id"]: row for row in rows_in(db, _RECORDS, {vote.key for vote in votes})}
        self._rows: dict[str, dict[str, Any]] = {}
        self._standing: dict[str, dict[str, str]] = {}  # task -> reviewer -> answer
        self._leases: dict[str, dict[str, float]] = {}  # task -> reviewer -> until
        wanting = _ids(turn.reviewer_id for turn in turns if turn.want)
        self._mine = self._look_up_leases(wanting)
        if wanting:
            dealer.begin(db, sorted(wanting), max(turn.moment for turn in turns))
        likely = [task_id for reviewer_id in sorted(wanting) for task_id in dealer.likely(reviewer_id)]
        self._look_up([*(vote.task_id for vote in votes), *likely])
        self._kept: list[dict[str, Any]] = []
        self._counted: set[str] = set()
        self._changed: dict[tuple[str, str], float | None] = {}  # leases: task and reviewer -> until, or ended

    def take(self, turn: Turn) -> Taken:
        try:
            receipt = None if turn.vote is None else self._keep(turn.vote, turn.moment)
            return Taken(receipt, self._deal(turn) if turn.want else [])
        except ReviewError as error:
            return Taken(refused=error)

    def write(self) -> None:
        """Everything that changed, in as few statements as there are tables."""
        if self._kept:
            insert_many(self._db, t.records, self._kept)
            insert_many(self._db, t.standing, self._kept)
            records.move_head(self._db, self._head)
            write_counts(self._db, [self._rows[task_id] for task_id in sorted(self._counted)])
        ended = [{"a_task": task, "of": who} for (task, who), until in sorted(self._changed.items()) if until is None]
        if ended:
            self._db.execute(_END, ended)
        given = [(task, who, until) for (task, who), until in sorted(self._changed.items()) if until is not None]
        if given:
            self._db.execute(
                _LEASE, [dict(zip(("task_id", "reviewer_id", "expires"), one, strict=True)) for one in given]
            )

    # ------------------------------------------------------------ looking up

    def _look_up(self, task_ids: Collection[str]) -> None:
        """Tasks, who voted on them and who holds them."""
        wanted = _ids(task_ids) - set(self._rows)
        if not wanted:
            return
        for row in rows_in(self._db, COUNTED, wanted):
            self._rows[row["task_id"]] = dict(row)
            self._standing[row["task_id"]], self._leases[row["task_id"]] = {}, {}
        for row in rows_in(self._db, STANDING, wanted):
            self._standing[row["task_id"]][row["reviewer_id"]] = row["answer"]
        for row in rows_in(self._db, _LEASES_ON, wanted):
            self._leases[row["task_id"]][row["reviewer_id"]] = row["expires"]

    def _look_up_leases(self, reviewer_ids: Collection[str]) -> dict[str, dict[str, float]]:
        """Reviewer -> task -> until; of tasks that nobody settled."""
        held: dict[str, dict[str, float]] = {}
        for row in rows_in(self._db, _LEASES_OF, _ids(reviewer_ids)):
            held.setdefault(row["reviewer_id"], {})[row["task_id"]] = row["expires"]
        return held

    def _check_person(self, reviewer_id: str) -> None:
        row = self._people.get(reviewer_id)
        if row is None or row["disabled"]:
            raise UnknownReviewer(people.UNKNOWN)

    # ------------------------------------------------------------ votes

    def _keep(self, vote: Vote, moment: float) -> Receipt:
        before = self._records.get(vote.key)
        if before is not None:
            return records.repeated(before, vote)
        self._check_person(vote.reviewer_id)
        if vote.task_id not in self._rows:
            raise UnknownTask(f"no task {shown(vote.task_id)} here: load the page again")
        if vote.marks:
            check_marks(task_of(rows_in(self._db, WHOLE_TASKS, {vote.task_id})[0]), vote)
        if vote.reviewer_id in self._standing[vote.task_id]:
            raise AlreadyVoted(f"your vote on task {vote.task_id} stands: undo it first to change it")
        late = self._is_late(vote, moment)
        record = records.chained(vote_row(vote), self._head)
        self._head = (record["seq"], record["hash"])
        self._kept.append(record)
        self._records[vote.key] = record
        self._count(vote)
        return records.receipt_of(record, late=late)

    def _is_late(self, vote: Vote, moment: float) -> bool:
        """Whether the vote comes late; refused if the task was never given to the reviewer, or is done."""
        expires = self._leases[vote.task_id].get(vote.reviewer_id)
        if expires is None:
            raise NotLeased(f"task {vote.task_id} was not given to you: take the next one")
        late = expires <= moment
        retired = self._rows[vote.task_id]["retired"]
        if retired is not None and (late or retired == "settled"):
            raise Retired(f"task {vote.task_id} has enough votes meanwhile: take the next one")
        return late

    def _count(self, vote: Vote) -> None:
        """The vote counts now, and its lease ends."""
        standing, row = self._standing[vote.task_id], self._rows[vote.task_id]
        standing[vote.reviewer_id] = vote.answer
        row |= counted(row, list(standing.values()), self._rule)
        self._counted.add(vote.task_id)
        self._leases[vote.task_id].pop(vote.reviewer_id, None)
        self._mine.get(vote.reviewer_id, {}).pop(vote.task_id, None)
        self._changed[vote.task_id, vote.reviewer_id] = None
        self._dealer.voted(vote.reviewer_id)

    # ------------------------------------------------------------ leases

    def _deal(self, turn: Turn) -> list[str]:
        """Tasks they hold and their browser does not (a page that was loaded anew), then new ones."""
        self._check_person(turn.reviewer_id)
        mine = self._mine.setdefault(turn.reviewer_id, {})
        active = sorted(
            (task for task, until in mine.items() if until > turn.moment), key=lambda task: (mine[task], task)
        )
        given = [task for task in active if task not in turn.held][: turn.want]
        while len(given) < turn.want and len(active) < MOST_LEASES:
            chosen = self._choose(turn, active)
            if chosen is None:
                break
            given.append(chosen)
            active.append(chosen)
        self._look_up(given)
        for task_id in given:
            self._give(task_id, turn)
        return given

    def _give(self, task_id: str, turn: Turn) -> None:
        until = turn.moment + LEASE_SECONDS
        self._leases[task_id][turn.reviewer_id] = until
        self._mine[turn.reviewer_id][task_id] = until
        self._changed[task_id, turn.reviewer_id] = until

    def _choose(self, turn: Turn, active: Sequence[str]) -> str | None:
        """From the pools in their order; those that had nothing a moment ago come last."""
        pools = self._dealer.pools(turn.reviewer_id, len(active), self._shares)
        for pool in sorted(pools, key=lambda pool: self._dealer.was_empty(turn.reviewer_id, pool, turn.moment)):
            chosen = self._choose_from(pool, turn, active)
            if chosen is not None:
                return chosen
            self._dealer.is_empty(turn.reviewer_id, pool, turn.moment)
        return None

    def _choose_from(self, pool: Pool, turn: Turn, active: Sequence[str]) -> str | None:
        """The first candidate that is still open."""
        for fresh in (False, True):
            for task_id in self._dealer.candidates(self._db, turn.reviewer_id, pool, turn.moment, fresh):
                if task_id not in active and self._is_open(task_id, turn):
                    return task_id
        return None

    def _is_open(self, task_id: str, turn: Turn) -> bool:
        """Whether the task still needs this reviewer, beside those who voted and those who hold it."""
        self._look_up([task_id])
        row = self._rows.get(task_id)
        if row is None or row["retired"] is not None or turn.reviewer_id in self._standing[task_id]:
            return False
        leases = self._leases[task_id].items()
        others = sum(until > turn.moment for who, until in leases if who != turn.reviewer_id)
        return bool(row["n_votes"] + others < row["votes_wanted"])


def _ids(told: Collection[str] | Any) -> set[str]:
    """Without what cannot be an id (a NUL is none of PostgreSQL's characters)."""
    return {one for one in told if is_id(one)}
