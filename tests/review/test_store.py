"""The store on SQLite and on PostgreSQL: what was accepted stays, counts once, and cannot be changed unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from geoslave.review import database
from geoslave.review.store import (
    AlreadyVoted,
    BadVote,
    ChainBroken,
    InvitationRefused,
    KeyReused,
    NotAllowed,
    NotLeased,
    Retired,
    ReviewError,
    Store,
    StoreTrouble,
    UnknownReviewer,
    UnknownTask,
    UnknownVote,
    open_store,
)
from geoslave.review.tasks import Mark, NoteTooLong, Picture, Place, Task, Vote

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
Cast = Callable[..., Vote]


def tasks(n: int, **more: object) -> list[Task]:
    return [Task(f"t{k:04d}", "validate", "flagged", 0.5, **more) for k in range(n)]  # type: ignore[arg-type]


def test_a_vote_counts_once_however_often_it_is_sent(store: Store, cast: Cast) -> None:
    store.add_tasks(tasks(1))
    ada = store.add_reviewer("Ada")
    vote = cast(store.lease(ada, NOW), ada, note="<b>a ring & a stack</b>")
    first, again = store.vote(vote, NOW), store.vote(vote, NOW + timedelta(hours=5))
    assert not first.repeated and again.repeated and first.hash == again.hash
    (held,) = store.votes()
    assert held == vote
    assert store.verify().records == 1


def test_each_refusal_says_why(store: Store, cast: Cast) -> None:
    store.add_tasks(tasks(3))
    ada, bob = store.add_reviewer("Ada"), store.add_reviewer("Bob")
    task = store.lease(ada, NOW)
    assert task
    with pytest.raises(UnknownTask):
        store.vote(cast("elsewhere", ada), NOW)
    with pytest.raises(UnknownTask):
        store.task("a'; DROP TABLE tasks; --\0")
    with pytest.raises(NotLeased):
        store.vote(cast(task, bob), NOW)
    with pytest.raises(UnknownReviewer):
        store.vote(cast(task, "nobody"), NOW)
    with pytest.raises(NoteTooLong):
        cast(task, ada, note="x" * 10_000_000)
    with pytest.raises(BadVote):
        cast(task, ada, answer="maybe")
    with pytest.raises(BadVote):
        store.vote(cast(task, ada, marks=(Mark(1, 1, "p"),)), NOW)
    kept = cast(task, ada)
    store.vote(kept, NOW)
    with pytest.raises(AlreadyVoted):
        store.vote(cast(task, ada, answer="no"), NOW)
    with pytest.raises(KeyReused):
        store.vote(Vote(task.task_id, ada, "no", key=kept.key), NOW)
    assert [vote.answer for vote in store.votes()] == ["yes"]


def test_a_late_vote_is_taken_while_the_task_is_open_and_refused_when_it_is_done(store: Store, cast: Cast) -> None:
    store.add_tasks(tasks(1))
    early = [store.add_reviewer(f"r{k}") for k in range(3)]
    slow, late = store.add_reviewer("slow"), NOW + timedelta(minutes=11)
    task = store.lease(slow, NOW)
    assert task
    for reviewer in early:
        assert store.lease(reviewer, late)
    assert store.vote(cast(task, early[0]), late).late is False
    assert store.vote(cast(task, slow), late).late is True
    store.vote(cast(task, early[1]), late)
    with pytest.raises(Retired):
        slower = store.add_reviewer("slower")
        store.import_votes([])
        _lease_row(store, task.task_id, slower, NOW)
        store.vote(cast(task, slower), late)


def _lease_row(store: Store, task_id: str, reviewer: str, when: datetime) -> None:
    with store._database.writing() as db:
        row = {"task_id": task_id, "reviewer_id": reviewer, "expires": when.timestamp()}
        db.execute(sa.insert(database.leases), row)


def test_no_more_people_hold_a_task_than_it_needs_votes(store: Store) -> None:
    store.add_tasks(tasks(2))
    reviewers = [store.add_reviewer(f"r{k}") for k in range(8)]
    given = [store.lease(reviewer, NOW) for reviewer in reviewers]
    assert Counter(task.task_id for task in given if task) == {"t0000": 3, "t0001": 3}
    assert given[6] is None and given[7] is None
    later = NOW + timedelta(minutes=10, seconds=1)
    assert store.lease(reviewers[7], later) is not None


def test_a_reloaded_page_gets_the_same_task_and_a_browser_that_fetches_ahead_another(store: Store) -> None:
    store.add_tasks(tasks(9))
    ada = store.add_reviewer("Ada")
    first, again = store.lease(ada, NOW), store.lease(ada, NOW)
    assert first and again and first == again
    ahead = store.lease(ada, NOW, held={first.task_id})
    assert ahead and ahead != first
    store.release(ada, first.task_id)
    assert store.lease(ada, NOW) == ahead


def test_reviewers_have_orders_of_their_own_inside_a_tier_and_urgent_tasks_come_first(store: Store, cast: Cast) -> None:
    urgent = [Task(f"u{k}", "validate", "near", 1.0, tier=0) for k in range(2)]
    store.add_tasks([*tasks(20, tier=5), *urgent])
    store.set_setting("retirement", {"votes": 1, "most": 10})
    orders = []
    for name in ("Ada", "Bob"):
        reviewer, order = store.add_reviewer(name, reviewer_id=name), []
        while task := store.lease(reviewer, NOW, held=order):
            order.append(task.task_id)
        orders.append(order)
    assert sorted(orders[0]) == sorted(orders[1]) and len(orders[0]) == 22
    assert {*orders[0][:2]} == {*orders[1][:2]} == {"u0", "u1"}
    assert orders[0] != orders[1]


def test_gold_and_unflagged_are_dealt_out_by_their_share(store: Store, cast: Cast) -> None:
    gold = [Task(f"g{k}", "validate", "gold", 1.0, gold="yes", pool="gold") for k in range(60)]
    blank = [Task(f"b{k}", "validate", "unflagged", 0.1, pool="unflagged") for k in range(60)]
    store.add_tasks([*tasks(200), *gold, *blank])
    store.set_setting("gold_share", 0.2)
    store.set_setting("unflagged_share", 0.1)
    seen: Counter[str] = Counter()
    for k in range(4):
        reviewer = store.add_reviewer(f"r{k}", reviewer_id=f"r{k}")
        for _ in range(25):
            task = store.lease(reviewer, NOW)
            assert task
            seen[task.pool] += 1
            store.vote(cast(task, reviewer), NOW)
    assert 8 <= seen["gold"] <= 36 and 3 <= seen["unflagged"] <= 20
    assert all(standing["retired"] is None for key, standing in store.standings().items() if key.startswith("g"))


def test_what_taught_a_newcomer_does_not_measure_them(store: Store) -> None:
    example = Task("g0", "validate", "gold", 1.0, gold="yes", pool="gold", tutorial="a ring of bricks")
    store.add_tasks([example])
    assert store.tutorial() == [example]
    assert store.lease(store.add_reviewer("Ada"), NOW) is None


def test_disagreement_asks_for_more_votes_and_ends_as_a_conflict_to_settle(store: Store, cast: Cast) -> None:
    store.set_setting("retirement", {"votes": 2, "agreement": 0.8, "most": 4})
    store.add_tasks(tasks(1))
    for k, answer in enumerate(("yes", "no", "yes", "no")):
        reviewer = store.add_reviewer(f"r{k}")
        task = store.lease(reviewer, NOW)
        assert task, f"after {k} votes nobody is asked"
        store.vote(cast(task, reviewer, answer), NOW)
    (conflict,) = store.conflicts()
    assert [vote.answer for vote in conflict.votes] == ["yes", "no", "yes", "no"]
    with pytest.raises(NotAllowed):
        store.settle("t0000", reviewer, "yes")
    carol = store.add_reviewer("Carol", "coordinator")
    store.settle("t0000", carol, "no")
    assert store.conflicts() == []
    assert store.standings()["t0000"]["settled"] == "no"
    assert store.progress()[0].done == 1
    assert store.verify().records == 5
    with store._database.writing() as db:
        db.execute(sa.text("UPDATE tasks SET settled = 'yes'"))
    with pytest.raises(ChainBroken, match="settled"):
        store.verify()


def test_undo_keeps_the_vote_in_the_records_and_lets_the_reviewer_answer_again(store: Store, cast: Cast) -> None:
    store.set_setting("retirement", {"votes": 1, "most": 3})
    store.add_tasks(tasks(1))
    ada, bob = store.add_reviewer("Ada"), store.add_reviewer("Bob")
    wrong = cast(store.lease(ada, NOW), ada, "yes")
    store.vote(wrong, NOW)
    with pytest.raises(UnknownVote):
        store.undo(bob, wrong.key, NOW)
    assert store.undo(ada, wrong.key, NOW).hash == store.undo(ada, wrong.key, NOW).hash
    assert store.votes() == [] and store.standings()["t0000"]["retired"] is None
    store.vote(cast("t0000", ada, "no"), NOW)
    assert [vote.answer for vote in store.votes()] == ["no"]
    assert [record["kind"] for record in store.records()] == ["vote", "undo", "vote"]
    assert store.vote(wrong, NOW).repeated, "a vote sent again after its undo must not come back"
    assert store.verify().votes == 1


def test_what_a_coordinator_settled_is_not_given_again_and_votes_on_it_stand(store: Store, cast: Cast) -> None:
    store.add_tasks(tasks(3))
    ada, carol = store.add_reviewer("Ada"), store.add_reviewer("Carol", "coordinator")
    vote = cast(store.lease(ada, NOW), ada)
    store.vote(vote, NOW)
    held = store.lease(ada, NOW)
    assert held is not None
    for task_id in (vote.task_id, held.task_id):
        store.settle(task_id, carol, "no")
    left = store.lease(ada, NOW)
    assert left is not None and left.task_id not in (vote.task_id, held.task_id)
    with pytest.raises(Retired, match="settled"):
        store.undo(ada, vote.key, NOW)
    assert store.votes() == [vote] and store.verify().votes == 1
    assert store.lease(ada, NOW) == left, "what was settled is leased to nobody"


def test_who_was_shut_out_undoes_nothing(store: Store, cast: Cast) -> None:
    store.add_tasks(tasks(1))
    ada = store.add_reviewer("Ada")
    vote = cast(store.lease(ada, NOW), ada)
    store.vote(vote, NOW)
    store.change_reviewer(ada, disabled=True)
    with pytest.raises(UnknownReviewer):
        store.undo(ada, vote.key, NOW)
    assert store.votes() == [vote]


def test_the_database_itself_refuses_to_change_a_record_and_verify_finds_who_did_it_anyway(
    store: Store, cast: Cast
) -> None:
    store.add_tasks(tasks(3))
    ada = store.add_reviewer("Ada")
    for _ in range(3):
        store.vote(cast(store.lease(ada, NOW), ada), NOW)
    change = sa.text("UPDATE records SET answer = 'no' WHERE seq = 2")
    with pytest.raises(StoreTrouble, match="append-only"), store._database.writing() as db:
        db.execute(change)
    with store._database.writing() as db:
        for name in ("records_no_update", "records_no_delete"):
            if store._database.is_sqlite:
                db.execute(sa.text(f"DROP TRIGGER {name}"))
        if not store._database.is_sqlite:
            db.execute(sa.text("DROP TRIGGER records_append_only ON records"))
        db.execute(change)
    with pytest.raises(ChainBroken, match="record 2"):
        store.verify()
    with store._database.writing() as db:
        db.execute(sa.text("UPDATE records SET answer = 'yes' WHERE seq = 2"))
    assert store.verify().records == 3
    with store._database.writing() as db:
        db.execute(sa.text("DELETE FROM standing"))
        db.execute(sa.text("DELETE FROM records WHERE seq = 3"))
    with pytest.raises(ChainBroken, match="ends at record 2"):
        store.verify()


def test_marks_must_lie_on_the_pictures_of_a_search(store: Store, cast: Cast) -> None:
    picture = Picture("pictures/a.png", "near", 100, 80)
    store.add_tasks([Task("s", "search", "flagged 0", 0.1, pictures=(picture,))])
    ada = store.add_reviewer("Ada")
    store.lease(ada, NOW)
    for mark in (Mark(101, 5, picture.path), Mark(5, 5, "pictures/b.png")):
        with pytest.raises(BadVote):
            store.vote(cast("s", ada, marks=(mark,)), NOW)
    vote = cast("s", ada, marks=(Mark(99.5, 0.25, picture.path),))
    store.vote(vote, NOW)
    assert store.votes()[0].marks == vote.marks


def test_what_a_reviewer_may_see_holds_no_place_score_or_gold_answer(store: Store) -> None:
    picture = Picture("pictures/a.png", "near", 10, 10, outline=(((1.0, 1.0), (9.0, 1.0), (9.0, 9.0)),))
    task = Task("k", "validate", "score 0.9", 0.25, gold="yes", pool="gold", pictures=(picture,), tutorial="look")
    place = Place(
        "k", "EPSG:4326", {picture.path: (1.0, 0, 90.1, 0, -1.0, 24.2)}, "POINT (90.1 24.2)", "d1", score=0.91
    )
    store.add_tasks([task], [place])
    assert store.task("k") == task and list(store.places()) == [place]
    seen = repr(task.for_reviewer())
    for secret in ("0.9", "90.1", "24.2", "gold", "d1", "0.25", "look"):
        assert secret not in seen


def test_an_invitation_works_once_and_for_a_while(store: Store) -> None:
    store.invitation("hash-1", "reviewer", NOW + timedelta(days=7))
    store.invitation("hash-2", "coordinator", NOW - timedelta(days=1))
    ada = store.redeem("hash-1", "Ada", "token-1", NOW)
    assert (ada.role, store.reviewer_by_token("token-1")) == ("reviewer", ada)
    for used in ("hash-1", "hash-2", "never"):
        with pytest.raises(InvitationRefused):
            store.redeem(used, "Eve", f"token-{used}", NOW)
    store.change_reviewer(ada.id, disabled=True)
    assert store.reviewer_by_token("token-1") is None
    with pytest.raises(UnknownReviewer):
        store.lease(ada.id, NOW)


def test_imported_votes_count_once_and_what_is_left_is_counted(store: Store, cast: Cast) -> None:
    store.add_tasks(tasks(2))
    votes = [cast("t0000", "z:ann", source="zooniverse"), cast("t0000", "z:bob", "no", source="zooniverse")]
    odd = [cast("nowhere", "z:ann"), cast("t0000", "z:ann", "no")]
    assert store.import_votes([*votes, *odd]) == (
        2,
        {"unknown task": 1, "second vote of a reviewer on a task": 1},
    )
    assert store.import_votes(votes) == (0, {"imported before": 2})
    assert store.verify().votes == 2


def test_a_store_opens_again_and_one_of_an_older_version_is_brought_up(
    store_url: str, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
        with open_store(store_url) as store:
            store.add_tasks(tasks(1))
            ada = store.add_reviewer("Ada")
            store.vote(cast(store.lease(ada, NOW), ada), NOW)
    with open_store(store_url) as store:
        assert len(store.votes()) == 1 and store.verify().records == 1
        with pytest.raises(StoreTrouble, match="append-only"), store._database.writing() as db:
            db.execute(sa.text("DELETE FROM records"))
    with monkeypatch.context() as older:
        older.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
        with pytest.raises(ReviewError, match="newer geoslave"):
            open_store(store_url)


def test_something_else_is_no_store(tmp_path: Path) -> None:
    text = tmp_path / "notes.sqlite"
    text.write_text("not a database, but long enough to be looked at as one " * 50)
    for odd in (text, tmp_path / "no" / "folder.sqlite", "mysql://somewhere/else", "://"):
        with pytest.raises(ReviewError):
            open_store(odd)
    assert text.read_text().startswith("not a database")


def test_many_at_once_lose_and_double_nothing(store: Store, cast: Cast) -> None:
    store.add_tasks(tasks(30))
    reviewers = [store.add_reviewer(f"r{k}") for k in range(8)]
    accepted: list[str] = []
    troubles: list[BaseException] = []

    def work(reviewer: str) -> None:
        try:
            while task := store.lease(reviewer):
                vote = cast(task, reviewer)
                twice = [threading.Thread(target=store.vote, args=(vote,)) for _ in range(2)]
                for sender in twice:
                    sender.start()
                for sender in twice:
                    sender.join()
                accepted.append(vote.key)
        except BaseException as error:
            troubles.append(error)

    threads = [threading.Thread(target=work, args=(reviewer,)) for reviewer in reviewers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    assert sorted(vote.key for vote in store.votes()) == sorted(accepted)
    assert len(accepted) == 90
    assert store.verify().records == 90


VOTING = """
import sys, uuid
from geoslave.review.store import open_store
from geoslave.review.tasks import Vote
with open_store(sys.argv[1]) as store:
    reviewer = store.add_reviewer("r")
    while task := store.lease(reviewer):
        receipt = store.vote(Vote(task.task_id, reviewer, "yes", key=str(uuid.uuid4())))
        print(receipt.vote_id, flush=True)
"""


def test_killed_in_the_middle_no_accepted_vote_is_lost(store_url: str) -> None:
    with open_store(store_url) as store:
        store.add_tasks(tasks(2000))
    command = [sys.executable, "-c", VOTING, store_url]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told: set[str] = set()
    for worker in workers:
        assert worker.stdout
        told |= {worker.stdout.readline().strip() for _ in range(25)}
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
    for worker in workers:
        rest = worker.communicate()[0].splitlines()
        told |= {line for line in rest if len(line) == 36}
    with open_store(store_url) as store:
        kept = {vote.key for vote in store.votes()}
        assert told <= kept and len(told) >= 50
        assert len(kept) - len(told) <= 2, "at most the vote that was being answered"
        assert store.verify().votes == len(kept)
        ada = store.add_reviewer("Ada")
        task = store.lease(ada)
        assert task
        store.vote(Vote(task.task_id, ada, "yes", key=str(uuid4())))


def test_a_full_disk_is_told_and_nothing_is_half_kept(tmp_path: Path, cast: Cast) -> None:
    with open_store(tmp_path / "r.sqlite") as store:
        store.add_tasks(tasks(5))
        ada = store.add_reviewer("Ada")
        store.vote(cast(store.lease(ada, NOW), ada), NOW)
        task = store.lease(ada, NOW)
        sa.event.listen(store._database.engine, "checkout", _no_room)
        with pytest.raises(StoreTrouble, match="disk is full"):
            for _ in range(200):
                store.vote(cast(task, ada, note="x" * 1999), NOW)
                store.undo(ada, store.votes(ada)[-1].key, NOW)
        sa.event.remove(store._database.engine, "checkout", _no_room)
        store.close()
    with open_store(tmp_path / "r.sqlite") as store:
        assert store.verify().records >= 1


def _no_room(connection: sa.engine.interfaces.DBAPIConnection, *_: object) -> None:
    pages = connection.cursor().execute("PRAGMA page_count").fetchone()[0]
    connection.cursor().execute(f"PRAGMA max_page_count={pages}")
