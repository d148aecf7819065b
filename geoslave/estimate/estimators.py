"""The other estimators of the literature, as formulas: numbers in, value and interval out.

They are here to compare with and for those who need them; the default is
`geoslave.estimate.intervals.compound`. Where each fails is measured in docs/coverage.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoslave.errors import EstimateError
from geoslave.estimate.intervals import Moments, checked_level, normal_quantile, wald

Floats = NDArray[np.float64]
Interval = tuple[float, float, float]
"""Value, low, high."""


def difference(predicted: ArrayLike, y: ArrayLike, yhat: ArrayLike, level: float = 0.95) -> Interval:
    """Difference estimator from a simple random sample: T = sum yhat + N mean(y - yhat) (Cochran 1977, ch. 7).

    Args:
        predicted: [N], what the detector says of every tile.
        y, yhat: [n], sites and prediction of the reviewed tiles.
    """
    predicted, d = np.asarray(predicted, float), np.asarray(y, float) - np.asarray(yhat, float)
    tiles, n = len(predicted), len(d)
    if n < 2:
        raise EstimateError(f"{n} reviewed tiles give no variance: review at least 2")
    total = predicted.sum() + tiles * d.mean()
    low, high = wald(total, tiles**2 * (1 - n / tiles) * d.var(ddof=1) / n, level)
    return float(total), float(low), float(high)


def stratified_difference(predicted_total: float, differences: Moments, level: float = 0.95) -> Interval:
    """The same in strata: predictions of all tiles plus the stratified total of y - yhat."""
    total = predicted_total + float(differences.total)
    low, high = wald(total, _plain_variance(differences), level)
    return total, float(low), float(high)


def stratified_wald(sites: Moments, level: float = 0.95) -> Interval:
    """The stratified total with a normal interval."""
    low, high = wald(sites.total, _plain_variance(sites), level)
    return float(sites.total), float(low), float(high)


def discount(g: ArrayLike, drawn: ArrayLike, counts: ArrayLike, level: float = 0.95) -> Interval:
    """DISCount (Perez et al. 2024, AAAI): tiles drawn with replacement in proportion to g.

    F = G mean(f / g) with G = sum g; +- z sd / sqrt(n), sd with ddof 0 as released.

    Args:
        g: [N], the detector's counts, above 0 everywhere a site may be.
        drawn: [n], positions of the drawn tiles, repeats included.
        counts: [n], their true counts.
    """
    g, f = np.asarray(g, float), np.asarray(counts, float)
    if (g < 0).any() or not g.sum() > 0:
        raise EstimateError("DISCount draws in proportion to g: it must be 0 or more, and above 0 somewhere")
    chosen = g[np.asarray(drawn, np.intp)]
    if (chosen <= 0).any():
        raise EstimateError("a tile with g = 0 was drawn: DISCount cannot draw it, so the sample is another one")
    if not len(f):
        raise EstimateError("no tile was drawn: there is nothing to estimate from")
    ratio = f / chosen
    value = g.sum() * ratio.mean()
    half = normal_quantile(level) * g.sum() * ratio.std() / np.sqrt(len(f))
    return float(value), float(value - half), float(value + half)


def ppi_mean(
    y: ArrayLike, yhat: ArrayLike, yhat_unlabelled: ArrayLike, lam: float | None = None, level: float = 0.95
) -> Interval:
    """PPI++ mean (Angelopoulos, Duchi and Zrnic 2023): theta = lam mean(yhat_u) + mean(y - lam yhat).

    Args:
        lam: trust in the predictions, 0 to 1; None tunes it for the least variance, as ppi_py does.
    """
    y, yhat, rest = (np.asarray(value, float) for value in (y, yhat, yhat_unlabelled))
    if len(y) < 2 or not len(rest):
        raise EstimateError("PPI++ needs at least 2 reviewed tiles, and predictions of tiles that were not reviewed")
    lam = ppi_lambda(y, yhat, rest) if lam is None else lam
    value = lam * rest.mean() + (y - lam * yhat).mean()
    low, high = wald(value, lam**2 * rest.var() / len(rest) + (y - lam * yhat).var() / len(y), level)
    return float(value), float(low), float(high)


def ppi_lambda(y: Floats, yhat: Floats, yhat_unlabelled: Floats) -> float:
    """The trust that minimises the variance: cov(y, yhat) / ((1 + n/N) var(yhat)), kept within 0 and 1."""
    spread = np.concatenate([yhat, yhat_unlabelled]).var(ddof=1)
    if spread == 0:
        return 0.0
    together = ((y - y.mean()) * (yhat - yhat.mean())).mean()
    return float(np.clip(together / ((1 + len(y) / len(yhat_unlabelled)) * spread), 0, 1))


def chapman(n1: int, n2: int, both: int, level: float = 0.95) -> tuple[float, float, float, float]:
    """Chapman's estimate (1951) from two independent lists without false entries: value, se, low, high.

    The interval is Sadinle's (2009), on the log scale of the unseen, which respects the number seen.

    Args:
        n1, n2: entries of each list; both: entries on both.
    """
    for name, count in (("first list", n1), ("second list", n2), ("both lists", both)):
        if count < 0 or count != int(count):
            raise EstimateError(f"{name}: {count} is no count: give a whole number, 0 or more")
    if both > min(n1, n2):
        raise EstimateError(f"{both} sites on both lists, but the shorter one has {min(n1, n2)}: check the matching")
    value = (n1 + 1) * (n2 + 1) / (both + 1) - 1
    variance = (n1 + 1) * (n2 + 1) * (n1 - both) * (n2 - both) / ((both + 1) ** 2 * (both + 2))
    a, b, m = n1 - both + 0.5, n2 - both + 0.5, both + 0.5
    seen, unseen = n1 + n2 - both, a * b / m
    factor = np.exp(normal_quantile(checked_level(level)) * np.sqrt(1 / m + 1 / a + 1 / b + m / (a * b)))
    return (
        float(value),
        float(np.sqrt(variance)),
        float(seen - 0.5 + unseen / factor),
        float(seen - 0.5 + unseen * factor),
    )


def _plain_variance(moments: Moments) -> float:
    """The variance as textbooks have it, 0 where all tiles of a stratum were alike."""
    n = np.maximum(moments.reviewed, 1)
    s2 = np.maximum(moments.sum2 - moments.sum1**2 / n, 0) / np.maximum(n - 1, 1)
    return float((moments.weight * np.maximum(moments.tiles - moments.reviewed, 0) * s2).sum(-1))
