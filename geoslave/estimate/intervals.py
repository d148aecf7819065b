"""Intervals around weighted counts of rare things. Pure functions; arrays of any shape, one interval an element.

**Fay and Feuer (1997)**, the gamma interval of a weighted sum of Poisson counts, T = sum w x with
v = sum w^2 x:

    low  = v / 2T          chi2(a/2;     2 T^2 / v)
    high = v' / 2T'        chi2(1 - a/2; 2 T'^2 / v'),   T' = T + e, v' = v + e^2, e = max w

The upper end is that of a sample with one more site, found at the largest weight: so it says
something where nothing was found.

**The compound form**, for tiles that hold several sites. Two things change. A tile is one draw, not
its sites: v is the variance of the stratified total as its tiles show it, the sum over strata of
N^2 (1 - n/N) s^2 / n. Where sites are rare that is the compound Poisson's sum w^2 x^2; where most
tiles hold one it is far smaller. And what one more draw would find is one more *tile* with sites: e is
the largest weight times the sites that the average site finds in its tile (sum x^2 / sum x).
Measured on real frames: docs/coverage.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv
from scipy.stats import chi2, norm

from geoslave.errors import EstimateError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """What a stratified sample of tiles says. Every array is [..., H], H strata; leading axes are repetitions."""

    tiles: Floats
    """N, tiles in the frame."""
    reviewed: Floats
    """n, tiles reviewed, drawn at random without replacement in each stratum."""
    sum1: Floats
    """Sum of the reviewed tiles' counts."""
    sum2: Floats
    """Sum of their squares."""

    @property
    def weight(self) -> Floats:
        """N / n; 0 in an empty stratum."""
        return np.divide(self.tiles, self.reviewed, out=np.zeros(self._shape), where=self.reviewed > 0)

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """Strata of which a part was not reviewed: what is uncertain."""
        return np.broadcast_to(self.reviewed < self.tiles, self._shape)

    @property
    def total(self) -> Floats:
        """The stratified total, sum of N times the mean."""
        return np.asarray((self.weight * self.sum1).sum(-1))

    @property
    def certain(self) -> Floats:
        """The part of the total that comes from strata reviewed whole."""
        return np.asarray((self.sum1 * ~self.sampled).sum(-1))

    @property
    def scatter(self) -> Floats:
        """s^2, the sample variance of the counts in each stratum, not below that of one tile off by one.

        Twenty tiles alike do not prove that all are: where no tile differs from its fellows (and they
        hold sites), s^2 is taken as 1/n.
        """
        n = np.maximum(self.reviewed, 1)
        mean = self.sum1 / n
        s2 = np.maximum(self.sum2 - n * mean**2, 0) / np.maximum(n - 1, 1)
        return np.maximum(s2, np.where(self.sum1 > 0, 1 / n, 0))

    @property
    def variance_by_stratum(self) -> Floats:
        """N^2 (1 - n/N) s^2 / n (Cochran 1977, eq. 5.6); 0 where every tile was reviewed."""
        unseen = np.maximum(self.tiles - self.reviewed, 0)
        return np.asarray(self.weight * unseen * self.scatter)

    @property
    def variance(self) -> Floats:
        """The variance of the total."""
        return np.asarray(self.variance_by_stratum.sum(-1))

    @property
    def _shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.tiles.shape, self.reviewed.shape, self.sum1.shape)


def fay_feuer(total: ArrayLike, variance: ArrayLike, extra: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """The gamma interval (see the module): `extra` is what one more find would add, the largest weight.

    For the textbook form give v = sum w^2 x, for the compound Poisson form v = sum w^2 x^2.
    """
    total, variance, extra = (np.asarray(value, float) for value in (total, variance, extra))
    tail = (1 - checked_level(level)) / 2
    low = _gamma_quantile(tail, total, variance)
    return np.where(total > 0, low, 0.0), _gamma_quantile(1 - tail, total + extra, variance + extra**2)


def compound_extra(moments: Moments) -> Floats:
    """What one more tile with sites, drawn in the stratum of the largest weight, would add to the total."""
    weight = np.where(moments.sampled, moments.weight, 0)
    heaviest = weight.argmax(-1)[..., None]
    one, two = (np.take_along_axis(part, heaviest, -1)[..., 0] for part in (moments.sum1, moments.sum2))
    all_one, all_two = (moments.weight * moments.sum1).sum(-1), (moments.weight * moments.sum2).sum(-1)
    anywhere = np.divide(all_two, all_one, out=np.ones_like(all_one), where=all_one > 0)
    size = np.divide(two, one, out=anywhere.copy(), where=one > 0)
    return np.asarray(weight.max(-1) * np.maximum(size, anywhere))


def compound(moments: Moments, level: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """Total, low and high of the compound gamma interval; strata reviewed whole are certain.

    There are at least as many sites as were seen, so the lower end is not below that.
    """
    certain = moments.certain
    low, high = fay_feuer(moments.total - certain, moments.variance, compound_extra(moments), level)
    return moments.total, np.maximum(certain + low, moments.sum1.sum(-1)), certain + high


def wald(value: ArrayLike, variance: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """value +- z sqrt(variance): right where a value is near normal, which rare counts are not."""
    value = np.asarray(value, float)
    half = normal_quantile(level) * np.sqrt(np.asarray(variance, float))
    return value - half, value + half


def mixture(totals: Floats, variances: Floats, extras: Floats, certain: Floats, level: float) -> tuple[Floats, Floats]:
    """The gamma interval of data that were imputed m times: quantiles of the mixture. Arrays are [..., m].

    Each imputation has its two confidence distributions (one for the lower end, one for the upper); the
    ends are quantiles of their averages. So doubt about answers widens the interval, and where all
    imputations agree the interval is that of the one.
    """
    tail = (1 - checked_level(level)) / 2
    low = _mixture_quantile(tail, totals, variances, certain)
    high = _mixture_quantile(1 - tail, totals + extras, variances + extras**2, certain)
    return low, high


def share(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) of a share, hits of n."""
    if n == 0:
        return 0.0, 1.0
    z, p = normal_quantile(level), hits / n
    centre, half = (p + z * z / (2 * n)), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float((centre - half) / (1 + z * z / n))), min(1.0, float((centre + half) / (1 + z * z / n)))


def normal_quantile(level: float) -> float:
    """1.96 for 0.95."""
    return float(norm.ppf((1 + checked_level(level)) / 2))


def checked_level(level: float) -> float:
    """The level, if it is one.

    Raises:
        EstimateError: if it lies outside (0, 1).
    """
    if not 0 < level < 1:
        raise EstimateError(f"level is {level}: it must lie between 0 and 1, e.g. 0.95")
    return level


def _gamma_quantile(p: float, mean: Floats, variance: Floats) -> Floats:
    """Of the gamma distribution with that mean and variance; the mean itself where it has no spread."""
    mean, variance = np.broadcast_arrays(mean, variance)
    spread = (variance > 0) & (mean > 0)
    scale = np.divide(variance, mean, out=np.ones(mean.shape), where=spread)
    shape = np.divide(mean, scale, out=np.ones(mean.shape), where=spread)
    return np.where(spread, scale / 2 * chi2.ppf(p, 2 * shape), mean)


def _mixture_quantile(p: float, mean: Floats, variance: Floats, certain: Floats) -> Floats:
    from scipy.special import gammainc

    scale = np.maximum(variance, 1e-12) / np.maximum(mean, 1e-9)
    shape = np.maximum(mean, 1e-9) / scale
    ends = certain + scale * gammaincinv(shape, p)
    low, high = ends.min(-1), ends.max(-1)
    for _ in range(60):
        middle = (low + high) / 2
        below = gammainc(shape, np.maximum(middle[..., None] - certain, 0) / scale).mean(-1) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2)
