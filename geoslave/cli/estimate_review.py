"""A review read as what an estimate needs: frame, reviews, votes and gold, in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from geoslave.review.store import Store
    from geoslave.review.tasks import Task

MISSED_BESIDE = (
    "detections and tiles without one were reviewed: sites that the detector missed in a tile where it found others "
    "are not in the figure; a review with --design census+audit counts them too"
)
ONLY_CONFIRMED = (
    "only detections were reviewed: this is how many of them are sites, and the sites that the detector missed are "
    "not in it"
)
_SAYS = {"yes": "yes", "offset": "yes", "no": "no"}
"""What a vote says of the site: `offset` is a yes; unsure and bad imagery say nothing."""


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


def read_review(review: str, frame: pd.DataFrame | None = None) -> ReviewTables:
    """Tasks with their strata and chances, and what people said of them.

    Tiles that were searched give tiles; detections that were validated stand for tiles of one detection each,
    beside the tiles without one that were searched.

    Args:
        review: its folder, its database file, or a PostgreSQL URL.
        frame: instead of the frame.csv in the folder.

    Raises:
        EstimateError: if the review was a triage, which draws nothing at random, or has no frame.
        ReviewError: if it is not there, or nobody voted.
    """
    from geoslave.cli.review import open_review

    with open_review(review) as store:
        tasks = [task for task in store.tasks() if task.pool != "gold"]
        _refuse_triage(tasks)
        detections = any(task.kind == "validate" for task in tasks)
        table, unit = _drawn(store, tasks)
        whole = _frame_of(table) if detections else _given(frame, review)
        votes, gold = _votes(store, unit)
        head = str(store.verify().head)
    blank = (table["n_flagged"] == 0).any()
    told = () if not detections else ((MISSED_BESIDE,) if blank else (ONLY_CONFIRMED,))
    reviews = table if detections else table.drop(columns=["n_flagged", "n_hits"])
    return ReviewTables(whole, reviews, votes, gold, told, head)


def _refuse_triage(tasks: Sequence[Task]) -> None:
    from geoslave.errors import EstimateError

    chosen = [task.stratum for task in tasks if task.stratum.startswith("triage")]
    if chosen:
        raise EstimateError(
            f"this review is a triage ('{chosen[0]}'): places were chosen on purpose, so nothing follows for the "
            "others; make one with  geoslave review create --design census+audit"
        )


def _drawn(store: Store, tasks: Sequence[Task]) -> tuple[pd.DataFrame, dict[str, str]]:
    """One row a task, answered or not; and the tile (or detection) of each task."""
    import pandas as pd

    from geoslave.review.verdicts import outcome

    found = outcome(store)
    sites = dict(zip(found.tiles["task_id"], found.tiles["n_sites"], strict=True)) if len(found.tiles) else {}
    said = dict(zip(found.verdicts["task_id"], found.verdicts["answer"], strict=True)) if len(found.verdicts) else {}
    places = {place.task_id: place for place in store.places()}
    rows = []
    for task in tasks:
        place = places[task.task_id]
        validated = task.kind == "validate"
        answer = {"yes": 1.0, "no": 0.0}.get(str(said.get(task.task_id)))
        rows.append(
            {
                "task_id": task.task_id,
                "tile_id": str((place.detection_id if validated else place.tile_id) or task.task_id),
                "n_flagged": int(validated),
                "n_sites": answer if validated else sites.get(task.task_id),
                "n_hits": answer if validated else 0.0,
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
    import pandas as pd

    parts = [table[["tile_id", "n_flagged", "stratum"]]]
    for stratum, rows in table.groupby("stratum"):
        left = int(rows["stratum_size"].iloc[0]) - len(rows)
        ids = [f"{stratum}, not drawn {k + 1}" for k in range(left)]
        parts.append(pd.DataFrame({"tile_id": ids, "n_flagged": rows["n_flagged"].iloc[0], "stratum": stratum}))
    return pd.concat(parts, ignore_index=True)


def _given(frame: pd.DataFrame | None, review: str) -> pd.DataFrame:
    from geoslave.errors import EstimateError
    from geoslave.estimate.tables import read_table

    if frame is not None:
        return frame
    folder = Path(review) if Path(review).is_dir() else Path(review).parent
    beside = folder / "frame.csv"
    if "://" in review or not beside.is_file():
        raise EstimateError(f"no frame.csv beside the review {folder.name}: give the frame as FRAME")
    return read_table(beside)


def _votes(store: Store, unit: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Votes on what was drawn and on gold of the same kind of question, and the gold's answers."""
    import pandas as pd

    kinds = {task.task_id: task.kind for task in store.tasks()}
    asked = {kinds[task_id] for task_id in unit}
    known: dict[str, Any] = {
        f"gold {task.task_id}": task.gold for task in store.tasks() if task.gold is not None and task.kind in asked
    }
    rows = [
        (unit.get(vote.task_id, f"gold {vote.task_id}"), vote.reviewer_id, _SAYS.get(vote.answer, "unsure"))
        for vote in store.votes()
        if vote.task_id in unit or f"gold {vote.task_id}" in known
    ]
    votes = pd.DataFrame(rows, columns=["tile_id", "reviewer", "answer"])
    seen = set(votes["tile_id"])
    gold = pd.DataFrame(
        [(tile_id, answer) for tile_id, answer in known.items() if tile_id in seen], columns=["tile_id", "answer"]
    )
    return votes, gold if len(gold) else None
