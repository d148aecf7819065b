"""Which tiles to review, so that the count they give is as sure as the effort allows.

Three designs:

* **stratified**: strata by flagged count (or the frame's own), reviews shared out by Neyman's rule
  (1934), in proportion to N times the anticipated standard deviation; a stratum that would get more
  reviews than it has tiles is reviewed whole.
* **census + audit**: every flagged tile, and a random sample of the unflagged ones.
* **random**: tiles at random, whatever the detector says. The yardstick for the others.

What to expect rests on assumptions that are said (`Assumptions`): nobody knows the detector's
recall before the review. Wrong assumptions cost width, never coverage: the interval is computed
from what reviewers find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geoslave.errors import EstimateError
from geoslave.estimate.intervals import fay_feuer
from geoslave.estimate.tables import NOT_SEARCHED

KINDS = ("stratified", "census+audit", "random")
LEAST = 15
"""Reviews a stratum gets at least: a variance from fewer says nothing."""
LEAST_AUDIT = 100
"""Unflagged tiles a census needs as its audit."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is supposed of the detector before anything was reviewed."""

    recall: float = 0.75
    """Share of the sites that it finds."""
    precision: float = 0.75
    """Share of its detections that are sites."""
    clustering: float = 2.5
    """Variance over mean of the sites it missed, tile by tile; 1 if they lie at random (real regions: 1.9 to 4)."""

    def __post_init__(self) -> None:
        for name in ("recall", "precision"):
            if not 0 < getattr(self, name) <= 1:
                raise EstimateError(f"assumed {name} is {getattr(self, name)}: it must be above 0 and at most 1")
        if not 1 <= self.clustering < 1000:
            raise EstimateError(f"assumed clustering is {self.clustering}: 1 (at random) or more")

    def words(self) -> str:
        return (
            f"assumed: recall {self.recall:g}, precision {self.precision:g}, "
            f"missed sites clustered {self.clustering:g}-fold"
        )


@dataclass(frozen=True, slots=True)
class Stratum:
    """One stratum of a design."""

    name: str
    tiles: int
    reviews: int
    mean: float
    """Anticipated sites a tile."""
    variance: float
    """Their anticipated variance."""


@dataclass(frozen=True, slots=True)
class Design:
    """How many tiles to review in each stratum, and what to expect of it."""

    kind: str
    strata: tuple[Stratum, ...]
    assumptions: Assumptions
    level: float
    expected: float
    """Sites, under the assumptions."""
    expected_low: float
    expected_high: float

    @property
    def n_reviews(self) -> int:
        return sum(stratum.reviews for stratum in self.strata)

    @property
    def half_width(self) -> float:
        """Half the expected interval as a share of the expected count."""
        return (self.expected_high - self.expected_low) / 2 / self.expected if self.expected > 0 else float("inf")


def allocate(tiles: Integers, spread: Floats, budget: int, least: int = LEAST) -> Integers:
    """Share reviews out among strata in proportion to tiles x spread (Neyman 1934).

    Each stratum gets at least `least` (or all its tiles) where the budget allows, none more than it has
    tiles, and together they get the budget, or every tile where that is less.
    """
    tiles = np.asarray(tiles, np.int64)
    budget = min(int(budget), int(tiles.sum()))
    floor = np.minimum(tiles, least)
    if floor.sum() > budget:
        floor = _whole_shares(tiles, tiles.astype(float), budget, np.zeros_like(tiles))
    return _whole_shares(tiles, tiles * np.maximum(np.asarray(spread, float), 1e-9), budget, floor)


def stratified(frame: pd.DataFrame, budget: int, assumed: Assumptions, level: float = 0.95) -> Design:
    """Strata as the frame has them, Neyman's allocation. `frame` is checked (tables.checked_frame)."""
    names, tiles, mean, variance = _anticipated(frame, frame["stratum"], assumed)
    return _design(
        "stratified", names, tiles, allocate(tiles, np.sqrt(variance), budget), mean, variance, assumed, level
    )


def census(frame: pd.DataFrame, budget: int, assumed: Assumptions, level: float = 0.95) -> Design:
    """Every flagged tile, and unflagged ones at random.

    Raises:
        EstimateError: if the budget leaves fewer than 100 reviews (or all tiles) for the audit.
    """
    names, tiles, mean, variance = _anticipated(frame, _flagged_or_not(frame), assumed)
    whole = np.array([name == "flagged" for name in names])
    left = budget - int(tiles[whole].sum())
    if left < min(LEAST_AUDIT, int(tiles[~whole].sum())):
        raise EstimateError(
            f"{tiles[whole].sum()} tiles are flagged and {budget} can be reviewed: too few are left for the audit of "
            f"unflagged ones (at least {LEAST_AUDIT}); review more, flag less, or use the stratified design"
        )
    reviews = tiles.copy()
    reviews[~whole] = allocate(tiles[~whole], np.sqrt(variance[~whole]), left)
    return _design("census+audit", names, tiles, reviews, mean, variance, assumed, level)


def random(frame: pd.DataFrame, budget: int, assumed: Assumptions, level: float = 0.95) -> Design:
    """Tiles at random; ground that was not searched stays a stratum of its own."""
    _, tiles, mean, variance = _anticipated(frame, frame["stratum"], assumed)
    share = tiles / tiles.sum()
    together = float((share * mean).sum())
    spread = float((share * (variance + (mean - together) ** 2)).sum())
    n = min(budget, int(tiles.sum()))
    one = np.array([tiles.sum()])
    return _design("random", ["all"], one, np.array([n]), np.array([together]), np.array([spread]), assumed, level)


def propose(
    frame: pd.DataFrame,
    budget: int | None = None,
    half_width: float | None = None,
    kind: str | None = None,
    assumed: Assumptions | None = None,
    level: float = 0.95,
) -> list[Design]:
    """Designs for a budget of reviews, or for a wanted half-width (a share of the count); the best one first.

    With a budget the best is the one with the narrowest expected interval; with a wanted half-width, the one
    that needs the fewest reviews.

    Raises:
        EstimateError: if neither or both are given, or no design can do it.
    """
    if (budget is None) == (half_width is None):
        raise EstimateError("give either a budget of reviews or a wanted half-width")
    if budget is not None and budget < 2:
        raise EstimateError(f"a budget of {budget} reviews gives no interval: at least 2, better 500 and more")
    if half_width is not None and not 0 < half_width < 10:
        raise EstimateError(f"a half-width of {half_width} is none: give a share of the count, e.g. 0.1 for 10 %")
    kinds = KINDS if kind is None else (kind,)
    assumed = assumed or Assumptions()
    found, reasons = [], []
    for name in kinds:
        try:
            if budget is not None:
                found.append(_MAKERS[name](frame, budget, assumed, level))
            else:
                assert half_width is not None
                found.append(_smallest(frame, name, half_width, assumed, level))
        except EstimateError as error:
            reasons.append(str(error))
    if not found:
        raise EstimateError(reasons[0])
    key = (lambda design: design.half_width) if budget is not None else (lambda design: design.n_reviews)
    return sorted(found, key=key)


def draw(frame: pd.DataFrame, design: Design, seed: int) -> pd.DataFrame:
    """Draw the sample: `tile_id, stratum, stratum_size, inclusion_probability`, in random order.

    The same frame, design and seed give the same sample, whatever the order of the frame's rows.
    """
    labels = {"stratified": frame["stratum"], "census+audit": _flagged_or_not(frame)}.get(
        design.kind, pd.Series("all", index=frame.index)
    )
    rng = np.random.default_rng(seed)
    parts = []
    for stratum in design.strata:
        tiles = np.sort(frame.loc[labels == stratum.name, "tile_id"].to_numpy(str))
        if len(tiles) != stratum.tiles:
            raise EstimateError(f"stratum '{stratum.name}' has {len(tiles)} tiles, the design {stratum.tiles}: redo it")
        chosen = rng.choice(tiles, stratum.reviews, replace=False)
        parts.append(
            pd.DataFrame(
                {
                    "tile_id": chosen,
                    "stratum": stratum.name,
                    "stratum_size": stratum.tiles,
                    "inclusion_probability": stratum.reviews / stratum.tiles,
                }
            )
        )
    drawn = pd.concat(parts, ignore_index=True)
    return drawn.iloc[rng.permutation(len(drawn))].reset_index(drop=True)


def _design(
    kind: str,
    names: list[str],
    tiles: Integers,
    reviews: Integers,
    mean: Floats,
    variance: Floats,
    assumed: Assumptions,
    level: float,
) -> Design:
    strata = tuple(
        Stratum(name, int(size), int(n), float(m), float(v))
        for name, size, n, m, v in zip(names, tiles, reviews, mean, variance, strict=True)
    )
    weight = tiles / np.maximum(reviews, 1)
    sampled = reviews < tiles
    certain = float((tiles * mean)[~sampled].sum())
    rest = float((tiles * mean)[sampled].sum())
    spread = float((weight * (tiles - reviews) * variance).sum())
    extra = float((weight * sampled).max(initial=0)) * assumed.clustering
    low, high = fay_feuer(rest, spread, extra, level)
    return Design(kind, strata, assumed, level, certain + rest, certain + float(low), certain + float(high))


def _anticipated(
    frame: pd.DataFrame, labels: pd.Series, assumed: Assumptions
) -> tuple[list[str], Integers, Floats, Floats]:
    """Strata with their tiles, and the sites a tile one may expect there with their variance.

    Half of the missed sites are put into unflagged tiles, half beside detections: sites cluster.
    """
    grouped = frame.groupby(labels.to_numpy(), sort=True)["n_flagged"]
    tiles: Integers = np.asarray(grouped.size(), np.int64)
    flagged = grouped.mean().to_numpy(float)
    within = np.nan_to_num(grouped.var(ddof=0).to_numpy(float))
    names = [str(name) for name in grouped.groups]
    found = float((tiles * flagged).sum()) * assumed.precision
    missed = max(found, 1.0) * (1 - assumed.recall) / assumed.recall
    empty = flagged == 0
    beside = np.where(empty, 0, flagged / max(float((tiles * flagged).sum()), 1)) * missed * (0.5 if empty.any() else 1)
    alone = np.where(empty, missed * (0.5 if (~empty).any() else 1) / max(int(tiles[empty].sum()), 1), 0)
    # ground nobody searched holds what the rest holds, found and missed
    unseen = np.array([name == NOT_SEARCHED for name in names])
    everywhere = (found + missed) / max(int(tiles[~unseen].sum()), 1)
    mean = np.where(unseen, everywhere, flagged * assumed.precision + beside + alone)
    of_found = assumed.precision * (1 - assumed.precision) * flagged + assumed.precision**2 * within
    variance = of_found + assumed.clustering * (beside + alone)
    return names, tiles, mean, np.where(unseen, assumed.clustering * everywhere, variance)


def _flagged_or_not(frame: pd.DataFrame) -> pd.Series:
    label = pd.Series(np.where(frame["n_flagged"] > 0, "flagged", "unflagged"), index=frame.index)
    return label.where(frame["stratum"] != NOT_SEARCHED, NOT_SEARCHED)


def _whole_shares(tiles: Integers, claim: Floats, budget: int, floor: Integers) -> Integers:
    """Whole numbers in proportion to the claims, between floor and tiles, that sum to the budget."""
    low, high = 0.0, 1.0
    while np.clip(high * claim, floor, tiles).sum() < budget:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * claim, floor, tiles).sum() < budget else (low, middle)
    exact = np.clip(high * claim, floor, tiles)
    share = np.maximum(np.floor(exact + 1e-9).astype(np.int64), floor)
    left = budget - int(share.sum())
    order = np.argsort(-(exact - share), kind="stable")
    for k in [*order, *order]:
        if left > 0 and share[k] < tiles[k]:
            share[k] += 1
            left -= 1
    return share


def _smallest(frame: pd.DataFrame, kind: str, half_width: float, assumed: Assumptions, level: float) -> Design:
    """The fewest reviews with which the expected half-width is reached, by bisection."""
    low, high = 2, len(frame)
    best = _MAKERS[kind](frame, high, assumed, level)
    while low < high:
        middle = (low + high) // 2
        try:
            tried = _MAKERS[kind](frame, middle, assumed, level)
        except EstimateError:
            low = middle + 1
            continue
        if tried.half_width <= half_width:
            best, high = tried, middle
        else:
            low = middle + 1
    return best


_MAKERS = {"stratified": stratified, "census+audit": census, "random": random}
