"""Reviewers and invitations, in a transaction of the store."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa

from geoslave.review import database as t
from geoslave.review.refusals import InvitationRefused, UnknownReviewer
from geoslave.review.rows import Reviewer, among, reviewer_of, reviewer_row, rows_in, seconds_of, text_of
from geoslave.review.tasks import ReviewError, is_id

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

ROLES = ("reviewer", "coordinator", "imported")
_IDS = among(t.reviewers.c.id, t.reviewers.c.id)
UNKNOWN = "this reviewer is not known here, or was disabled: ask the coordinator"


def add(db: Connection, name: str, role: str, reviewer_id: str | None, token_hash: str | None) -> str:
    """Add a person; returns their id. An id that is there already stays as it is."""
    if role not in ROLES:
        raise ReviewError(f"the role '{role}' is not known: give one of {', '.join(ROLES)}")
    row = reviewer_row(reviewer_id or uuid4().hex[:16], name, role, token_hash)
    if not is_id(row["id"]):
        raise ReviewError("a reviewer's id has letters, digits and _.:@- only, at most 80")
    if db.execute(sa.select(t.reviewers.c.id).where(t.reviewers.c.id == row["id"])).first() is None:
        db.execute(sa.insert(t.reviewers), row)
    return str(row["id"])


def add_imported(db: Connection, ids: set[str]) -> None:
    known = {row["id"] for row in rows_in(db, _IDS, ids)}
    added = [reviewer_row(new, new, "imported") for new in sorted(ids - known)]
    if added:
        db.execute(sa.insert(t.reviewers), added)


def row_of(db: Connection, reviewer_id: str, disabled_too: bool = False) -> Any:
    """Raises UnknownReviewer."""
    row = None
    if is_id(reviewer_id):
        row = db.execute(sa.select(t.reviewers).where(t.reviewers.c.id == reviewer_id)).mappings().first()
    if row is None or (row["disabled"] and not disabled_too):
        raise UnknownReviewer(UNKNOWN)
    return row


def change(db: Connection, reviewer_id: str, changes: dict[str, Any]) -> None:
    odd = set(changes) - {"name", "role", "token_hash", "disabled", "tutorial_done"}
    if odd or changes.get("role", "reviewer") not in ROLES:
        raise ReviewError(f"a reviewer has no such {', '.join(sorted(odd)) or 'role'}")
    values = {name: int(value) if isinstance(value, bool) else value for name, value in changes.items()}
    row_of(db, reviewer_id, disabled_too=True)
    db.execute(sa.update(t.reviewers).where(t.reviewers.c.id == reviewer_id).values(**values))


def signed_in(db: Connection) -> dict[str, Reviewer]:
    """Everybody who holds a token and is not disabled, by its hash."""
    query = sa.select(t.reviewers).where(t.reviewers.c.token_hash.is_not(None), t.reviewers.c.disabled == 0)
    return {row["token_hash"]: reviewer_of(row) for row in db.execute(query).mappings()}


def by_token(db: Connection, token_hash: str) -> Reviewer | None:
    query = sa.select(t.reviewers).where(t.reviewers.c.token_hash == token_hash, t.reviewers.c.disabled == 0)
    row = db.execute(query).mappings().first()
    return None if row is None else reviewer_of(row)


def invite(db: Connection, token_hash: str, role: str, expires: datetime) -> None:
    if role not in ("reviewer", "coordinator"):
        raise ReviewError(f"nobody is invited as '{role}': reviewer or coordinator")
    row = {"hash": token_hash, "role": role, "expires": seconds_of(expires), "used_at": None, "reviewer_id": None}
    db.execute(sa.insert(t.invitations), row)


def redeem(db: Connection, invitation_hash: str, name: str, token_hash: str, now: datetime | None) -> Reviewer:
    """Raises InvitationRefused."""
    c = t.invitations.c
    still = (c.hash == invitation_hash) & c.used_at.is_(None) & (c.expires > seconds_of(now))
    row = db.execute(sa.select(t.invitations).where(still).with_for_update()).mappings().first()
    if row is None:
        raise InvitationRefused("this invitation is unknown, used or too old: ask for a new one")
    added = reviewer_row(uuid4().hex[:16], name, row["role"], token_hash)
    db.execute(sa.insert(t.reviewers), added)
    used = {"used_at": text_of(now), "reviewer_id": added["id"]}
    db.execute(sa.update(t.invitations).where(c.hash == invitation_hash).values(**used))
    return reviewer_of(added)
