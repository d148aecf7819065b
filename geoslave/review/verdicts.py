"""What came of a review: verdicts on detections, sites on tiles, and who said how well.

`verdicts` has one row a detection that was asked about; `geoslave calibrate --verdicts` reads it.
`tiles` has one row a tile that was drawn, answered or not; `geoslave estimate` reads it as reviews.
`sites` are the marks of searches, clustered in metres. Gold tasks measure reviewers and are in none of these.
`votes` has one row a vote, on gold tasks too, and `gold` their known answers: `geoslave estimate count --votes --gold`
carries reviewers' errors through with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import Transformer

from geoslave.review.consensus import Consensus, Rule, agree, sites_from_marks
from geoslave.review.store import Store
from geoslave.review.tasks import Place, Task, Vote

MERGE_M = 50.0
"""Marks this close are one site."""
SEEN_SHARE = 0.5
"""A site counts where at least this share of those who looked marked it."""
_ABOUT = ("detection_id", "tile_id", "class_name", "score", "date", "scene_id", "lon", "lat")
_SAYS = {"yes": "yes", "offset": "yes", "no": "no"}
"""Whether there is a site; unsure and bad imagery do not tell."""
_M_PER_DEGREE = 111_320.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that came of a review."""

    consensus: Consensus
    verdicts: gpd.GeoDataFrame
    """In longitude/latitude."""
    tiles: gpd.GeoDataFrame
    sites: gpd.GeoDataFrame
    """Points: task_id, tile_id, n_saw, n_looked, share, spread_m, counts (share at least one half)."""
    votes: pd.DataFrame
    """task_id, tile_id, reviewer, answer (yes, no, unsure), said, n_marks, at. `tile_id` is the detection's where one
    was asked about, and the task's where it has neither (gold)."""
    gold: pd.DataFrame
    """task_id, tile_id, answer."""
    n_unanswered: int
    """Tasks without a vote."""


def outcome(store: Store, *, merge_m: float = MERGE_M, rule: Rule | None = None) -> Outcome:
    """Work out everything from a store.

    Raises:
        ReviewError: if nobody voted.
    """
    tasks, places, votes = list(store.tasks()), {p.task_id: p for p in store.places()}, store.votes()
    standings = store.standings()
    settled = {task_id: row["settled"] for task_id, row in standings.items() if row["settled"]}
    least = store.retirement().votes
    table = pd.DataFrame(
        [(vote.task_id, vote.reviewer_id, vote.answer) for vote in votes], columns=["task_id", "reviewer_id", "answer"]
    )
    gold = {task.task_id: task.gold for task in tasks if task.gold}
    consensus = agree(table, gold=gold, settled=settled, rule=rule, least_votes=least)
    asked = [task for task in tasks if task.gold is None]
    facts = _facts(asked, places).merge(consensus.verdicts, on="task_id", how="left")
    facts["n_votes"] = facts["n_votes"].fillna(0).astype(int)
    validate, search = facts[facts["kind"] == "validate"], facts[facts["kind"] == "search"]
    sites = _sites([task for task in asked if task.kind == "search"], places, votes, merge_m)
    return Outcome(
        consensus,
        _layer(validate[validate["n_votes"] > 0].drop(columns=["tile_id"]), places),
        _layer(_tiles(search, sites), places),
        sites,
        _votes(votes, {task.task_id: _unit(task.task_id, places) for task in tasks}),
        pd.DataFrame(
            [(task_id, _unit(task_id, places), answer) for task_id, answer in gold.items()],
            columns=["task_id", "tile_id", "answer"],
        ),
        int((facts["n_votes"] == 0).sum()),
    )


def _votes(votes: Sequence[Vote], units: dict[str, str]) -> pd.DataFrame:
    rows = [
        (
            *(vote.task_id, units[vote.task_id], vote.reviewer_id, _SAYS.get(vote.answer, "unsure")),
            *(vote.answer, len(vote.marks), vote.created_at.isoformat(timespec="seconds")),
        )
        for vote in votes
    ]
    return pd.DataFrame(rows, columns=["task_id", "tile_id", "reviewer", "answer", "said", "n_marks", "at"])


def _unit(task_id: str, places: dict[str, Place]) -> str:
    """What an estimate calls the tile or the detection that was asked about."""
    place = places.get(task_id)
    return (place and (place.detection_id or place.tile_id)) or task_id


def _facts(tasks: Sequence[Task], places: dict[str, Place]) -> pd.DataFrame:
    names = ("kind", "pool", "stratum", "inclusion_probability")
    rows = []
    for task in tasks:
        place = places.get(task.task_id)
        about = {name: getattr(place, name, None) for name in _ABOUT}
        rows.append({"task_id": task.task_id} | {name: getattr(task, name) for name in names} | about)
    return pd.DataFrame(rows, columns=["task_id", *names, *_ABOUT])


def _layer(table: pd.DataFrame, places: dict[str, Place]) -> gpd.GeoDataFrame:
    shapes = [outline_lonlat(places.get(task_id)) for task_id in table["task_id"]]
    return gpd.GeoDataFrame(table.reset_index(drop=True), geometry=shapes, crs=4326)


def outline_lonlat(place: Place | None) -> shapely.Geometry | None:
    """The outline in longitude/latitude."""
    if place is None:
        return None
    to_lonlat = Transformer.from_crs(place.crs, 4326, always_xy=True)
    shape = shapely.from_wkt(place.outline)
    return shapely.transform(shape, lambda xy: np.column_stack(to_lonlat.transform(xy[:, 0], xy[:, 1])))


def _tiles(search: pd.DataFrame, sites: gpd.GeoDataFrame) -> pd.DataFrame:
    """Searches with `n_sites`; empty where nobody could say."""
    counted = sites[sites["counts"]].groupby("task_id").size()
    number = search["task_id"].map(counted).fillna(0).astype(float)
    told = search["answer"].isin(("yes", "no"))
    number = number.where(search["answer"] != "no", 0.0)
    return search.drop(columns=["detection_id"]).assign(n_sites=number.where(told))


def _sites(tasks: Sequence[Task], places: dict[str, Place], votes: Sequence[Vote], merge_m: float) -> gpd.GeoDataFrame:
    by_task: dict[str, list[Vote]] = {}
    for vote in votes:
        by_task.setdefault(vote.task_id, []).append(vote)
    parts = [_sites_of(places[task.task_id], by_task.get(task.task_id, []), merge_m) for task in tasks]
    parts = [part for part in parts if len(part)]
    columns = ["task_id", "tile_id", "class_name", "date", "n_saw", "n_looked", "share", "spread_m", "counts"]
    if not parts:
        return gpd.GeoDataFrame(pd.DataFrame(columns=columns), geometry=[], crs=4326).astype({"counts": bool})
    table = pd.concat(parts, ignore_index=True)
    points = gpd.points_from_xy(table["lon"], table["lat"])
    return gpd.GeoDataFrame(table[columns], geometry=points, crs=4326)


def _sites_of(place: Place, votes: Sequence[Vote], merge_m: float) -> pd.DataFrame:
    """The sites of one tile; marks beside the tile belong to its neighbour."""
    looked = [vote for vote in votes if vote.answer not in ("bad_imagery", "unsure")]
    to_lonlat = Transformer.from_crs(place.crs, 4326, always_xy=True)
    tile = shapely.from_wkt(place.outline)
    rows = []
    for vote in looked:
        for mark in vote.marks:
            a, b, c, d, e, f = place.grids[mark.picture]
            x, y = a * mark.x + b * mark.y + c, d * mark.x + e * mark.y + f
            if shapely.intersects_xy(tile, x, y):
                rows.append((*to_lonlat.transform(x, y), vote.reviewer_id))
    if not rows:
        return pd.DataFrame()
    marks = pd.DataFrame(rows, columns=["lon", "lat", "reviewer_id"])
    lon, lat = marks["lon"].mean(), marks["lat"].mean()
    east = _M_PER_DEGREE * np.cos(np.radians(lat))
    marks["x_m"], marks["y_m"] = (marks["lon"] - lon) * east, (marks["lat"] - lat) * _M_PER_DEGREE
    found = sites_from_marks(marks, len(looked), merge_m)
    return found.assign(
        lon=lon + found["x_m"] / east,
        lat=lat + found["y_m"] / _M_PER_DEGREE,
        task_id=place.task_id,
        tile_id=place.tile_id,
        class_name=place.class_name,
        date=place.date,
        counts=found["share"] >= SEEN_SHARE,
    )
