"""The chain of records: everything that was ever kept, each record with the hash of the one before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from geoslave.review import database as t
from geoslave.review.refusals import ChainBroken, KeyReused
from geoslave.review.rows import Row, text_of, vote_row
from geoslave.review.tasks import Vote, is_id

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Head = tuple[int, str]
"""The number and the hash of the last record."""
_HASHED = (
    *("seq", "previous", "kind", "vote_id", "task_id", "reviewer_id", "answer", "marks", "note", "undoes"),
    *("created_at", "received_at", "source"),
)
_HEAD = sa.select(t.chain.c.seq, t.chain.c.hash).with_for_update()
_MOVE = sa.update(t.chain).values(seq=sa.bindparam("new_seq"), hash=sa.bindparam("new_hash"))
_canonical = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


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
class ChainCheck:
    """What `verify` saw."""

    records: int
    votes: int
    """That stand."""
    head: str
    """The last hash; write it down elsewhere and a shortened chain shows too."""


def head_of(db: Connection) -> Head:
    """The chain's end; locked, so that all who write take turns, over several servers too."""
    row = db.execute(_HEAD).one()
    return row.seq, row.hash


def move_head(db: Connection, head: Head) -> None:
    db.execute(_MOVE, {"new_seq": head[0], "new_hash": head[1]})


def chained(record: Row, head: Head, received_at: str | None = None) -> dict[str, Any]:
    """The record that follows `head`."""
    seq, previous = head
    whole = {**record, "seq": seq + 1, "previous": previous, "received_at": received_at or text_of(None)}
    whole["hash"] = hash_of(whole)
    return whole


def append(db: Connection, record: Row) -> Receipt:
    """Keep one record."""
    whole = chained(record, head_of(db))
    db.execute(sa.insert(t.records), whole)
    move_head(db, (whole["seq"], whole["hash"]))
    return receipt_of(whole)


def receipt_of(record: Row, **more: bool) -> Receipt:
    return Receipt(record["vote_id"], record["seq"], record["hash"], **more)


def record_of(db: Connection, vote_id: str) -> Any:
    if not is_id(vote_id):
        return None
    return db.execute(sa.select(t.records).where(t.records.c.vote_id == vote_id)).mappings().first()


def hash_of(record: Row) -> str:
    return hashlib.sha256(_canonical([record[name] for name in _HASHED]).encode()).hexdigest()


def repeated(before: Row, vote: Vote) -> Receipt:
    """The receipt of a vote that was kept before.

    Raises:
        KeyReused: if it says something else.
    """
    same = vote_row(vote)
    names = ("kind", "task_id", "reviewer_id", "answer", "marks", "note")
    if any(before[name] != same[name] for name in names):
        raise KeyReused(f"the key {vote.key} came before with another vote: every vote needs a key of its own")
    return receipt_of(before, repeated=True)


def verify(db: Connection, name: str) -> ChainCheck:
    """Check every hash and that what stands follows from the records.

    Raises:
        ChainBroken: that names the first record at which it breaks.
    """
    head = db.execute(sa.select(t.chain)).mappings().one()
    stand = {row.vote_id: row.answer for row in db.execute(sa.select(t.standing))}
    now = sa.select(t.tasks.c.task_id, t.tasks.c.n_votes, t.tasks.c.settled)
    tasks = {row.task_id: (row.n_votes, row.settled) for row in db.execute(now)}
    rows = db.execute(sa.select(t.records).order_by(t.records.c.seq)).mappings()
    last, replayed, settled = _follow(rows, name)
    if (head["seq"], head["hash"]) != last:
        raise ChainBroken(f"{name}: the chain ends at record {last[0]}, but {head['seq']} were kept")
    if {vote_id: answer for vote_id, (_, answer) in replayed.items()} != stand:
        raise ChainBroken(f"{name}: the votes that stand do not follow from the records")
    tally = dict.fromkeys(tasks, 0)
    for task_id, _ in replayed.values():
        tally[task_id] += 1
    if {task_id: (n, settled.get(task_id)) for task_id, n in tally.items()} != tasks:
        raise ChainBroken(f"{name}: the counts of votes, or what was settled, do not follow from the records")
    return ChainCheck(last[0], len(stand), last[1])


def _follow(rows: Iterable[Any], name: str) -> tuple[Head, dict[str, tuple[str, str]], dict[str, str]]:
    """The last record, the votes that stand after it, and what was settled."""
    seq, previous = 0, t.GENESIS
    replayed: dict[str, tuple[str, str]] = {}
    settled: dict[str, str] = {}
    for row in rows:
        seq += 1
        if row["seq"] != seq or row["previous"] != previous or row["hash"] != hash_of(row):
            raise ChainBroken(f"{name}: the chain breaks at record {seq}: it was changed after it was kept")
        previous = row["hash"]
        if row["kind"] == "vote":
            replayed[row["vote_id"]] = (row["task_id"], row["answer"])
        elif row["kind"] == "undo":
            replayed.pop(row["undoes"], None)
        elif row["kind"] == "settle":
            settled[row["task_id"]] = row["answer"]
    return (seq, previous), replayed, settled
