"""How many sites persisted, closed and opened between two dates, corrected for what the detector misses.

Found at both dates: both; at the first: n_a, at the second: n_b. With recalls r and precisions p

    persisted = both / (r_a r_b),  closed = n_a p_a / r_a - persisted,  opened = n_b p_b / r_b - persisted.

Uncorrected, a detector with a recall of .8 "closes" a fifth of the sites that stand. The interval is a parametric
bootstrap: sites are found and missed anew, false alarms fall anew, and recalls and precisions are drawn from their
own intervals. Misses are taken to be independent between dates. Where the same sites are missed at both,
persisted comes out too high and closed and opened too low: review a sample of the changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoslave.errors import EstimateError
from geoslave.estimate.intervals import checked_level, normal_quantile
from geoslave.estimate.result import Estimate

REPLICATES = 4000
METHOD = "counts corrected for recall and precision, parametric bootstrap"

MEANINGS = {
    "persisted": "seen at the last date, and not new",
    "appeared": "seen at the last date, after an observed absence",
    "not redetected": "not seen where it could be, too seldom to say more",
    "closed": "observably absent often enough",
    "unobservable": "nobody could have seen: cloud or nodata",
}
"""What may have become of a site, in words."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rate:
    """A recall or precision with its interval; low = high = value where it is known."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 < self.value <= 1 and 0 <= self.low <= self.value <= self.high <= 1):
            raise EstimateError(
                f"a rate of {self.value:g} [{self.low:g}, {self.high:g}] is none: 0 < low <= value <= high <= 1"
            )

    def draw(self, rng: np.random.Generator, n: int, level: float) -> Floats:
        """Values it may have: normal on the log-odds scale, each side as wide as the interval says."""
        if self.low == self.high:
            return np.full(n, self.value)
        shares = np.clip([self.value, self.low, self.high], 1e-6, 1 - 1e-6)
        value, low, high = np.log(shares / (1 - shares))
        z, normal = normal_quantile(level), rng.standard_normal(n)
        logit = value + normal * np.where(normal < 0, value - low, high - value) / z
        return np.asarray(1 / (1 + np.exp(-logit)))


@dataclass(frozen=True, slots=True)
class Change:
    """Sites between two dates."""

    persisted: Estimate
    closed: Estimate
    opened: Estimate
    net: Estimate
    """Sites at the second date less those at the first."""


def corrected_change(
    n_a: int,
    n_b: int,
    both: int,
    recall_a: Rate,
    recall_b: Rate,
    precision_a: Rate = Rate(1, 1, 1),
    precision_b: Rate = Rate(1, 1, 1),
    level: float = 0.95,
    seed: int = 0,
) -> Change:
    """Counts of change with intervals (formulas: see the module). Count only ground that was observable at both dates.

    Raises:
        EstimateError: if counts contradict each other, or a rate is none.
    """
    checked_level(level)
    for name, count in (("first date", n_a), ("second date", n_b), ("both dates", both)):
        if count < 0 or count != int(count):
            raise EstimateError(f"{name}: {count} is no count: give a whole number, 0 or more")
    if both > min(n_a, n_b):
        raise EstimateError(f"{both} sites at both dates, but one date has only {min(n_a, n_b)}: check the matching")
    rates = (recall_a.value, recall_b.value, precision_a.value, precision_b.value)
    values = _figures(*(np.array([float(n)]) for n in (n_a, n_b, both)), *(np.array([rate]) for rate in rates))
    rng = np.random.default_rng(seed)
    drawn = [rate.draw(rng, REPLICATES, level) for rate in (recall_a, recall_b, precision_a, precision_b)]
    spread = _figures(*_found_anew(rng, values[:, 0], n_a, n_b, rates), *drawn)
    tail = (1 - level) / 2
    ends = np.quantile(spread, [tail, 1 - tail], axis=1)
    warnings = ["misses are taken to be independent between the dates"]
    if (values[:3, 0] < 0).any():
        warnings.append("a corrected count came out below 0 and is shown as 0: the recalls do not fit these counts")
    floor = np.array([0, 0, 0, -np.inf])
    estimates = [
        Estimate(
            float(max(value, least)), float(max(low, least)), float(max(high, least)), level, METHOD, 0, tuple(warnings)
        )
        for value, low, high, least in zip(values[:, 0], *ends, floor, strict=True)
    ]
    return Change(*estimates)


def corrected_count(
    found: int, recall: Rate, precision: Rate = Rate(1, 1, 1), level: float = 0.95, seed: int = 0
) -> Estimate:
    """Sites at one date: found x precision / recall, with a parametric bootstrap interval.

    Raises:
        EstimateError: if the count or a rate is none.
    """
    if found < 0 or found != int(found):
        raise EstimateError(f"{found} is no count: give a whole number, 0 or more")
    rng = np.random.default_rng(seed)
    r, p = recall.draw(rng, REPLICATES, level), precision.draw(rng, REPLICATES, level)
    value = found * precision.value / recall.value
    hits = rng.binomial(round(value), recall.value, REPLICATES)
    anew = hits + rng.poisson(found * (1 - precision.value), REPLICATES)
    tail = (1 - checked_level(level)) / 2
    low, high = np.quantile(anew * p / r, [tail, 1 - tail])
    return Estimate(value, float(min(low, value)), float(max(high, value)), level, METHOD, 0)


def _figures(n_a: Floats, n_b: Floats, both: Floats, r_a: Floats, r_b: Floats, p_a: Floats, p_b: Floats) -> Floats:
    """[persisted, closed, opened, net] x replicates."""
    persisted = both / (r_a * r_b)
    at_a, at_b = n_a * p_a / r_a, n_b * p_b / r_b
    return np.stack([persisted, at_a - persisted, at_b - persisted, at_b - at_a])


def _found_anew(
    rng: np.random.Generator, figures: Floats, n_a: int, n_b: int, rates: tuple[float, ...]
) -> tuple[Floats, Floats, Floats]:
    """What detectors as good as these would have found of as many sites."""
    r_a, r_b, p_a, p_b = rates
    persisted, closed, opened = (round(max(0.0, float(count))) for count in figures[:3])
    shares = [r_a * r_b, r_a * (1 - r_b), (1 - r_a) * r_b, (1 - r_a) * (1 - r_b)]
    both, only_a, only_b, _ = rng.multinomial(persisted, shares, REPLICATES).T
    at_a = both + only_a + rng.binomial(closed, r_a, REPLICATES) + rng.poisson(n_a * (1 - p_a), REPLICATES)
    at_b = both + only_b + rng.binomial(opened, r_b, REPLICATES) + rng.poisson(n_b * (1 - p_b), REPLICATES)
    return at_a.astype(float), at_b.astype(float), both.astype(float)
