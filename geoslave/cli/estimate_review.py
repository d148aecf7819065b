"""A review as what `geoslave estimate count --review` counts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from geoslave.review.counting import ReviewTables


def read_review(review: str, frame: pd.DataFrame | None = None) -> ReviewTables:
    """Its tasks, their chances, and what people said of them.

    Args:
        review: its folder, its database file, or a PostgreSQL URL.
        frame: instead of the frame.csv in the folder.

    Raises:
        EstimateError: if the review was a triage, which draws nothing at random, or has no frame.
        ReviewError: if it is not there, or nobody voted.
    """
    from geoslave.cli.review import open_review
    from geoslave.review.counting import read_tables

    with open_review(review) as store:
        return read_tables(store, lambda: _given(frame, review))


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
