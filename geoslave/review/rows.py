"""Rows of the database <-> what the store speaks of, and how rows are looked up many at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from geoslave.review import database as t
from geoslave.review.tasks import Mark, Place, Task, Vote, picture_from_dict, picture_to_dict, plain_text

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Row = Any
"""A mapping of column to value: a dict, or what SQLAlchemy gives."""
NEVER = 1 << 40
"""Votes wanted of a gold task: it never has enough."""
_PLACE = (
    *("task_id", "crs", "outline", "detection_id", "tile_id"),
    *("class_name", "scene_id", "date", "score", "lon", "lat"),
)


@dataclass(frozen=True, slots=True)
class Reviewer:
    id: str
    name: str
    role: str
    created_at: str
    disabled: bool = False
    tutorial_done: bool = False


def task_row(task: Task, wanted: int) -> dict[str, Any]:
    """
    Args:
        wanted: votes the task gets at first.
    """
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
        "spot": number_of(f"spot/{task.task_id}") % t.MODULUS,
        "n_votes": 0,
        "votes_wanted": NEVER if task.pool == "gold" else wanted,
        "retired": None,
        "settled": None,
    }


def task_of(row: Row) -> Task:
    names = ("task_id", "kind", "stratum", "inclusion_probability", "gold", "pool", "tier", "tutorial")
    pictures = tuple(picture_from_dict(picture) for picture in json.loads(row["pictures"]))
    return Task(pictures=pictures, **{name: row[name] for name in names})


def place_row(place: Place) -> dict[str, Any]:
    return {name: getattr(place, name) for name in _PLACE} | {"grids": json.dumps(place.grids)}


def place_of(row: Row) -> Place:
    grids = {path: tuple(numbers) for path, numbers in json.loads(row["grids"]).items()}
    return Place(**{**row, "grids": grids})


def reviewer_row(reviewer_id: str, name: str, role: str, token_hash: str | None = None) -> dict[str, Any]:
    row = {"id": reviewer_id, "name": plain_text(name)[:80], "role": role, "token_hash": token_hash}
    return row | {"created_at": text_of(None), "disabled": 0, "tutorial_done": 0}


def reviewer_of(row: Row) -> Reviewer:
    told = (row["id"], row["name"], row["role"], row["created_at"])
    return Reviewer(*told, bool(row["disabled"]), bool(row["tutorial_done"]))


def vote_row(vote: Vote) -> dict[str, Any]:
    """A vote as a record, before it is chained."""
    return {
        "kind": "vote",
        "vote_id": vote.key,
        "task_id": vote.task_id,
        "reviewer_id": vote.reviewer_id,
        "answer": vote.answer,
        "marks": json.dumps([[mark.x, mark.y, mark.picture] for mark in vote.marks]) if vote.marks else "[]",
        "note": vote.note,
        "undoes": None,
        "created_at": text_of(vote.created_at),
        "source": vote.source,
    }


def vote_of(row: Row) -> Vote:
    held = row["marks"]
    marks = tuple(Mark(float(x), float(y), picture) for x, y, picture in json.loads(held)) if held != "[]" else ()
    told = (row["task_id"], row["reviewer_id"], row["answer"], marks, row["note"], row["vote_id"])
    return Vote(*told, datetime.fromisoformat(row["created_at"]), row["source"])


# ---------------------------------------------------------------- many at a time


def among(column: Any, *columns: Any) -> sa.Select[Any]:
    """The statement of `rows_in`, to be made once: putting one together costs more than running it."""
    return sa.select(*(columns or (column.table,))).where(column.in_(sa.bindparam("ids", expanding=True)))


def rows_in(db: Connection, statement: sa.Select[Any], wanted: Collection[str]) -> list[Any]:
    """The rows of a statement made by `among`, whose column is one of `wanted`."""
    found: list[Any] = []
    for part in parts(sorted(wanted), 500):
        found += db.execute(statement, {"ids": part}).mappings().all()
    return found


def tuples_in(db: Connection, statement: sa.Select[Any], wanted: Collection[str]) -> Iterator[Any]:
    """The same as tuples, one after the other: for very many."""
    for part in parts(sorted(wanted), 500):
        yield from db.execute(statement, {"ids": part})


WHOLE_TASKS = among(t.tasks.c.task_id)


def insert_many(db: Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows past SQLAlchemy's handling of each value, which took longer than the database did."""
    compiled = sa.insert(table).compile(dialect=db.dialect)
    names = compiled.positiontup  # of SQLite; PostgreSQL takes values by name
    if names:
        db.exec_driver_sql(str(compiled), [tuple(row[name] for name in names) for row in rows])
    else:
        db.exec_driver_sql(str(compiled), [{column.name: row[column.name] for column in table.c} for row in rows])


def parts(rows: Sequence[Any], size: int = 1000) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


# ---------------------------------------------------------------- numbers and texts


def number_of(text: str) -> int:
    """64 bits that look random, the same every time."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def seconds_of(now: datetime | None) -> float:
    return (now or datetime.now(UTC)).timestamp()


def text_of(now: datetime | None) -> str:
    return (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="microseconds")


def shown(text: object) -> str:
    """Something that came from outside, as a message may hold it."""
    return repr(plain_text(str(text)[:40]))
