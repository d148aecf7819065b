"""Does a confidence of 0.8 mean that 8 of 10 such detections are sites? Figures and bins that say so.

**Expected calibration error** (ECE; Naeini et al. 2015, AAAI; Guo et al. 2017, ICML): detections are
put in bins by confidence; the difference between a bin's mean confidence and its share of hits,
weighted by the detections in it, sum_b n_b / n * |mean confidence_b - hit rate_b|.

Binned ECE is **biased upward** where detections are few: a bin's share of hits scatters about its
true value, and the absolute value turns all scatter into error. `ece_debiased` takes the expected
scatter off (Kumar et al. 2019, NeurIPS: the plug-in less its estimated bias; the mean of the absolute
value of a normal variable is known in closed form, Leone et al. 1961). It is a first-order remedy: of
the error that 40 detections of a perfect forecaster show, it takes off a third. Report both where n
is small.

**Brier score** (Brier 1950): the mean of (confidence - hit)^2; it needs no bins and punishes a
confidence that is right on average but says nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_BINS = 10
LEVEL = 0.95
FEWEST_IN_BIN = 10
"""Bins of fewer detections say nothing: fewer bins are made instead."""
_Z = 1.959963984540054
_CELLS_AT_ONCE = 4_000_000  # replicates x detections held at a time

Floats = NDArray[np.float64]
Index = NDArray[np.intp]
Binning = Literal["mass", "width"]


@dataclass(frozen=True, slots=True)
class Bin:
    """Detections of like confidence."""

    low: float
    high: float
    """Bins meet: the first starts at 0, the last ends at 1."""
    mean_confidence: float
    hit_rate: float
    hit_low: float
    hit_high: float
    """Wilson's 95 % interval (1927) of the hit rate; detections taken as independent."""
    n: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """How well confidence and share of hits agree. Rates are None where there is no detection."""

    n: int
    ece: float | None
    ece_low: float | None
    ece_high: float | None
    """95 % interval by bootstrap; None with fewer than two groups."""
    ece_debiased: float | None
    """ECE less the error that scatter alone would make; at least 0."""
    brier: float | None
    brier_low: float | None
    brier_high: float | None
    n_groups: int
    """Groups (blocks, regions) that were resampled; single detections where none were given."""
    bins: tuple[Bin, ...]
    """By rising confidence; none of them empty."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def reliability(
    confidence: ArrayLike,
    hit: ArrayLike,
    n_bins: int = N_BINS,
    *,
    groups: ArrayLike | None = None,
    binning: Binning = "mass",
    n_replicates: int = 1_000,
    seed: int = 0,
) -> Reliability:
    """Agreement of confidences with what turned out to be true.

    Args:
        confidence: [n], 0 to 1.
        hit: [n], whether the detection was a site; probabilities (of unsure verdicts) are taken too.
        n_bins: at most; fewer where a bin would hold fewer than `FEWEST_IN_BIN`.
        groups: [n] numbers or names of the spatial block or region of each detection. Whole groups are
            resampled: neighbours look alike, so that single detections are no independent sample.
        binning: "mass" puts as many detections in each bin; "width" cuts [0, 1] into even parts.
        n_replicates, seed: of the bootstrap.

    Returns:
        the figures; the ECE's interval is the bootstrap's without its upward bias (resampling adds
        scatter, which ECE counts as error).

    Raises:
        ValueError: if lengths differ, or a confidence or hit lies outside [0, 1].
    """
    confidence, hit = _share(confidence, "confidence"), _share(hit, "hit")
    if confidence.shape != hit.shape:
        raise ValueError(f"{len(confidence)} confidences but {len(hit)} hits")
    n = len(confidence)
    group = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    if len(group) != n:
        raise ValueError(f"{n} confidences but {len(group)} groups")
    if not n:
        return Reliability(0, None, None, None, None, None, None, None, 0, ())
    edges = _edges(confidence, n_bins, binning)
    number = np.searchsorted(edges[1:-1], confidence, side="right")
    bins = _bins(confidence, hit, number, edges)
    square = (confidence - hit) ** 2
    ece, brier = _ece(bins, n), float(square.mean())
    n_groups = int(group.max()) + 1
    eces, briers = _replicates(confidence - hit, square, number, group, n_replicates, seed)
    ece_low, ece_high = (
        _ece_interval(ece, eces, _right(confidence, number, n_replicates, seed)) if len(eces) else (None, None)
    )
    brier_low, brier_high = _interval(brier, briers) if len(briers) else (None, None)
    return Reliability(n, ece, ece_low, ece_high, _debiased(bins, n, ece), brier, brier_low, brier_high, n_groups, bins)


def wilson(successes: float, n: float) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); (0, 1) without any trial."""
    if n <= 0:
        return 0.0, 1.0
    share = successes / n
    middle = (share + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z * np.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n)) / (1 + _Z * _Z / n)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def _share(values: ArrayLike, name: str) -> Floats:
    shares = np.asarray(values, np.float64).ravel()
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"every {name} must lie between 0 and 1")
    return shares


def _edges(confidence: Floats, n_bins: int, binning: Binning) -> Floats:
    """Borders of the bins, rising from 0 to 1; equal confidences never part."""
    n_bins = max(1, min(n_bins, len(confidence) // FEWEST_IN_BIN))
    if binning == "width":
        return np.linspace(0, 1, n_bins + 1)
    ordered = np.sort(confidence)
    cut = np.round(np.arange(1, n_bins) * len(ordered) / n_bins).astype(int)
    # a cut inside a run of equal confidences moves to where the run starts
    cut = np.unique(np.searchsorted(ordered, ordered[cut], side="left"))
    cut = cut[cut > 0]
    inner = (ordered[cut - 1] + ordered[cut]) / 2
    # between two neighbouring numbers there is no middle: the border is then the upper one
    inner = np.where(inner <= ordered[cut - 1], ordered[cut], inner)
    return np.concatenate([[0.0], inner, [1.0]])


def _bins(confidence: Floats, hit: Floats, number: Index, edges: Floats) -> tuple[Bin, ...]:
    made = []
    for k in np.unique(number):
        inside = number == k
        n = int(inside.sum())
        low, high = wilson(float(hit[inside].sum()), n)
        rate, mean = float(hit[inside].mean()), float(confidence[inside].mean())
        made.append(Bin(float(edges[k]), float(edges[k + 1]), mean, rate, min(low, rate), max(high, rate), n))
    return tuple(made)


def _ece(bins: tuple[Bin, ...], n: int) -> float:
    return sum(b.n * abs(b.mean_confidence - b.hit_rate) for b in bins) / n


def _debiased(bins: tuple[Bin, ...], n: int, ece: float) -> float:
    """ECE less its estimated bias, E|N(gap, se)| - |gap| in each bin."""
    from scipy.special import erf  # slow to import, and this module is behind every model package

    gap = np.array([b.mean_confidence - b.hit_rate for b in bins])
    # a bin whose detections are all hits would claim no scatter: its confidence says more
    rate = np.array([(b.hit_rate + b.mean_confidence) / 2 for b in bins])
    size = np.array([b.n for b in bins], float)
    se = np.maximum(np.sqrt(rate * (1 - rate) / size), 1e-12)
    folded = se * np.sqrt(2 / np.pi) * np.exp(-((gap / se) ** 2) / 2) + gap * erf(gap / (se * np.sqrt(2)))
    return float(max(0.0, 2 * ece - (size * folded).sum() / n))


def _replicates(
    gap: Floats, square: Floats, number: Index, group: Index, n_replicates: int, seed: int
) -> tuple[Floats, Floats]:
    """ECE and Brier score of bootstrap replicates over groups, in the bins of the whole; none from one group."""
    n_groups = int(group.max()) + 1
    if n_groups < 2 or n_replicates < 1:
        return np.zeros(0), np.zeros(0)
    n_bins = int(number.max()) + 1
    # what a group adds: [group, bin] sums of confidence - hit, and detections and squares a group
    gaps = np.zeros((n_groups, n_bins))
    np.add.at(gaps, (group, number), gap)
    size, squares = np.bincount(group, minlength=n_groups), np.bincount(group, square, n_groups)
    generator = np.random.default_rng(seed)
    eces, briers = [], []
    step = max(1, _CELLS_AT_ONCE // n_groups)
    for start in range(0, n_replicates, step):
        draws = min(step, n_replicates - start)
        weight = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), draws)
        n = weight @ size
        eces.append(np.abs(weight @ gaps).sum(axis=1) / n)
        briers.append(weight @ squares / n)
    return np.concatenate(eces), np.concatenate(briers)


def _right(confidence: Floats, number: Index, n_replicates: int, seed: int) -> Floats:
    """ECEs that scatter alone gives a forecaster who is exactly right (consistency resampling, Bröcker and Smith 2007).

    Detections taken as independent; a bin's sum of confidence - hit as normal.
    """
    spread = np.sqrt(np.bincount(number, confidence * (1 - confidence)))
    draws = np.random.default_rng(seed).normal(size=(n_replicates, len(spread)))
    return np.asarray(np.abs(draws * spread).sum(axis=1) / len(confidence))


def _ece_interval(ece: float, replicates: Floats, right: Floats) -> tuple[float, float]:
    """Lower end by the basic bootstrap (reflected percentiles), upper end by percentiles without their upward bias.

    Scatter lifts the figure of a good forecaster, and resampling lifts it once more: plain percentiles
    would never reach down to the small error there is. Where a forecaster who is exactly right would
    show as large a figure, the lower end is 0. In simulations (a right and a boastful forecaster, 40
    to 600 detections) the interval holds the true error in 95 to 98 % of the cases.
    """
    high = np.quantile(replicates, (1 + LEVEL) / 2)
    upper = min(1.0, max(high - replicates.mean() + ece, ece))
    if ece <= np.quantile(right, (1 + LEVEL) / 2):
        return 0.0, float(upper)
    return float(max(0.0, min(2 * ece - high, ece))), float(upper)


def _interval(value: float, replicates: Floats) -> tuple[float, float]:
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(max(0.0, min(low, value))), float(min(1.0, max(high, value)))
