"""Which task a reviewer is given next.

Looking through all open tasks for one reviewer costs a database milliseconds, and after a start two hundred ask at
once. So the open tasks of a pool are looked up once for everybody who asks within two seconds, and put into each
reviewer's own order here. What is remembered may be out of date: whoever deals looks whether a candidate is still
open, and where nothing is found, the open tasks are looked up again before anybody is told that nothing is left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from geoslave.review import database as t
from geoslave.review.rows import among, number_of, rows_in
from geoslave.review.tasks import Pool

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

LEASE_SECONDS = 600.0
MOST_LEASES = 50
"""A reviewer may hold so many tasks at once (a browser fetches ahead for when it is offline)."""
POOLS: tuple[Pool, ...] = ("work", "gold", "unflagged")
_AHEAD = 25  # candidates remembered for a reviewer
_EMPTY_S = 30.0
_KEPT_S = 2.0  # open tasks are looked up anew after this
_COSTS = 20  # ... and after so many times what that took, where there are very many
_MOST = 50_000  # open tasks looked up at once; the rest of a larger pool follows when these are done
_ANSWERED = among(t.standing.c.reviewer_id, t.standing.c.reviewer_id, t.standing.c.task_id)
_COUNTS = among(t.records.c.reviewer_id, t.records.c.reviewer_id, sa.func.count().label("n")).group_by(
    t.records.c.reviewer_id
)


class Dealer:
    """Remembers what each reviewer may be given next. One thread, the store's writer, uses it."""

    def __init__(self) -> None:
        self._ahead: dict[tuple[str, Pool], list[str]] = {}
        self._votes: dict[str, int] = {}
        self._empty: dict[tuple[str, Pool], float] = {}
        self._open: dict[Pool, _OpenTasks] = {}
        self._turn = 0

    def begin(self, db: Connection, reviewer_ids: Collection[str], moment: float) -> None:
        """A transaction begins in which these reviewers want tasks: look up for all of them what will be needed."""
        self._turn += 1
        strangers = {one for one in reviewer_ids if one not in self._votes}
        if strangers:
            self._votes |= dict.fromkeys(strangers, 0)
            self._votes |= {row["reviewer_id"]: int(row["n"]) for row in rows_in(db, _COUNTS, strangers)}
        for pool in POOLS:
            idle = [one for one in reviewer_ids if not self._ahead.get((one, pool))]
            if idle:
                self._fill(db, idle, pool, moment, fresh=False)

    def likely(self, reviewer_id: str) -> Iterator[str]:
        """What the reviewer will probably be given: worth looking up together with other things."""
        for pool in POOLS:
            yield from self._ahead.get((reviewer_id, pool), ())[:2]

    def candidates(self, db: Connection, reviewer_id: str, pool: Pool, moment: float, fresh: bool) -> Iterator[str]:
        """Tasks, best first; each is told once. With `fresh` they are looked up anew."""
        if fresh:
            self._fill(db, [reviewer_id], pool, moment, fresh=True)
        queue = self._ahead.get((reviewer_id, pool), [])
        while queue:
            yield queue.pop(0)

    def is_empty(self, reviewer_id: str, pool: Pool, moment: float) -> None:
        """The reviewer's pool has nothing for them."""
        self._empty[reviewer_id, pool] = moment

    def was_empty(self, reviewer_id: str, pool: Pool, moment: float) -> bool:
        """Whether there was nothing just now: looked at again where nothing else is left, or half a minute later."""
        return 0 <= moment - self._empty.get((reviewer_id, pool), -math.inf) < _EMPTY_S

    def voted(self, reviewer_id: str) -> None:
        if reviewer_id in self._votes:
            self._votes[reviewer_id] += 1

    def pools(self, reviewer_id: str, ahead: int, shares: dict[str, Any]) -> tuple[Pool, ...]:
        """The pools in the order in which this reviewer's next task is sought."""
        gold, unflagged = float(shares.get("gold_share", 0.1)), float(shares.get("unflagged_share", 0.1))
        dice = number_of(f"{reviewer_id}/{self._votes.get(reviewer_id, 0) + ahead}") / 2**64
        if dice < gold:
            return ("gold", "work", "unflagged")
        if dice < gold + unflagged:
            return ("unflagged", "work")
        return ("work", "unflagged")

    def _fill(self, db: Connection, reviewer_ids: Sequence[str], pool: Pool, moment: float, fresh: bool) -> None:
        """The reviewers' candidates in a pool."""
        tasks = self._open_tasks(db, pool, moment, fresh)
        answered: dict[str, set[str]] = {one: set() for one in reviewer_ids}
        if tasks.ids:
            for row in rows_in(db, _ANSWERED, set(reviewer_ids)):
                answered[row["reviewer_id"]].add(row["task_id"])
        for one in reviewer_ids:
            self._ahead[one, pool] = tasks.best(one, answered[one])
            if fresh and tasks.cut_off and not self._ahead[one, pool]:
                self._ahead[one, pool] = _look_further(db, one, pool, moment)

    def _open_tasks(self, db: Connection, pool: Pool, moment: float, fresh: bool) -> _OpenTasks:
        """As they are in this transaction; unless `fresh`, as they were a moment ago."""
        held = self._open.get(pool)
        if held is None or (held.turn != self._turn if fresh else held.good_until < time.monotonic()):
            held = self._open[pool] = _look_up(db, pool, moment, self._turn)
        return held


@dataclass(frozen=True, slots=True)
class _OpenTasks:
    """Tasks of a pool that need votes, best first but for the reviewers' own order."""

    ids: Sequence[str]
    places: dict[str, int]
    spots: np.ndarray
    ends: Sequence[int]
    """Where groups end: tasks of one tier with as many votes."""
    turn: int
    """The transaction they were looked up in."""
    good_until: float
    cut_off: bool
    """Whether there are more."""

    def best(self, reviewer_id: str, answered: Collection[str]) -> list[str]:
        """The first that the reviewer did not answer: group by group, each in an order of their own."""
        factor, shift = _order_of(reviewer_id)
        may = np.ones(len(self.ids), bool)
        may[[self.places[task_id] for task_id in answered if task_id in self.places]] = False
        chosen: list[str] = []
        start = 0
        for end in self.ends:
            group = start + np.flatnonzero(may[start:end])
            wanted = min(_AHEAD - len(chosen), len(group))
            keys = (self.spots[group] * factor + shift) % t.MODULUS
            first = np.argpartition(keys, wanted - 1)[:wanted] if 0 < wanted < len(group) else np.arange(len(group))
            chosen += [self.ids[place] for place in group[first[np.argsort(keys[first], kind="stable")]]]
            if len(chosen) >= _AHEAD:
                break
            start = end
        return chosen


def _order_of(reviewer_id: str) -> tuple[int, int]:
    """A reviewer's order: a task's spot times the first plus the second, modulo MODULUS."""
    own = number_of(reviewer_id)
    return own % (t.MODULUS - 1) + 1, own // t.MODULUS % t.MODULUS


def _look_up(db: Connection, pool: Pool, moment: float, turn: int) -> _OpenTasks:
    began = time.monotonic()
    query = _OPEN_GOLD if pool == "gold" else _OPEN
    rows = db.execute(query, {"me": "", "of_pool": pool, "now": moment, "most": _MOST}).all()
    groups = [tuple(row[2:]) for row in rows]
    ends = [k for k in range(1, len(rows)) if groups[k] != groups[k - 1]] + [len(rows)]
    ids = [row[0] for row in rows]
    places = {task_id: place for place, task_id in enumerate(ids)}
    spots = np.array([row[1] for row in rows], np.int64)
    good_until = time.monotonic() + max(_KEPT_S, _COSTS * (time.monotonic() - began))
    return _OpenTasks(ids, places, spots, ends, turn, good_until, len(rows) == _MOST)


def _look_further(db: Connection, reviewer_id: str, pool: Pool, moment: float) -> list[str]:
    """A reviewer's candidates among all open tasks, for one who answered all that were looked up for everybody."""
    factor, shift = _order_of(reviewer_id)
    told = {"me": reviewer_id, "of_pool": pool, "now": moment, "factor": factor, "shift": shift}
    return list(db.execute(_NEXT_GOLD if pool == "gold" else _NEXT, told).scalars())


def _open(*columns: Any) -> sa.Select[Any]:
    """Tasks of a pool that need more votes than were given and others can give."""
    c, now, me = t.tasks.c, sa.bindparam("now", type_=sa.Float), sa.bindparam("me", type_=sa.Text)
    others = (
        sa.select(t.leases.c.task_id, sa.func.count().label("n"))
        .where(t.leases.c.expires > now, t.leases.c.reviewer_id != me)
        .group_by(t.leases.c.task_id)
        .subquery()
    )
    return (
        sa.select(*columns)
        .outerjoin(others, others.c.task_id == c.task_id)
        .where(c.pool == sa.bindparam("of_pool"), c.retired.is_(None))
        .where(c.n_votes + sa.func.coalesce(others.c.n, 0) < c.votes_wanted)
        .where(c.tutorial == "")  # newcomers were told the answers of examples
    )


def _of_everybody(by_votes: bool) -> sa.Select[Any]:
    """Id, spot, and what orders before a reviewer's own order: tier and, unless of gold, votes."""
    c = t.tasks.c
    first = (c.tier, *((c.n_votes,) if by_votes else ()))
    return (
        _open(c.task_id, c.spot, *first)
        .order_by(*first, c.spot, c.task_id)
        .limit(sa.bindparam("most", type_=sa.BigInteger))
    )


def _of_one(by_votes: bool) -> sa.Select[Any]:
    """Ids of what one reviewer did not answer, best first."""
    c, me = t.tasks.c, sa.bindparam("me", type_=sa.Text)
    factor, shift = (sa.bindparam(name, type_=sa.BigInteger) for name in ("factor", "shift"))
    mine = sa.select(t.standing.c.task_id).where(t.standing.c.reviewer_id == me, t.standing.c.task_id == c.task_id)
    first = (c.tier, *((c.n_votes,) if by_votes else ()))
    own = (c.spot * factor + shift) % t.MODULUS
    return _open(c.task_id).where(~sa.exists(mine)).order_by(*first, own, c.task_id).limit(_AHEAD)


_OPEN, _OPEN_GOLD = _of_everybody(by_votes=True), _of_everybody(by_votes=False)
_NEXT, _NEXT_GOLD = _of_one(by_votes=True), _of_one(by_votes=False)
