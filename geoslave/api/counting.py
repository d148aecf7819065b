"""How many there are, in a notebook: which tiles to review, and the count with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from geoslave import display
from geoslave.estimate import count as counting
from geoslave.estimate.rates import detector_rates
from geoslave.estimate.sample import Assumptions, Design, draw, propose
from geoslave.estimate.tables import checked_frame, read_table

Table: TypeAlias = str | Path | pd.DataFrame
"""A table, or the CSV or Parquet file that holds it."""


@dataclass(frozen=True, slots=True)
class ReviewPlan:
    """Which tiles to review, and what to expect of it."""

    designs: tuple[Design, ...]
    """The best first."""
    sample: pd.DataFrame = field(repr=False)
    """Drawn by the best: `tile_id, stratum, stratum_size, inclusion_probability`, and `n_sites` to be filled in."""
    seed: int

    @property
    def table(self) -> pd.DataFrame:
        """The strata of the best design: tiles and reviews."""
        strata = self.designs[0].strata
        return pd.DataFrame({"tiles": [s.tiles for s in strata], "reviews": [s.reviews for s in strata]},
                            index=[s.name for s in strata])  # fmt: skip

    def _repr_html_(self) -> str:
        best = self.designs[0]
        rows = [(name, f"{row['reviews']:,}", f"{row['tiles']:,}") for name, row in self.table.iterrows()]
        bars = [
            display.Bar(f"{one.kind}, {one.n_reviews:,}", one.expected, one.expected_low, one.expected_high)
            for one in self.designs
        ]
        return display.page(
            f"{best.kind}: {best.n_reviews:,} tiles to review",
            display.table(("stratum", "reviews", "of tiles"), rows),
            display.line("Then expect (design, reviews):"),
            display.intervals(bars),
            small=best.assumptions.words() + "; wrong suppositions cost width, not honesty",
        )


def plan_review(
    frame: Table,
    reviews: int | None = None,
    *,
    half_width: float | None = None,
    kind: str | None = None,
    recall: float = 0.75,
    precision: float = 0.75,
    clustering: float = 2.5,
    level: float = 0.95,
    gaps: str = "refuse",
    seed: int = 0,
) -> ReviewPlan:
    """Propose which tiles of a frame to review and draw them, as `geoslave estimate design` does.

    Args:
        frame: one row a tile: tile_id, n_flagged, ... (see `geoslave.estimate.tables`).
        reviews: how many can be reviewed; or give `half_width`, the interval you want, as a share of the count.
        kind: stratified, census+audit or random. None: the best.
        recall, precision, clustering: what you suppose of the detector.

    Raises:
        EstimateError: if the frame cannot be used, or no design can do it.
    """
    tiles = checked_frame(_table(frame), gaps)
    supposed = Assumptions(recall, precision, clustering)
    designs = propose(tiles, reviews, half_width, kind, supposed, level)
    return ReviewPlan(tuple(designs), draw(tiles, designs[0], seed).assign(n_sites=np.nan, n_hits=np.nan), seed)


@dataclass(frozen=True, slots=True)
class Count:
    """How many sites there are, with what the figure rests on."""

    total: counting.Estimate
    parts: dict[str, dict[str, counting.Estimate]] = field(default_factory=dict)
    """By column, then by value."""
    rates: dict[str, counting.Estimate] = field(default_factory=dict)
    """Recall and precision of the detector, where the reviews have them."""

    @property
    def table(self) -> pd.DataFrame:
        """Every figure: columns value, low, high, n_reviewed; rows total, then (column, value)."""
        rows = {("total", ""): self.total}
        rows |= {(by, name): one for by, groups in self.parts.items() for name, one in groups.items()}
        rows |= {("detector", name): one for name, one in self.rates.items()}
        figures = [(one.value, one.low, one.high, one.n_reviewed) for one in rows.values()]
        index = pd.MultiIndex.from_tuples(list(rows), names=["by", "of"])
        return pd.DataFrame(figures, index, ["value", "low", "high", "n_reviewed"])

    def _repr_html_(self) -> str:
        one = self.total
        bars = [display.Bar("all", one.value, one.low, one.high)]
        charts = [display.intervals(bars)]
        for by, groups in self.parts.items():
            bars = [display.Bar(name, part.value, part.low, part.high) for name, part in groups.items()]
            charts += [display.line(f"By {by}:"), display.intervals(bars)]
        if self.rates:
            bars = [display.Bar(name, rate.value, rate.low, rate.high) for name, rate in self.rates.items()]
            charts += [display.line("The detector:"), display.intervals(bars, 2, top=1.0)]
        said = display.said(display.Bar("", one.value, one.low, one.high))
        return display.page(
            f"{said} sites, {one.level:.0%} interval, from {one.n_reviewed:,} reviewed tiles",
            *charts,
            *(display.line(f"Note: {warning}") for warning in one.warnings),
            small=one.assumptions,
        )


def count_sites(
    frame: Table,
    reviews: Table,
    *,
    by: Sequence[str] = (),
    rates: bool = False,
    method: str = "gamma",
    level: float = 0.95,
    gaps: str = "refuse",
    votes: Table | None = None,
    gold: Table | None = None,
    seed: int = 0,
) -> Count:
    """How many sites a frame holds, from reviews of a sample of its tiles, as `geoslave estimate count` does.

    Args:
        frame, reviews: see `geoslave.estimate.tables`.
        by: columns to take the count apart by.
        rates: also recall and precision of the detector.
        votes, gold: reviewers' votes and known tiles: their errors are carried through.

    Raises:
        EstimateError: if the tables cannot be used.
    """
    tiles, found = _table(frame), _table(reviews)
    cast, known = (None if one is None else _table(one) for one in (votes, gold))
    options: dict[str, Any] = {"level": level, "gaps": gaps}
    erring: dict[str, Any] = {"votes": cast, "gold": known, "seed": seed}
    total = counting.count_sites(tiles, found, method, **options, **erring)
    parts = {name: counting.count_by(tiles, found, name, method, **options, **erring) for name in by}
    return Count(total, parts, detector_rates(tiles, found, **options) if rates else {})


def _table(given: Table) -> pd.DataFrame:
    return given if isinstance(given, pd.DataFrame) else read_table(given)
