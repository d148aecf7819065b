"""A review read as what an estimate needs: frame, reviews, votes and gold, in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from geoslave.errors import EstimateError
from geoslave.review.store import Store
from geoslave.review.tasks import Task
from geoslave.review.verdicts import Outcome, outcome

MISSED_BESIDE = (
    "detections and tiles without one were reviewed: sites that the detector missed in a tile where it found others "
    "are not in the figure; a review with --design census+audit counts them too"
)
ONLY_CONFIRMED = (
    "only detections were reviewed: this is how many of them are sites, and the sites that the detector missed are "
    "not in it"
)


@dataclass(frozen=True, slots=True)
class ReviewTables:
    """Frame and reviews as `geoslave.estimate.tables` has them, votes and gold as `reviewers` has them."""

    frame: pd.DataFrame
    reviews: pd.DataFrame
    votes: pd.DataFrame
    gold: pd.DataFrame | None
    warnings: tuple[str, ...]
    head: str
    """The end of the chain of votes: it changes with every vote."""


def read_tables(store: Store, given: Callable[[], pd.DataFrame]) -> ReviewTables:
    """Tasks with their strata and chances, and what people said of them.

    Tiles that were searched give tiles; detections that were validated stand for tiles of one detection each,
    beside the tiles without one that were searched.

    Args:
        given: the frame the tiles of a search were drawn from; not asked for where detections were validated.

    Raises:
        EstimateError: if the review was a triage, which draws nothing at random.
        ReviewError: if nobody voted.
    """
    tasks = [task for task in store.tasks() if task.pool != "gold"]
    _refuse_triage(tasks)
    detections = any(task.kind == "validate" for task in tasks)
    found = outcome(store)
    table, unit = _drawn(store, tasks, found)
    frame = _frame_of(table) if detections else given()
    votes, gold = _votes(store, found, unit)
    blank = (table["n_flagged"] == 0).any()
    told = () if not detections else ((MISSED_BESIDE,) if blank else (ONLY_CONFIRMED,))
    reviews = table if detections else table.drop(columns=["n_flagged", "n_hits"])
    return ReviewTables(frame, reviews, votes, gold, told, str(store.verify().head))


def _refuse_triage(tasks: Sequence[Task]) -> None:
    chosen = [task.stratum for task in tasks if task.stratum.startswith("triage")]
    if chosen:
        raise EstimateError(
            f"this review is a triage ('{chosen[0]}'): places were chosen on purpose, so nothing follows for the "
            "others; make one with  geoslave review create --design census+audit"
        )


def _drawn(store: Store, tasks: Sequence[Task], found: Outcome) -> tuple[pd.DataFrame, dict[str, str]]:
    """One row a task, answered or not; and the tile (or detection) of each task."""
    sites = dict(zip(found.tiles["task_id"], found.tiles["n_sites"], strict=True)) if len(found.tiles) else {}
    said = found.consensus.verdicts.set_index("task_id")[["answer", "status"]].to_dict("index")
    places = {place.task_id: place for place in store.places()}
    rows = []
    for task in tasks:
        place = places[task.task_id]
        validated = task.kind == "validate"
        told = said.get(task.task_id, {})
        present = {"yes": 1.0, "no": 0.0}.get(str(told.get("answer")))
        rows.append(
            {
                "task_id": task.task_id,
                "tile_id": str((place.detection_id if validated else place.tile_id) or task.task_id),
                "n_flagged": int(validated),
                "n_sites": present if validated else sites.get(task.task_id),
                "n_hits": present if validated else 0.0,
                "answer": told.get("answer"),
                "status": told.get("status"),
                "stratum": task.stratum,
                "inclusion_probability": task.inclusion_probability,
                "lon": place.lon,
                "lat": place.lat,
            }
        )
    table = pd.DataFrame(rows)
    drawn = table.groupby("stratum")["inclusion_probability"].transform("size")
    table["stratum_size"] = (drawn / table["inclusion_probability"]).round().astype(int)
    # as drawn, without the digits that were lost on the way
    table["inclusion_probability"] = drawn / table["stratum_size"]
    return table, dict(zip(table["task_id"], table["tile_id"], strict=True))


def _frame_of(table: pd.DataFrame) -> pd.DataFrame:
    """The drawn rows, and as many more as each stratum has."""
    parts = [table[["tile_id", "n_flagged", "stratum"]]]
    for stratum, rows in table.groupby("stratum"):
        left = int(rows["stratum_size"].iloc[0]) - len(rows)
        ids = [f"{stratum}, not drawn {k + 1}" for k in range(left)]
        parts.append(pd.DataFrame({"tile_id": ids, "n_flagged": rows["n_flagged"].iloc[0], "stratum": stratum}))
    return pd.concat(parts, ignore_index=True)


def _votes(store: Store, found: Outcome, unit: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Votes on what was drawn and on gold of the same kind of question, and the gold's answers."""
    kinds = {task.task_id: task.kind for task in store.tasks()}
    asked = {kinds[task_id] for task_id in unit}
    known = found.gold[found.gold["task_id"].map(kinds).isin(asked)]
    # an id of a gold task may be that of a tile
    names = unit | {task_id: f"gold {task_id}" for task_id in known["task_id"]}
    votes = found.votes[found.votes["task_id"].isin(list(names))]
    votes = votes.assign(tile_id=votes["task_id"].map(names))[["tile_id", "reviewer", "answer"]]
    gold = known.assign(tile_id=known["task_id"].map(names))[["tile_id", "answer"]]
    gold = gold[gold["tile_id"].isin(votes["tile_id"])]
    return votes.reset_index(drop=True), gold.reset_index(drop=True) if len(gold) else None
