"""Turns that share a transaction: each is answered as if it had been alone."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
import sqlalchemy as sa

from geoslave.review import dealing, turns
from geoslave.review.store import (
    AlreadyVoted,
    KeyReused,
    NotLeased,
    Store,
    StoreTrouble,
    Taken,
    Turn,
    UnknownReviewer,
    UnknownTask,
)
from geoslave.review.tasks import Task, Vote
from geoslave.review.writer import Writer

NOW = 1_770_000_000.0
Cast = Callable[..., Vote]


def tasks(n: int) -> list[Task]:
    return [Task(f"t{k:04d}", "validate", "flagged", 0.5) for k in range(n)]


def together(store: Store, turns: Sequence[Turn]) -> list[tuple[bool, type[Exception] | None]]:
    """Whether each vote was kept as new, or why nothing was."""
    taken = store._take(turns)
    return [
        (one.receipt is not None and not one.receipt.repeated, type(one.refused) if one.refused else None)
        for one in taken
    ]


def test_one_that_is_refused_is_not_the_others_trouble(store: Store, cast: Cast) -> None:
    store.add_tasks(tasks(2))
    people = [store.add_reviewer(name) for name in ("Ada", "Bob", "Cleo")]
    given = {who: store._take([Turn(who, NOW, want=1)])[0].tasks[0] for who in people[:2]}
    kept = cast(given[people[0]], people[0])
    asked = [
        Turn(people[0], NOW, kept),
        Turn(people[2], NOW, cast(given[people[0]], people[2])),
        Turn(people[0], NOW, kept),
        Turn(people[0], NOW, cast(given[people[0]], people[0], "no")),
        Turn(people[0], NOW, Vote(given[people[0]], people[0], "no", key=kept.key)),
        Turn(people[1], NOW, cast("nowhere", people[1])),
        Turn("nobody", NOW, want=1),
        Turn(people[1], NOW, cast(given[people[1]], people[1])),
    ]
    told = together(store, asked)
    assert [why for _, why in told] == [
        *(None, NotLeased, None, AlreadyVoted, KeyReused, UnknownTask, UnknownReviewer, None)
    ]
    assert [new for new, _ in told] == [True, False, False, False, False, False, False, True]
    assert store.verify().votes == 2 == store.verify().records


def test_no_task_is_given_to_more_than_it_needs_in_one_go(store: Store) -> None:
    store.add_tasks(tasks(4))
    people = [store.add_reviewer(f"r{k}") for k in range(9)]
    taken = store._take([Turn(who, NOW, want=2) for who in people])
    given = Counter(task for one in taken for task in one.tasks)
    assert set(given.values()) == {3} and len(given) == 4
    assert all(len(one.tasks) == len(set(one.tasks)) for one in taken)


def test_a_vote_and_its_next_task_come_together_and_count_as_if_alone(store: Store, cast: Cast) -> None:
    store.add_tasks(tasks(30))
    people = [store.add_reviewer(f"r{k}") for k in range(6)]
    held = {
        who: one.tasks for who, one in zip(people, store._take([Turn(w, NOW, want=1) for w in people]), strict=True)
    }
    while any(held.values()):
        turns = [Turn(who, NOW, cast(mine[0], who), 1, frozenset(mine)) for who, mine in held.items() if mine]
        for turn, one in zip(turns, store._take(turns), strict=True):
            assert one.refused is None
            held[turn.reviewer_id] = one.tasks
    assert store.verify().votes == 90
    assert {row["retired"] for row in store.standings().values()} == {"agreed"}


def test_what_one_asked_wrongly_is_tried_alone() -> None:
    seen: list[list[int]] = []

    def work(items: Sequence[int]) -> list[int]:
        seen.append(list(items))
        if 13 in items:
            raise ZeroDivisionError
        return [item * 2 for item in items]

    writer: Writer[int, int] = Writer(work, "test")
    asked: dict[int, Future[int]] = {}
    taken_back = Future[int]()
    taken_back.cancel()
    writer._waiting.put((99, taken_back))  # somebody who went away before their turn came
    for item in (1, 13, 2):
        asked[item] = Future()
        writer._waiting.put((item, asked[item]))
    asked[7] = writer.submit(7)
    assert [asked[item].result(10) for item in (1, 2, 7)] == [2, 4, 14]
    with pytest.raises(ZeroDivisionError):
        asked[13].result(10)
    writer.close()
    assert 99 not in {item for batch in seen for item in batch}


@pytest.mark.parametrize(
    ("kind", "refused", "tries"),
    [(sa.exc.OperationalError, 4, 2), (sa.exc.IntegrityError, 1, 5)],  # a locked database, one that cannot be stored
)
def test_a_locked_database_is_waited_for_once_and_not_by_each_in_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch, kind: type[sa.exc.DBAPIError], refused: int, tries: int
) -> None:
    store.add_tasks(tasks(9))
    people = [store.add_reviewer(f"r{k}") for k in range(4)]
    asked: list[list[str]] = []
    begun, all_here = threading.Event(), threading.Event()
    take = turns.take

    def troubled(db: Any, batch: Sequence[Turn], *more: Any) -> list[Taken]:
        begun.set()
        all_here.wait(20)  # the first is alone, the others come together
        asked.append([turn.reviewer_id for turn in batch])
        if kind is sa.exc.OperationalError or people[2] in asked[-1]:
            raise kind("INSERT", None, Exception("database is locked"))
        return take(db, batch, *more)

    monkeypatch.setattr(turns, "take", troubled)
    futures = [store.submit(Turn(people[0], NOW, want=1))]
    begun.wait(20)
    futures += [store.submit(Turn(who, NOW, want=1)) for who in people[1:]]
    all_here.set()
    errors = [future.exception(20) for future in futures]
    assert [type(error) for error in errors if error is not None] == [StoreTrouble] * refused
    assert len(asked) == tries


def test_everybody_gets_every_task_once_also_where_only_some_are_looked_up_at_once(
    store: Store, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "_MOST", 4)
    store.add_tasks(tasks(30))
    people = [store.add_reviewer(f"r{k}") for k in range(3)]
    seen: dict[str, list[str]] = {who: [] for who in people}
    taken = store._take([Turn(who, NOW, want=1) for who in people])
    for _ in range(30):
        for who, one in zip(people, taken, strict=True):
            seen[who] += one.tasks
        votes = [cast(one.tasks[0], who) for who, one in zip(people, taken, strict=True)]
        taken = store._take([Turn(who, NOW, vote, want=1) for who, vote in zip(people, votes, strict=True)])
    assert all(sorted(set(done)) == sorted(done) and len(done) == 30 for done in seen.values())
    assert not any(one.tasks for one in taken)
    assert len({tuple(done) for done in seen.values()}) == 3


def test_a_task_that_came_a_moment_ago_is_given_at_once(store: Store, cast: Cast) -> None:
    store.add_tasks(tasks(1))
    ada = store.add_reviewer("Ada")
    given = store._take([Turn(ada, NOW, want=1)])[0].tasks
    assert store._take([Turn(ada, NOW, cast(given[0], ada), want=1)])[0].tasks == []
    store.add_tasks([Task("later", "validate", "flagged", 0.5)])
    assert store._take([Turn(ada, NOW, want=1)])[0].tasks == ["later"]


def test_the_lowest_tier_comes_first_then_the_fewest_votes(
    store: Store, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "_KEPT_S", 0.0)
    monkeypatch.setattr(dealing, "_COSTS", 0)
    store.add_tasks(Task(f"{tier}-{k}", "validate", "flagged", 0.5, tier=tier) for tier in (2, 0, 1) for k in range(12))
    ada, bob = store.add_reviewer("Ada"), store.add_reviewer("Bob")
    order: list[str] = []
    for _ in range(4):
        given = store._take([Turn(ada, NOW, want=1)])[0].tasks[0]
        store._take([Turn(ada, NOW, cast(given, ada))])
        order.append(given)
    assert {task[0] for task in order} == {"0"}
    others = store._take([Turn(bob, NOW, want=8)])[0].tasks
    assert not set(others) & set(order) and {task[0] for task in others} == {"0"}
