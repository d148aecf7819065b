"""What a coordinator sees: progress, agreement, how each reviewer does, and where the tasks lie."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from geoslave.review.store import Store
from geoslave.review.tasks import Task, Vote


def overview(store: Store) -> dict[str, Any]:
    """Progress by stratum, agreement by stratum and overall, reviewers' quality."""
    tasks = {task.task_id: task for task in store.tasks()}
    votes = store.votes()
    by_task: dict[str, list[str]] = defaultdict(list)
    for vote in votes:
        by_task[vote.task_id].append(as_one(vote.answer))
    standings = store.standings()
    return {
        "strata": _strata(store, tasks, by_task),
        "agreement": agreement(by_task.values()),
        "kappa": fleiss_kappa(by_task.values()),
        "answers": dict(Counter(vote.answer for vote in votes)),
        "reviewers": _reviewers(store, tasks, votes, by_task, standings),
        "n_votes": len(votes),
        "n_tasks": sum(task.gold is None for task in tasks.values()),
        "n_conflicts": sum(held["retired"] == "conflict" for held in standings.values()),
    }


def task_map(store: Store) -> dict[str, Any]:
    """GeoJSON (longitude, latitude) of all tasks with a known place; each with its state. For coordinators only."""
    standings = store.standings()
    kept = {task.task_id: task for task in store.tasks()}
    features = []
    for place in store.places():
        if place.lon is None or place.lat is None or place.task_id not in kept:
            continue
        task, held = kept[place.task_id], standings[place.task_id]
        facts = {
            "task_id": task.task_id,
            "kind": task.kind,
            "stratum": task.stratum,
            "state": "gold" if task.gold else _state(held),
            "votes": held["n_votes"],
        }
        point = {"type": "Point", "coordinates": [place.lon, place.lat]}
        features.append({"type": "Feature", "geometry": point, "properties": facts})
    return {"type": "FeatureCollection", "features": features}


def agreement(votes_by_task: Iterable[Sequence[str]]) -> float | None:
    """The share of pairs of votes on a task that say the same, averaged over tasks with two votes or more.

    Of one task (sum n_k^2 - n) / (n (n - 1)), as MapSwipe publishes it: (3, 0) is 1, (2, 1) is 1/3.
    """
    shares = [_task_agreement(answers) for answers in votes_by_task if len(answers) > 1]
    return sum(shares) / len(shares) if shares else None


def fleiss_kappa(votes_by_task: Iterable[Sequence[str]]) -> float | None:
    """Agreement beyond chance (Fleiss 1971): 1 is full, 0 is what chance would give. None where chance explains all.

    Tasks may have different numbers of votes; those with one vote are left out.
    """
    rated = [answers for answers in votes_by_task if len(answers) > 1]
    seen = agreement(rated)
    total = sum(len(answers) for answers in rated)
    by_chance = sum((n / total) ** 2 for n in Counter(a for answers in rated for a in answers).values()) if total else 1
    if seen is None or by_chance >= 1:
        return None
    return (seen - by_chance) / (1 - by_chance)


def as_one(answer: str) -> str:
    """Yes and offset both say that there is a site."""
    return "yes" if answer == "offset" else answer


def _task_agreement(answers: Sequence[str]) -> float:
    n = len(answers)
    return (sum(k * k for k in Counter(answers).values()) - n) / (n * (n - 1))


def _strata(store: Store, tasks: dict[str, Task], by_task: dict[str, list[str]]) -> list[dict[str, Any]]:
    held: dict[str, list[list[str]]] = defaultdict(list)
    for task_id, answers in by_task.items():
        if tasks[task_id].gold is None:
            held[tasks[task_id].stratum].append(answers)
    return [asdict(row) | {"agreement": agreement(held[row.stratum])} for row in store.progress()]


def _reviewers(
    store: Store,
    tasks: dict[str, Task],
    votes: Sequence[Vote],
    by_task: dict[str, list[str]],
    standings: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    mine: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        mine[vote.reviewer_id].append(vote)
    return [
        {"id": one.id, "name": one.name, "role": one.role, "disabled": one.disabled}
        | _quality(mine[one.id], tasks, by_task)
        for one in store.reviewers()
    ]


def _quality(votes: Sequence[Vote], tasks: dict[str, Task], by_task: dict[str, list[str]]) -> dict[str, Any]:
    """How a reviewer did on gold tasks, and how often others said the same on the rest."""
    gold = [as_one(vote.answer) == tasks[vote.task_id].gold for vote in votes if tasks[vote.task_id].gold]
    same: list[float] = []
    for vote in votes:
        answers = by_task[vote.task_id]
        if len(answers) > 1:
            same.append((answers.count(as_one(vote.answer)) - 1) / (len(answers) - 1))
    return {
        "votes": len(votes),
        "gold": len(gold),
        "gold_right": sum(gold),
        "agreement": sum(same) / len(same) if same else None,
        "unsure": sum(vote.answer == "unsure" for vote in votes),
        "last": max((vote.created_at.isoformat() for vote in votes), default=None),
    }


def _state(held: dict[str, Any]) -> str:
    return held["retired"] or ("begun" if held["n_votes"] else "open")
