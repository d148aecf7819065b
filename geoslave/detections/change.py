"""The same place at several dates: which sites persisted, appeared, were not seen again, or closed.

Plain differencing calls every missed detection a closure. Here a site that is not detected is *absent*
only where its place could be observed (no cloud, no nodata), and *closed* only after two observable
absences in a row, or more where the detector's recall is so low that two misses are no news
(`absences_needed`). Else it is "not redetected", or "unobservable" where nobody could have seen it.

Sites are matched across dates one to one and optimally: as many as possible, and among those the
best overlap and the least distance. Two outlines can be one site when the representative point of
one lies within 50 m of the other's outline, or when their IoU is 0.1 or more.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from geoslave.detections.match import MAX_DISTANCE_M, MIN_IOU, Geometries, Hits, Index, find_hits, lonlat
from geoslave.errors import GeoslaveError

UNOBSERVABLE, ABSENT, PRESENT = -1, 0, 1
"""States of a site at a date."""
LEAST_ABSENCES = 2
CLOSING_RATE = 0.1
"""Share of sites supposed to close between first and last date, before looking."""
WRONG = 0.025
"""Share of closures that may be wrong; half of one in twenty, since late closures leave few dates to be confirmed."""

States = NDArray[np.int8]
Observed = Callable[[Geometries], NDArray[np.bool_]]
"""Points in longitude/latitude -> whether each could be seen."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What was found at one date."""

    date: datetime.date
    detections: gpd.GeoDataFrame
    observed: Observed | None = None
    """Where could be looked; None: everywhere."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which row of one table is which of the other; no row occurs twice."""

    a: Index
    b: Index
    distance_m: NDArray[np.float64]
    iou: NDArray[np.float64]


def match_optimally(
    a: Geometries, b: Geometries, max_distance_m: float = MAX_DISTANCE_M, min_iou: float = MIN_IOU
) -> Pairs:
    """Match outlines (longitude/latitude) one to one: the most pairs, then the best ones. Symmetric in a and b."""
    hits = _both_ways(a, b, max_distance_m, min_iou)
    if not len(hits.detection):
        return Pairs(hits.detection, hits.site, hits.distance_m, hits.iou)
    quality = hits.iou + 1 / (1 + hits.distance_m / max_distance_m)
    group = _groups(hits, len(a), len(b))
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0, True])
    chosen = [order[starts[:-1][np.diff(starts) == 1]]]
    for k in np.flatnonzero(np.diff(starts) > 1):
        chosen.append(_best(hits, quality, order[starts[k] : starts[k + 1]]))
    kept = np.sort(np.concatenate(chosen))
    return Pairs(hits.detection[kept], hits.site[kept], hits.distance_m[kept], hits.iou[kept])


def follow(
    epochs: Sequence[Epoch],
    max_distance_m: float = MAX_DISTANCE_M,
    min_iou: float = MIN_IOU,
    recall: float | None = None,
) -> gpd.GeoDataFrame:
    """Every site ever found, once, with its history.

    Args:
        epochs: two or more, in the order of their dates.
        recall: of the detector; then "closed" asks for as many absences as make it right 19 times in 20.

    Returns:
        One row a site in EPSG:4326, outline as last seen: `status` (persisted, appeared, not redetected,
        closed, unobservable), `states` (a letter a date: P, A, U), `n_present`, `n_absent_since`,
        `first_seen_after` / `first_seen` and `last_seen` / `gone_by`: the days between which it was first and last
        there (empty where unknown).

    Raises:
        GeoslaveError: with fewer than two epochs, dates out of order, or a layer without CRS.
    """
    _check(epochs)
    outlines = [lonlat(epoch.detections, f"detections of {epoch.date}") for epoch in epochs]
    shapes, found = _linked(outlines, max_distance_m, min_iou)
    states = observed_states(found, shapes, epochs)
    needed = LEAST_ABSENCES if recall is None else absences_needed(recall)
    table = histories(states, [epoch.date for epoch in epochs], needed)
    return gpd.GeoDataFrame(table, geometry=list(shapes), crs=4326)


def observed_states(found: NDArray[np.bool_], shapes: Geometries, epochs: Sequence[Epoch]) -> States:
    """[sites, dates]: present where found, else absent where it could be seen, else unobservable."""
    states = np.where(found, PRESENT, ABSENT).astype(np.int8)
    points = shapely.point_on_surface(shapes)
    for k, epoch in enumerate(epochs):
        if epoch.observed is not None:
            states[~found[:, k] & ~epoch.observed(points), k] = UNOBSERVABLE
    return states


def histories(states: States, dates: Sequence[datetime.date], needed: int = LEAST_ABSENCES) -> pd.DataFrame:
    """What a history of states says of each site (columns: see `follow`).

    Args:
        states: [sites, dates]; every site is present at least once.
        needed: observable absences in a row, at the end, that make a site closed.
    """
    present = states == PRESENT
    first, last = present.argmax(1), states.shape[1] - 1 - present[:, ::-1].argmax(1)
    after = np.arange(states.shape[1]) > last[:, None]
    absent_since = ((states == ABSENT) & after).sum(1)
    before = (states == ABSENT) & (np.arange(states.shape[1]) < first[:, None])
    was_absent = before.any(1)
    last_absence = np.where(was_absent, states.shape[1] - 1 - before[:, ::-1].argmax(1), -1)
    first_absence = np.where(absent_since > 0, ((states == ABSENT) & after).argmax(1), -1)
    status = np.select(
        [last == states.shape[1] - 1, absent_since >= needed, absent_since > 0],
        [np.where(was_absent & (first > 0), "appeared", "persisted"), "closed", "not redetected"],
        "unobservable",
    )
    # seen for the first time at the last date, where nobody could look before: not known to be new
    status[(first == states.shape[1] - 1) & ~was_absent] = "unobservable"
    days = [date.isoformat() for date in dates]
    letters = np.array(["U", "A", "P"])[states + 1]
    return pd.DataFrame(
        {
            "status": status,
            "states": pd.Series(["".join(row) for row in letters], dtype=object),
            "n_present": present.sum(1),
            "n_absent_since": absent_since,
            "first_seen_after": [days[k] if k >= 0 else None for k in last_absence],
            "first_seen": [days[k] for k in first],
            "last_seen": [days[k] for k in last],
            "gone_by": [days[k] if k >= 0 else None for k in first_absence],
        }
    )


def absences_needed(recall: float, closing_rate: float = CLOSING_RATE, wrong: float = WRONG) -> int:
    """Observable absences in a row after which at most `wrong` of the sites called closed still stand.

    By Bayes' rule a site that stood is missed k times with (1 - recall)^k. Two at least. Misses are taken to be
    independent from date to date; a site that is always hard to see needs a person.

    Raises:
        GeoslaveError: if a share lies outside (0, 1), recall 1 excepted.
    """
    for name, share in (("recall", recall), ("closing rate", closing_rate), ("wrong closures", wrong)):
        if not 0 < share <= 1 or (share == 1 and name != "recall"):
            raise GeoslaveError(f"{name} is {share}: it must lie between 0 and 1")
    if recall == 1:
        return LEAST_ABSENCES
    odds = closing_rate * wrong / ((1 - closing_rate) * (1 - wrong))
    return max(LEAST_ABSENCES, math.ceil(math.log(odds) / math.log(1 - recall) - 1e-9))


def _check(epochs: Sequence[Epoch]) -> None:
    if len(epochs) < 2:
        raise GeoslaveError("change needs detections of at least two dates: give two layers or more")
    for before, after in pairwise(epochs):
        if after.date <= before.date:
            raise GeoslaveError(f"{after.date} comes after {before.date} in the list: give the layers in order of date")


def _linked(
    outlines: Sequence[Geometries], max_distance_m: float, min_iou: float
) -> tuple[Geometries, NDArray[np.bool_]]:
    """Sites with their latest outline, and [sites, dates] whether each was found."""
    shapes = outlines[0].copy()
    columns = [np.ones(len(shapes), bool)]
    for outline in outlines[1:]:
        pairs = match_optimally(shapes, outline, max_distance_m, min_iou)
        new = np.setdiff1d(np.arange(len(outline)), pairs.b)
        shapes[pairs.a] = outline[pairs.b]
        seen = np.zeros(len(shapes) + len(new), bool)
        seen[pairs.a] = seen[len(shapes) :] = True
        shapes = np.concatenate([shapes, outline[new]])
        columns.append(seen)
    found = np.zeros((len(shapes), len(columns)), bool)
    for k, column in enumerate(columns):
        found[: len(column), k] = column
    return shapes, found


def _both_ways(a: Geometries, b: Geometries, max_distance_m: float, min_iou: float) -> Hits:
    """Candidate pairs: the point of either within reach of the other's outline."""
    one, two = find_hits(a, b, max_distance_m, min_iou), find_hits(b, a, max_distance_m, min_iou)
    i, j = np.r_[one.detection, two.site], np.r_[one.site, two.detection]
    distance, iou = np.r_[one.distance_m, two.distance_m], np.r_[one.iou, two.iou]
    order = np.lexsort((distance, j, i))
    first = np.r_[True, (np.diff(i[order]) > 0) | (np.diff(j[order]) > 0)] if len(i) else np.zeros(0, bool)
    kept = order[first]
    return Hits(i[kept], j[kept], distance[kept], iou[kept])


def _groups(hits: Hits, n_a: int, n_b: int) -> Index:
    """A number per pair; pairs that compete for a site, directly or through others, share one."""
    links = coo_matrix((np.ones(len(hits.site)), (hits.detection, n_a + hits.site)), shape=(n_a + n_b, n_a + n_b))
    return np.asarray(connected_components(links, directed=False)[1], np.intp)[hits.detection]


def _best(hits: Hits, quality: NDArray[np.float64], rows: Index) -> Index:
    """Of competing pairs the largest set without conflict, of highest quality."""
    _, i = np.unique(hits.detection[rows], return_inverse=True)
    _, j = np.unique(hits.site[rows], return_inverse=True)
    value, at = np.zeros((i.max() + 1, j.max() + 1)), np.full((i.max() + 1, j.max() + 1), -1)
    # one pair more is worth more than all quality together
    value[i, j] = quality[rows] + 2 * (min(value.shape) + 1)
    at[i, j] = rows
    taken = at[linear_sum_assignment(value, maximize=True)]
    return np.asarray(taken[taken >= 0], np.intp)
