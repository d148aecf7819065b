"""Which task a reviewer is given next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from geoslave.review import database as t
from geoslave.review.rows import number_of
from geoslave.review.tasks import Pool

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

LEASE_SECONDS = 600.0
MOST_LEASES = 50
"""A reviewer may hold so many tasks at once (a browser fetches ahead for when it is offline)."""
POOLS: tuple[Pool, ...] = ("work", "gold", "unflagged")
_AHEAD = 25  # candidates looked up at once
_EMPTY_S = 30.0


class Dealer:
    """Remembers what each reviewer may be given next. One thread, the store's writer, uses it.

    What is remembered may be out of date: whoever deals looks whether a candidate is still open.
    """

    def __init__(self) -> None:
        self._ahead: dict[tuple[str, Pool], list[str]] = {}
        self._votes: dict[str, int] = {}
        self._empty: dict[tuple[str, Pool], float] = {}

    def likely(self, reviewer_id: str) -> Iterator[str]:
        """What the reviewer will probably be given: worth looking up together with other things."""
        for pool in POOLS:
            yield from self._ahead.get((reviewer_id, pool), ())[:2]

    def candidates(self, db: Connection, reviewer_id: str, pool: Pool, moment: float, fresh: bool) -> Iterator[str]:
        """Tasks, best first; each is told once. With `fresh` they are looked up anew."""
        queue = self._ahead.setdefault((reviewer_id, pool), [])
        if fresh:
            own = number_of(reviewer_id)
            told = {"me": reviewer_id, "of_pool": pool, "now": moment}
            told |= {"factor": own % (t.MODULUS - 1) + 1, "shift": own // t.MODULUS % t.MODULUS}
            queue[:] = db.execute(_GOLD if pool == "gold" else _WORK, told).scalars()
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

    def pools(self, db: Connection, reviewer_id: str, ahead: int, shares: dict[str, Any]) -> tuple[Pool, ...]:
        """The pools in the order in which this reviewer's next task is sought."""
        if reviewer_id not in self._votes:
            query = sa.select(sa.func.count()).where(t.records.c.reviewer_id == reviewer_id)
            self._votes[reviewer_id] = int(db.execute(query).scalar() or 0)
        gold, unflagged = float(shares.get("gold_share", 0.1)), float(shares.get("unflagged_share", 0.1))
        dice = number_of(f"{reviewer_id}/{self._votes[reviewer_id] + ahead}") / 2**64
        if dice < gold:
            return ("gold", "work", "unflagged")
        if dice < gold + unflagged:
            return ("unflagged", "work")
        return ("work", "unflagged")


def _next_tasks(by_votes: bool) -> sa.Select[Any]:
    """Tasks the reviewer may be given, best first: tier, fewest votes, an order of their own."""
    c, now, me = t.tasks.c, sa.bindparam("now", type_=sa.Float), sa.bindparam("me", type_=sa.Text)
    factor, shift = (sa.bindparam(name, type_=sa.BigInteger) for name in ("factor", "shift"))
    others = (
        sa.select(t.leases.c.task_id, sa.func.count().label("n"))
        .where(t.leases.c.expires > now, t.leases.c.reviewer_id != me)
        .group_by(t.leases.c.task_id)
        .subquery()
    )
    mine = sa.select(t.standing.c.task_id).where(t.standing.c.reviewer_id == me, t.standing.c.task_id == c.task_id)
    return (
        sa.select(c.task_id)
        .outerjoin(others, others.c.task_id == c.task_id)
        .where(c.pool == sa.bindparam("of_pool"), c.retired.is_(None))
        .where(c.n_votes + sa.func.coalesce(others.c.n, 0) < c.votes_wanted)
        .where(~sa.exists(mine), c.tutorial == "")  # newcomers were told the answers of examples
        .order_by(c.tier, *((c.n_votes,) if by_votes else ()), (c.spot * factor + shift) % t.MODULUS, c.task_id)
        .limit(_AHEAD)
    )


_WORK, _GOLD = _next_tasks(by_votes=True), _next_tasks(by_votes=False)
