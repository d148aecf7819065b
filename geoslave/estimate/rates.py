"""Recall and precision of a detector, from reviews of a sample of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geoslave.estimate import intervals
from geoslave.estimate.intervals import Floats
from geoslave.estimate.result import Estimate
from geoslave.estimate.reviewed import Sample, take_sample


def detector_rates(
    frame: pd.DataFrame, reviews: pd.DataFrame, level: float = 0.95, gaps: str = "refuse"
) -> dict[str, Estimate]:
    """Recall and precision of the detector over the whole frame, with intervals.

    From n_hits (detections confirmed); where it is missing, the smaller of n_flagged and n_sites stands for
    it, which takes a false alarm beside a missed site for a hit, and the estimate says so.
    """
    _, sample = take_sample(frame, reviews, gaps)
    return rates_of(sample, level)


def rates_of(sample: Sample, level: float, inside: NDArray[np.bool_] | None = None) -> dict[str, Estimate]:
    """Recall and precision of a sample, or of the part of it that is `inside`."""
    if inside is not None:  # strata the part was never seen in add nothing to its doubt
        there = np.bincount(sample.stratum, weights=inside, minlength=len(sample.names)) > 0
        sample = replace(sample, tiles=np.where(there, sample.tiles, sample.reviewed))
    table = sample.table
    keep = np.ones(len(table)) if inside is None else inside.astype(float)
    hits, warnings = confirmed(table)
    sites, flagged = table["n_sites"].to_numpy(float), table["n_flagged"].to_numpy(float)
    warnings = (*sample.warnings, *warnings)
    n = int(keep.sum())
    # a stratum without a detection holds no false alarm, so it adds nothing to the doubt about precision
    blank = np.zeros(len(sample.names), bool) if sample.blank is None else sample.blank
    seen = replace(sample, tiles=np.where(blank, sample.reviewed, sample.tiles))
    return {
        "recall": _ratio(sample, hits * keep, (sites - hits) * keep, level, "recall, gamma interval", n, warnings),
        "precision": _ratio(
            seen, hits * keep, (flagged - hits) * keep, level, "precision, gamma interval", n, warnings
        ),
    }


def confirmed(table: pd.DataFrame) -> tuple[Floats, tuple[str, ...]]:
    """Detections confirmed in each reviewed tile, and a warning where that is a guess."""
    guess = np.minimum(table["n_flagged"].to_numpy(float), table["n_sites"].to_numpy(float))
    if "n_hits" not in table:
        return guess, ("no column n_hits: a false alarm in a tile with a missed site was taken for a hit",)
    given = table["n_hits"].to_numpy(float)
    empty = int((np.isnan(given) & (table["n_flagged"].to_numpy() > 0)).sum())
    told = f"n_hits is empty in {empty} tiles with detections: there the smaller of n_flagged and n_sites was taken"
    return np.where(np.isnan(given), guess, given), (told,) if empty else ()


def _ratio(
    sample: Sample, good: Floats, bad: Floats, level: float, method: str, n: int, warnings: Sequence[str]
) -> Estimate:
    """good / (good + bad) as 1 / (1 + r), r = bad / good, with the gamma interval of r times good.

    The variance is that of bad - r good (linearised), so that doubt about both is in it.
    """
    total_good, total_bad = float(sample.moments(good).total), float(sample.moments(bad).total)
    if total_good + total_bad <= 0:
        return Estimate(0.0, 0.0, 1.0, level, method, n, (*warnings, "neither site nor detection there"))
    if total_good <= 0:
        return Estimate(0.0, 0.0, 1.0, level, method, n, (*warnings, "not one hit: the interval says nothing"))
    r = total_bad / total_good
    moments = sample.moments(bad)
    low, high = intervals.fay_feuer(
        total_bad, float(sample.moments(bad - r * good).variance), float(intervals.compound_extra(moments)), level
    )
    value, worst, best = (1 / (1 + part / total_good) for part in (total_bad, float(high), float(low)))
    return Estimate(value, worst, best, level, method, n, tuple(warnings))
