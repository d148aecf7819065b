"""Votes in a transaction of the store: what stands, what is counted, undone, settled, brought in from elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa

from geoslave.review import database as t
from geoslave.review import people, records
from geoslave.review.records import Receipt
from geoslave.review.refusals import NotAllowed, Retired, UnknownTask, UnknownVote
from geoslave.review.rows import (
    WHOLE_TASKS,
    Row,
    among,
    insert_many,
    rows_in,
    shown,
    task_of,
    text_of,
    tuples_in,
    vote_of,
    vote_row,
)
from geoslave.review.tasks import BadVote, Retirement, Task, Vote, is_id

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

COUNTS = ("n_votes", "retired", "votes_wanted")
"""Of a task, what votes change."""
COUNTED = among(t.tasks.c.task_id, t.tasks.c.task_id, t.tasks.c.pool, *(t.tasks.c[name] for name in COUNTS))
STANDING = among(t.standing.c.task_id)
_ANSWERS = among(t.standing.c.task_id, t.standing.c.task_id, t.standing.c.reviewer_id, t.standing.c.answer)
_KEYS = among(t.records.c.vote_id, t.records.c.vote_id)
_NEW_COUNTS = (
    sa.update(t.tasks)
    .where(t.tasks.c.task_id == sa.bindparam("one"))
    .values({name: sa.bindparam(f"new_{name}") for name in COUNTS})
)


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


# ---------------------------------------------------------------- counting


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


def counted(row: Row, answers: Sequence[str], rule: Retirement) -> dict[str, Any]:
    """A task's counts as these answers make them."""
    if row["pool"] == "gold" or row["retired"] == "settled":
        return {"n_votes": len(answers), "retired": row["retired"], "votes_wanted": row["votes_wanted"]}
    retired, wanted = retires(answers, rule)
    return {"n_votes": len(answers), "retired": retired, "votes_wanted": wanted}


def write_counts(db: Connection, rows: Sequence[Row]) -> None:
    """Keep the counts of tasks that votes changed."""
    if rows:
        db.execute(
            _NEW_COUNTS, [{"one": row["task_id"]} | {f"new_{name}": row[name] for name in COUNTS} for row in rows]
        )


def recount(db: Connection, rows: Sequence[Row], rule: Retirement) -> None:
    """Count tasks' votes anew, and whether they have enough."""
    answers: dict[str, list[str]] = {row["task_id"]: [] for row in rows}
    for stand in rows_in(db, STANDING, set(answers)):
        answers[stand["task_id"]].append(stand["answer"])
    write_counts(db, [{"task_id": row["task_id"]} | counted(row, answers[row["task_id"]], rule) for row in rows])


def check_marks(task: Task, vote: Vote) -> None:
    """
    Raises:
        BadVote: marks on a picture that is not the task's, or on a task that is no search.
    """
    if task.kind != "search":
        raise BadVote(f"task {task.task_id} asks about one site: marks belong to a search")
    if vote.answer != "yes":
        raise BadVote(f"a search with marks is answered yes, not {vote.answer}")
    sizes = {picture.path: (picture.width, picture.height) for picture in task.pictures}
    for mark in vote.marks:
        width, height = sizes.get(mark.picture, (-1, -1))
        if not (0 <= mark.x <= width and 0 <= mark.y <= height):
            raise BadVote(f"a mark lies outside the pictures of task {task.task_id}")


# ---------------------------------------------------------------- looking


def task_row_of(db: Connection, task_id: str) -> Any:
    """Raises UnknownTask."""
    row = None
    if is_id(task_id):
        row = db.execute(sa.select(t.tasks).where(t.tasks.c.task_id == task_id)).mappings().first()
    if row is None:
        raise UnknownTask(f"no task {shown(task_id)} here: load the page again")
    return row


def standing_votes(db: Connection, reviewer_id: str | None = None, task_id: str | None = None) -> list[Vote]:
    """The votes that stand, in the order they came."""
    query = sa.select(t.records).join(t.standing, t.standing.c.vote_id == t.records.c.vote_id)
    if reviewer_id is not None:
        query = query.where(t.records.c.reviewer_id == reviewer_id)
    if task_id is not None:
        query = query.where(t.records.c.task_id == task_id)
    return [vote_of(row) for row in db.execute(query.order_by(t.records.c.seq)).mappings()]


def count(db: Connection, reviewer_id: str) -> int:
    """How many votes of a reviewer stand."""
    query = sa.select(sa.func.count()).where(t.standing.c.reviewer_id == reviewer_id)
    return int(db.execute(query).scalar() or 0)


def progress(db: Connection) -> list[Progress]:
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
    names = ("tasks", "begun", "done", "conflicts", "votes")
    return [Progress(row["stratum"], *(int(row[n]) for n in names)) for row in db.execute(query).mappings()]


def conflicts(db: Connection) -> list[Conflict]:
    """Tasks that reviewers did not agree on and nobody settled."""
    query = sa.select(t.tasks).where(t.tasks.c.retired == "conflict").order_by(t.tasks.c.task_id)
    found = [task_of(row) for row in db.execute(query).mappings().all()]
    return [Conflict(task, tuple(standing_votes(db, task_id=task.task_id))) for task in found]


def _count_where(condition: Any) -> Any:
    return sa.func.sum(sa.case((condition, 1), else_=0))


# ---------------------------------------------------------------- changing


def undo(db: Connection, reviewer_id: str, vote_id: str, rule: Retirement, now: str) -> tuple[Receipt, str | None]:
    """Take a vote back; the task that is open again, or None where it had been undone before.

    Raises:
        UnknownReviewer: or disabled.
        UnknownVote: if the reviewer made no such vote.
        Retired: if a coordinator settled the task; nobody could vote on it again.
    """
    records.head_of(db)  # everybody who writes waits here
    people.row_of(db, reviewer_id)
    before = records.record_of(db, vote_id)
    if before is None or before["reviewer_id"] != reviewer_id or before["kind"] != "vote":
        raise UnknownVote(f"no vote {shown(vote_id)} of yours: it cannot be undone")
    undone = db.execute(sa.select(t.records).where(t.records.c.undoes == vote_id)).mappings().first()
    if undone is not None:
        return records.receipt_of(undone, repeated=True), None
    vote = vote_of(before)
    row = task_row_of(db, vote.task_id)
    if row["retired"] == "settled":
        raise Retired(f"task {vote.task_id} was settled by a coordinator: your answer stands, take the next one")
    record = vote_row(vote) | {"kind": "undo", "vote_id": str(uuid4()), "undoes": vote_id}
    receipt = records.append(db, record | {"marks": "[]", "note": "", "created_at": now})
    db.execute(sa.delete(t.standing).where(t.standing.c.vote_id == vote_id))
    recount(db, [row], rule)
    return receipt, vote.task_id


def settle(db: Connection, vote: Vote) -> Receipt:
    """A coordinator's last word.

    Raises:
        UnknownTask, NotAllowed: if the task is none, or the person no coordinator.
    """
    records.head_of(db)
    if people.row_of(db, vote.reviewer_id)["role"] != "coordinator":
        raise NotAllowed("only a coordinator settles conflicts")
    task_row_of(db, vote.task_id)
    receipt = records.append(db, vote_row(vote) | {"kind": "settle"})
    change = sa.update(t.tasks).where(t.tasks.c.task_id == vote.task_id)
    db.execute(change.values(retired="settled", settled=vote.answer))
    return receipt


def bring_in(db: Connection, part: Sequence[Vote], left: dict[str, int], rule: Retirement) -> int:
    """Keep votes made elsewhere, those that fit; `left` counts the others by their reason."""
    head, now = records.head_of(db), text_of(None)
    rows = {row["task_id"]: row for row in rows_in(db, COUNTED, {vote.task_id for vote in part})}
    tasks = {row["task_id"]: task_of(row) for row in rows_in(db, WHOLE_TASKS, {v.task_id for v in part if v.marks})}
    keys = {key for (key,) in tuples_in(db, _KEYS, {vote.key for vote in part})}
    stand: dict[str, dict[str, str]] = {task_id: {} for task_id in rows}
    for task_id, reviewer_id, answer in tuples_in(db, _ANSWERS, rows):
        stand[task_id][reviewer_id] = answer
    people.add_imported(db, {vote.reviewer_id for vote in part})
    kept: list[dict[str, Any]] = []
    for vote in part:
        why = _why_left(vote, tasks, keys, stand)
        if why:
            left[why] = left.get(why, 0) + 1
            continue
        kept.append(records.chained(vote_row(vote), head, now))
        head = (kept[-1]["seq"], kept[-1]["hash"])
        keys.add(vote.key)
        stand[vote.task_id][vote.reviewer_id] = vote.answer
    if kept:
        insert_many(db, t.records, kept)
        insert_many(db, t.standing, kept)
        records.move_head(db, head)
        changed = sorted({record["task_id"] for record in kept})
        told = ({"task_id": one} | counted(rows[one], list(stand[one].values()), rule) for one in changed)
        write_counts(db, list(told))
    return len(kept)


def _why_left(vote: Vote, tasks: Mapping[str, Task], keys: set[str], stand: dict[str, dict[str, str]]) -> str:
    if vote.task_id not in stand:
        return "unknown task"
    if vote.key in keys:
        return "imported before"
    if vote.reviewer_id in stand[vote.task_id]:
        return "second vote of a reviewer on a task"
    try:
        if vote.marks:
            check_marks(tasks[vote.task_id], vote)
    except BadVote:
        return "marks that do not fit the task"
    return ""


def batches(votes: Iterable[Vote], size: int) -> Iterator[list[Vote]]:
    """So that a large export is never in memory as a whole."""
    coming = iter(votes)
    while part := list(itertools.islice(coming, size)):
        yield part
