"""The tables estimates rest on, checked: the frame, the sample drawn from it, and what reviewers found.

**Frame**, one row a tile of the searched ground, all of it:

    tile_id      unique
    n_flagged    detections in the tile, 0 or more           (0 where the column is missing)
    stratum      text                                        (by flagged count where missing)
    score        highest score in the tile, 0 to 1           (optional)
    predicted    sites the detector says are there, any number 0 or more (n_flagged where missing)
    status       ok, failed, missing or not_run              (ok where missing)
    any others   area, class, season: to take estimates apart

**Reviews**, one row a reviewed tile:

    tile_id                the frame's
    n_sites                sites in the tile, as reviewers say; empty: drawn but not answered yet
    n_hits                 how many of the tile's detections are sites           (optional)
    probability            that the tile holds sites at all, a consensus, 0 to 1 (optional)
    status, answer         settled, and yes or no: a coordinator's last word     (optional)
    stratum, stratum_size  as drawn (`geoslave estimate design` writes them)     (optional)
    inclusion_probability  in (0, 1], as drawn                                   (optional)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from geoslave.errors import EstimateError

SEARCHED = "ok"
GAPS = ("failed", "missing", "not_run")
"""What a frame's `status` says of ground the detector did not see."""
NOT_SEARCHED = "not searched"
"""The stratum that gaps become on request."""
FLAGGED_BINS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, None))
"""Strata by flagged count: each from, to (both included)."""


def read_table(path: str | Path) -> pd.DataFrame:
    """Read CSV or Parquet; ids stay text.

    Raises:
        EstimateError: if the file is missing, empty, or no table.
    """
    path = Path(path)
    if not path.is_file():
        raise EstimateError(f"{path} is not there: check the name")
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype={"tile_id": str, "task_id": str, "stratum": str, "reviewer": str})
    except Exception as error:  # every reader has its own errors
        raise EstimateError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error
    if table.empty:
        raise EstimateError(f"{path} has no rows: there is nothing to estimate from")
    return table


def checked_frame(frame: pd.DataFrame, gaps: str = "refuse") -> pd.DataFrame:
    """The frame with every column an estimate needs (see the module).

    Args:
        gaps: "refuse" ground that was not searched, or take it as a "stratum" of its own.

    Raises:
        EstimateError: if a column is missing or holds what it cannot, or ground was not searched.
    """
    _need(frame, "tile_id", "the frame")
    _no_duplicates(frame, "the frame")
    frame = frame.assign(tile_id=frame["tile_id"].astype(str)).reset_index(drop=True)
    gap = _gaps(frame)
    if gap.any() and gaps != "stratum":
        raise EstimateError(
            f"the frame has {gap.sum()} tiles that were not searched (status failed, missing or not_run): run them "
            "again, or ask for --gaps stratum, which counts them as a stratum of their own that needs reviews"
        )
    frame["n_flagged"] = _whole(frame, "n_flagged", "the frame") if "n_flagged" in frame else 0
    if "predicted" in frame:
        frame["predicted"] = _numbers(frame, "predicted", "the frame", low=0)
    else:
        frame["predicted"] = frame["n_flagged"].astype(float)
    if "score" in frame:
        frame["score"] = _numbers(frame, "score", "the frame", low=0, high=1)
    frame["stratum"] = _strata(frame)
    frame.loc[gap, "stratum"] = NOT_SEARCHED
    return frame


def checked_reviews(reviews: pd.DataFrame, frame: pd.DataFrame, *, repeats: bool = False) -> pd.DataFrame:
    """The reviews, joined with what the frame says of their tiles; unanswered ones have no n_sites.

    Args:
        frame: checked.
        repeats: a tile may stand there several times (drawn with replacement).

    Raises:
        EstimateError: if a column is missing or holds what it cannot, or the sample does not match the frame.
    """
    if reviews.empty:
        raise EstimateError("the reviews have no rows: there is nothing to estimate from")
    _need(reviews, "tile_id", "the reviews")
    _need(reviews, "n_sites", "the reviews")
    if not repeats:
        _no_duplicates(reviews, "the reviews")
    reviews = reviews.assign(tile_id=reviews["tile_id"].astype(str)).reset_index(drop=True)
    strangers = reviews[~reviews["tile_id"].isin(frame["tile_id"])]
    if len(strangers):
        raise EstimateError(
            f"{len(strangers)} reviewed tiles are not in the frame (the first: {strangers['tile_id'].iloc[0]}): "
            "give the frame the sample was drawn from"
        )
    reviews["n_sites"] = _whole(reviews, "n_sites", "the reviews", missing=True)
    if "inclusion_probability" in reviews:
        reviews["inclusion_probability"] = _probabilities(reviews)
    if "probability" in reviews:
        reviews["probability"] = _numbers(reviews, "probability", "the reviews", low=0, high=1, missing=True)
    if "n_hits" in reviews:
        reviews["n_hits"] = _whole(reviews, "n_hits", "the reviews", missing=True)
    known = frame.set_index("tile_id").reindex(reviews["tile_id"]).reset_index()
    for name in known.columns.difference(reviews.columns):
        reviews[name] = known[name]
    _check_hits(reviews)
    return reviews


def by_flagged(n_flagged: pd.Series) -> pd.Series:
    """The stratum of each tile by how many detections it has: "flagged 0", "flagged 3-4", "flagged 5+"."""
    names = np.array([_bin_name(low, high) for low, high in FLAGGED_BINS])
    lows = [low for low, _ in FLAGGED_BINS]
    return pd.Series(names[np.searchsorted(lows, n_flagged.to_numpy(), side="right") - 1], index=n_flagged.index)


def _bin_name(low: int, high: int | None) -> str:
    if high is None:
        return f"flagged {low}+"
    return f"flagged {low}" if low == high else f"flagged {low}-{high}"


def _strata(frame: pd.DataFrame) -> pd.Series:
    if "stratum" not in frame:
        return by_flagged(frame["n_flagged"])
    if frame["stratum"].isna().any():
        raise EstimateError(f"the frame has {frame['stratum'].isna().sum()} tiles without a stratum: fill the column")
    return frame["stratum"].astype(str)


def _gaps(frame: pd.DataFrame) -> pd.Series:
    if "status" not in frame:
        return pd.Series(False, index=frame.index)
    status = frame["status"].astype(str).str.strip().str.lower()
    odd = status[~status.isin((SEARCHED, "done", *GAPS))]
    if len(odd):
        raise EstimateError(f"the frame has the status '{odd.iloc[0]}': use ok, failed, missing or not_run")
    return status.isin(GAPS)


def _need(table: pd.DataFrame, column: str, what: str) -> None:
    if column not in table:
        raise EstimateError(f"{what}: there is no column '{column}', only {', '.join(map(str, table.columns))}")
    if column == "tile_id" and table[column].isna().any():
        raise EstimateError(f"{what} has {table[column].isna().sum()} rows without a tile_id: name every tile")


def _no_duplicates(table: pd.DataFrame, what: str) -> None:
    twice = table.loc[table["tile_id"].astype(str).duplicated(), "tile_id"]
    if len(twice):
        raise EstimateError(
            f"{what} has {len(twice)} duplicate rows (the first: tile {twice.iloc[0]}): each tile counts once, "
            "so keep one row a tile"
        )


def _numbers(
    table: pd.DataFrame,
    column: str,
    what: str,
    low: float = -np.inf,
    high: float = np.inf,
    missing: bool = False,
) -> pd.Series:
    given = table[column]
    number = pd.to_numeric(given, errors="coerce").astype(float)
    empty = given.isna() | (given.astype(str).str.strip() == "")
    bad = (number.isna() & ~empty) | (empty & (not missing)) | number.lt(low) | number.gt(high) | np.isinf(number)
    if bad.any():
        limits = {(-np.inf, np.inf): "a number", (0, np.inf): "0 or more"}.get((low, high), f"from {low} to {high}")
        raise EstimateError(
            f"{what}: column '{column}' holds {_said(given[bad].iloc[0])} in {bad.sum()} rows: it must be {limits}"
        )
    return number


def _said(value: object) -> str:
    """A cell of a table as a message shows it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _whole(table: pd.DataFrame, column: str, what: str, missing: bool = False) -> pd.Series:
    number = _numbers(table, column, what, missing=missing)
    bad = number.notna() & ((number < 0) | (number != np.floor(number)))
    if bad.any():
        raise EstimateError(
            f"{what}: column '{column}' holds {number[bad].iloc[0]:g} in {bad.sum()} rows: a count is a whole number, "
            "0 or more"
        )
    return number if missing else number.astype(int)


def _probabilities(reviews: pd.DataFrame) -> pd.Series:
    number = pd.to_numeric(reviews["inclusion_probability"], errors="coerce").astype(float)
    bad = ~(number.gt(0) & number.le(1))
    if bad.any():
        raise EstimateError(
            f"the reviews: inclusion_probability is {_said(reviews['inclusion_probability'][bad].iloc[0])} in "
            f"{bad.sum()} rows: it must be above 0 and at most 1; without it no honest interval is possible"
        )
    return number


def _check_hits(reviews: pd.DataFrame) -> None:
    if "n_hits" not in reviews:
        return
    for other, why in (("n_sites", "sites in the tile"), ("n_flagged", "detections in the tile")):
        bad = reviews["n_hits"] > reviews[other]
        if bad.any():
            raise EstimateError(
                f"the reviews: tile {reviews['tile_id'][bad].iloc[0]} has more n_hits than {why}: mend it"
            )
