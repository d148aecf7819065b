"""Which task a reviewer is given next."""

from __future__ import annotations

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


class Dealer:
    """Remembers what each reviewer may be given next. One thread, the store's writer, uses it.

    What is remembered may be out of date: whoever deals looks whether a candidate is still open.
    """

    def __init__(self) -> None:
        self._ahead: dict[tuple[str, Pool], list[str]] = {}
        self._votes: dict[str, int] = {}

    def likely(self, reviewer_id: str) -> Iterator[str]:
        """What the reviewer will probably be given: worth looking up together with other things."""
        for pool in POOLS:
            yield from self._ahead.get((reviewer_id, pool), ())[:2]

    def candidates(self, db: Connection, reviewer_id: str, pool: Pool, moment: float, fresh: bool) -> Iterator[str]:
        """Tasks, best first; each is told once. With `fresh` they are looked up anew."""
        queue = self._ahead.setdefault((reviewer_id, pool), [])
        if fresh:
            queue[:] = db.execute(_next_tasks(reviewer_id, pool, moment)).scalars()
        while queue:
            yield queue.pop(0)

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
    own = number_of(reviewer_id)
    factor, shift = own % (t.MODULUS - 1) + 1, own // t.MODULUS % t.MODULUS
    return (
        sa.select(c.task_id)
        .outerjoin(others, others.c.task_id == c.task_id)
        .where(c.pool == pool, c.retired.is_(None), c.n_votes + sa.func.coalesce(others.c.n, 0) < c.votes_wanted)
        .where(~sa.exists(mine), c.tutorial == "")  # newcomers were told the answers of examples
        .order_by(c.tier, *(() if pool == "gold" else (c.n_votes,)), (c.spot * factor + shift) % t.MODULUS, c.task_id)
        .limit(_AHEAD)
    )
