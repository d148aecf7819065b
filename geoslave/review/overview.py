"""What a coordinator sees: progress, agreement, how each reviewer does, and where the tasks lie."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoslave.review.store import Store
from geoslave.review.tasks import ANSWERS, Task, Vote


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
        "agreement": mean_agreement(by_task.values()),
        "kappa": _kappa(by_task.values()),
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


def mean_agreement(votes_by_task: Iterable[Sequence[str]]) -> float | None:
    """MapSwipe's agreement, averaged over the tasks with two votes or more; None where there is none."""
    from geoslave.review.consensus import agreement  # a second's import, which reviewers need not wait for

    shares = agreement(_counts(votes_by_task))
    return None if np.isnan(shares).all() else float(np.nanmean(shares))


def as_one(answer: str) -> str:
    """Yes and offset both say that there is a site."""
    return "yes" if answer == "offset" else answer


def _kappa(votes_by_task: Iterable[Sequence[str]]) -> float | None:
    from geoslave.review.consensus import fleiss_kappa

    kappa = fleiss_kappa(_counts(votes_by_task))
    return None if np.isnan(kappa) else kappa


def _counts(votes_by_task: Iterable[Sequence[str]]) -> NDArray[np.int64]:
    """[task, answer]."""
    rows = [[answers.count(answer) for answer in ANSWERS] for answers in votes_by_task]
    return np.array(rows, dtype=np.int64).reshape(-1, len(ANSWERS))


def _strata(store: Store, tasks: dict[str, Task], by_task: dict[str, list[str]]) -> list[dict[str, Any]]:
    held: dict[str, list[list[str]]] = defaultdict(list)
    for task_id, answers in by_task.items():
        if tasks[task_id].gold is None:
            held[tasks[task_id].stratum].append(answers)
    return [asdict(row) | {"agreement": mean_agreement(held[row.stratum])} for row in store.progress()]


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
