"""Intervals from resampling spatial blocks.

Neighbouring sites look alike and share their scene, so they are no independent sample; blocks of
ground are drawn instead, with replacement, and a figure of a replicate is a ratio of weighted sums.

The ends are expanded percentiles (Hesterberg 2015, "What Teachers Should Know About the
Bootstrap", section 3.3): with n blocks the plain percentiles are too narrow by about
sqrt((n - 1) / n) and by the tails of Student's t, so quantiles are taken farther out. An interval is
never narrower than the one for independent counts (Wilson 1927 for shares, Garwood 1936 for
rates): where few things failed, or none, the bootstrap alone would claim too much.

Coverage, from simulation (400 draws for each of 6 settings: recall 0.7 to 0.95, 0.1 to 0.6 false
alarms and 1.3 sites a block, all clustered: sites and alarms overdispersed, recall alike within a
block). How often the 95 % interval held the truth, lowest to highest of the settings:

| blocks | precision      | recall         | false alarms   | plain percentiles, all three |
|--------|----------------|----------------|----------------|------------------------------|
| 8      | 0.94 to 1.00   | 0.97 to 1.00   | 0.97 to 1.00   | 0.81 to 1.00                 |
| 25     | 0.94 to 1.00   | 0.96 to 1.00   | 0.94 to 1.00   | 0.90 to 1.00                 |
| 100    | 0.94 to 0.97   | 0.93 to 0.98   | 0.93 to 0.96   | 0.90 to 0.96                 |

Average precision (300 draws for each of 3 such settings, shift of confidence by block, never narrower
than Wilson's interval of a share of the sites): 0.95 to 1.00 with 8 blocks, 0.94 to 1.00 with 25, 0.93
to 0.98 with 100; without that floor 0.85 to 0.94.

Where fewer than about ten things failed, the intervals are wide rather than wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm, t

LEVEL = 0.95
N_REPLICATES = 2_000
_CELLS_AT_ONCE = 4_000_000  # replicates x detections held at a time
_Z = 1.959963984540054

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Index = NDArray[np.intp]
Weights = NDArray[np.int64]
"""[replicate, block]: how often each block was drawn."""
Interval = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def named(self, name: str) -> dict[str, float | None]:
        """`name`, `name_low` and `name_high`, as they stand in JSON."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


UNDEFINED = Figure(None)


def draw_blocks(n_blocks: int, n_replicates: int = N_REPLICATES, seed: int = 0) -> Weights:
    """How often each block is in each replicate; no replicate at all for fewer than two blocks."""
    if n_blocks < 2:
        return np.zeros((0, max(n_blocks, 1)), np.int64)
    return np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), n_replicates)


def per_block(block: Index, n_blocks: int, amount: Floats | None = None) -> Floats:
    """Sums of amounts (1 each where None) in each block."""
    return np.bincount(block, amount, minlength=max(n_blocks, 1)).astype(np.float64)


def share(part: Floats, whole: Floats, weight: Weights, *, counted: bool = True) -> Figure:
    """sum(part) / sum(whole) for sums per block [n]; undefined where the whole is nothing.

    Args:
        counted: part and whole count things (Wilson's interval is the least); not so for areas.
    """
    total = float(whole.sum())
    if total <= 0:
        return UNDEFINED
    value = float(part.sum()) / total
    low, high = _percentiles(_ratio(weight @ part, weight @ whole), int((whole > 0).sum()))
    if low is None or high is None:
        return Figure(value)
    if counted:
        least, most = wilson(float(part.sum()), total)
        low, high = min(low, least), max(high, most)
    return Figure(value, max(0.0, low), min(1.0, high))


def rate(count: Floats, exposure: Floats, weight: Weights, per: float = 100.0) -> Figure:
    """per * sum(count) / sum(exposure), e.g. false alarms per 100 km2; undefined without exposure."""
    total = float(exposure.sum())
    if total <= 0:
        return UNDEFINED
    low, high = _percentiles(per * _ratio(weight @ count, weight @ exposure), int((exposure > 0).sum()))
    value = per * float(count.sum()) / total
    if low is None or high is None:
        return Figure(value)
    least, most = (per * end / total for end in poisson(float(count.sum())))
    return Figure(value, max(0.0, min(low, least)), max(high, most))


def ratio(part: Floats, whole: Floats, weight: Weights) -> Figure:
    """sum(part) / sum(whole), which may exceed 1."""
    total = float(whole.sum())
    if total <= 0:
        return UNDEFINED
    return Figure(
        float(part.sum()) / total, *_percentiles(_ratio(weight @ part, weight @ whole), int((whole > 0).sum()))
    )


def statistic(value: float | None, replicates: Floats, n_blocks: int, n: float | None = None) -> Figure:
    """Any figure in [0, 1] with its replicates; never narrower than Wilson's interval of a share of `n` things."""
    if value is None:
        return UNDEFINED
    low, high = _percentiles(replicates, n_blocks)
    if low is None or high is None or not n:
        return Figure(value, low, high)
    least, most = wilson(value * n, n)
    return Figure(value, max(0.0, min(low, least)), min(1.0, max(high, most)))


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927)."""
    z = _Z
    part = successes / n
    middle = (part + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(max(part * (1 - part), 0) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def poisson(count: float) -> tuple[float, float]:
    """Exact interval of an expected count (Garwood 1936)."""
    low = chi2.ppf((1 - LEVEL) / 2, 2 * count) / 2 if count else 0.0
    high = chi2.ppf((1 + LEVEL) / 2, 2 * count + 2) / 2
    return float(low), float(high)


def weighted_ap(confidence: Floats, hit: Bools, weight: NDArray[np.floating[Any]], n_sites: Floats) -> Floats:
    """Average precision for each row of weights.

    Args:
        confidence: [n] falling.
        hit: [n].
        weight: [replicate, n] how often each detection counts.
        n_sites: [replicate].
    """
    if not len(confidence):
        return np.where(n_sites > 0, 0.0, np.nan)
    envelope, hits = _envelope(confidence, hit, weight)
    steps = np.diff(hits, axis=1, prepend=weight.dtype.type(0))
    return _ratio(np.einsum("rk,rk->r", envelope, steps, dtype=np.float64), n_sites)


def replicated_ap(confidence: Floats, hit: Bools, block: Index, weight: Weights, sites: Floats) -> Floats:
    """Average precision of each replicate. `sites` is per block, the rest per detection, falling."""
    # single precision, in which whole numbers below 2^24 are exact
    parts = [
        weighted_ap(confidence, hit, part[:, block].astype(np.float32), part @ sites)
        for part in _few_rows(weight, len(hit))
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def precision_band(
    confidence: Floats, hit: Bools, block: Index, weight: Weights, sites: Floats, recall: Floats
) -> tuple[Floats, Floats]:
    """Interval of the precision envelope at each recall [k]; 0 where a replicate never gets there."""
    rows = []
    for part in _few_rows(weight, len(hit)):
        envelope, hits = _envelope(confidence, hit, part[:, block].astype(np.float32))
        there = _ratio(hits, (part @ sites)[:, None])
        rows += [_at_recall(e, r, recall) for e, r in zip(envelope, there, strict=True) if not np.isnan(r).any()]
    if not rows:
        return np.full(len(recall), np.nan), np.full(len(recall), np.nan)
    tail = _tail(int((sites > 0).sum()))
    low, high = np.quantile(np.array(rows), [tail, 1 - tail], axis=0)
    return low, high


def auc(positive: Floats, negative: Floats) -> Floats:
    """Area under the receiver operating characteristic for each row; ties count half (Mann-Whitney).

    Args:
        positive, negative: [row, k] how many of each have the k-th score, rising; NaN without either.
    """
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=1)
    return _ratio(wins, positive.sum(axis=1) * negative.sum(axis=1))


def replicated_auc(positive: Floats, negative: Floats, weight: Weights) -> Floats:
    """AUC of each replicate; positive and negative are [block, k]."""
    parts = [auc(part @ positive, part @ negative) for part in _few_rows(weight, positive.shape[1])]
    return np.concatenate(parts) if parts else np.zeros(0)


def last_of_ties(confidence: Floats) -> Index:
    """Positions where a run of equal confidences ends: detections of equal confidence are one step."""
    return np.flatnonzero(np.r_[confidence[1:] != confidence[:-1], True]) if len(confidence) else np.zeros(0, np.intp)


def _envelope(
    confidence: Floats, hit: Bools, weight: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """The highest precision at each step of confidence or below, and the hits down to it: [replicate, step]."""
    steps = last_of_ties(confidence)
    found = np.cumsum(weight, axis=1)[:, steps]
    hits = np.cumsum(weight * hit, axis=1)[:, steps]
    precision = hits / np.maximum(found, 1)
    return np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1], hits


def _at_recall(envelope: NDArray[Any], there: NDArray[Any], recall: Floats) -> Floats:
    """The envelope at given recalls: the best precision among steps that reach it."""
    step = np.searchsorted(there, recall - 1e-6)
    return np.r_[envelope, 0.0][step].astype(np.float64)


def _percentiles(replicates: Floats, n_blocks: int) -> Interval:
    """Expanded percentiles of what is defined; none where nothing is, or fewer than two blocks speak."""
    usable = replicates[~np.isnan(replicates)]
    if not len(usable) or n_blocks < 2:
        return None, None
    tail = _tail(n_blocks)
    low, high = np.quantile(usable, [tail, 1 - tail])
    return float(low), float(high)


def _tail(n_blocks: int) -> float:
    """The share cut off at each end, less than 2.5 % to make up for few blocks."""
    n = max(n_blocks, 2)
    return float(norm.cdf(-sqrt(n / (n - 1)) * t.ppf((1 + LEVEL) / 2, n - 1)))


def _ratio(part: Any, whole: Any) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _few_rows(weight: Weights, n: int) -> Iterator[Weights]:
    """Some replicates at a time, so that replicates x n stays small."""
    step = max(1, _CELLS_AT_ONCE // max(n, 1))
    for start in range(0, len(weight), step):
        yield weight[start : start + step]
