"""Where does the detector do worse? Recall, precision and calibration by group, and a test of whether they differ.

A group is a value of any column of frame or reviews: stratum, season, site type, administrative area. The
test shuffles the groups' names among the reviewed tiles of each stratum, as often as asked: were the
detector equally good everywhere, the real groups would differ no more than shuffled ones. It needs no
normal approximation, and it holds for clustered sites because whole tiles are shuffled. Where groups
*are* strata there is nothing to shuffle: then the groups' intervals are held against each other (a
chi-square test on the log-odds scale).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2

from geoslave.errors import EstimateError
from geoslave.estimate.intervals import normal_quantile
from geoslave.estimate.rates import confirmed, rates_of
from geoslave.estimate.result import Estimate
from geoslave.estimate.reviewed import Sample, take_sample

SHUFFLES = 1999
FEW_SITES = 10
MOST_GROUPS = 40
"""More than these, and more than a tenth of the tiles, are no groups."""
_NAMED = 5

Floats = NDArray[np.float64]
Rates = Callable[[NDArray[np.intp]], tuple[Floats, Floats]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure, by group."""

    measure: str
    """recall, precision or calibration."""
    by: str
    groups: dict[str, Estimate]
    p_value: float
    """How often shuffled groups differ as much; small: the detector is not equally good everywhere."""
    warnings: tuple[str, ...]
    hits: dict[str, int]
    """Confirmed hits among the reviewed tiles of each group: what its figure rests on."""

    @property
    def differs(self) -> bool:
        """At the 5 % level."""
        return self.p_value < 0.05


def compare_groups(
    frame: pd.DataFrame,
    reviews: pd.DataFrame,
    by: str,
    level: float = 0.95,
    gaps: str = "refuse",
    seed: int = 0,
    shuffles: int = SHUFFLES,
) -> list[Comparison]:
    """Recall and precision by group; calibration too where the frame has `expected_hits`.

    Args:
        frame, reviews: see `geoslave.estimate.tables`; `expected_hits` is the sum of the confidences of a tile's
            detections. Calibration is expected over confirmed hits: 1 where the confidence holds.

    Raises:
        EstimateError: as count_sites; without the column, or with fewer than two groups.
    """
    _, sample = take_sample(frame, reviews, gaps)
    if by not in sample.table:
        raise EstimateError(f"neither frame nor reviews have a column '{by}' to compare by")
    names, group = np.unique(np.asarray(sample.table[by].fillna("(none)").astype(str)), return_inverse=True)
    if len(names) < 2:
        raise EstimateError(f"column '{by}' has one value, '{names[0]}': there is nothing to compare")
    if len(names) > max(MOST_GROUPS, len(sample.table) // 10):
        raise EstimateError(
            f"column '{by}' has {len(names)} values among {len(sample.table)} reviewed tiles: these are no groups, "
            "compare by a column of fewer"
        )
    hits, guessed = confirmed(sample.table)
    sites, flagged = (sample.table[name].to_numpy(float) for name in ("n_sites", "n_flagged"))
    weight = (sample.tiles / np.maximum(sample.reviewed, 1))[sample.stratum]
    orders = _shuffled(sample.stratum, shuffles, seed)
    found = {name: rates_of(sample, level, group == k) for k, name in enumerate(map(str, names))}
    thin = _thin(names, group, hits)
    counted = {str(name): int(hits[group == k].sum()) for k, name in enumerate(names)}
    compared = []
    for measure, whole in (("recall", sites), ("precision", flagged)):
        groups = {name: rates[measure] for name, rates in found.items()}
        if _are_strata(sample, group):
            p = _p_of_intervals(list(groups.values()))
        else:
            p = _p_value(group, len(names), weight * hits, weight * whole, orders)
        compared.append(Comparison(measure, by, groups, p, (*guessed, *thin), counted))
    if "expected_hits" in sample.table:
        compared.append(replace(_calibration(sample, names, group, hits, weight, orders, by, level), hits=counted))
    return compared


def _calibration(
    sample: Sample,
    names: NDArray[np.str_],
    group: NDArray[np.intp],
    hits: Floats,
    weight: Floats,
    orders: NDArray[np.intp],
    by: str,
    level: float,
) -> Comparison:
    expected = pd.to_numeric(sample.table["expected_hits"], errors="coerce").to_numpy(float)
    if not np.isfinite(expected).all() or (expected < 0).any():
        raise EstimateError("expected_hits must be a number of 0 or more in every tile: the sum of its confidences")
    groups = {
        str(name): _expected_over_found(sample, expected, hits, group == k, level) for k, name in enumerate(names)
    }
    p = _p_value(group, len(names), weight * expected, weight * hits, orders)
    return Comparison("calibration", by, groups, p, _thin(names, group, hits), {})


def _expected_over_found(
    sample: Sample, expected: Floats, hits: Floats, inside: NDArray[np.bool_], level: float
) -> Estimate:
    """A ratio of totals with a normal interval on the log scale."""
    method, n = "expected over confirmed hits, log-normal interval", int(inside.sum())
    told, found = (float(sample.moments(part * inside).total) for part in (expected, hits))
    if told <= 0 or found <= 0:
        return Estimate(float("inf") if told > 0 else 1.0, 0.0, float("inf"), level, method, n, ("no confirmed hit",))
    ratio = told / found
    variance = float(sample.moments((expected - ratio * hits) * inside).variance)
    factor = float(np.exp(normal_quantile(level) * np.sqrt(variance) / told))
    return Estimate(ratio, ratio / factor, ratio * factor, level, method, n)


def _p_value(group: NDArray[np.intp], n_groups: int, part: Floats, whole: Floats, orders: NDArray[np.intp]) -> float:
    """Share of shuffles whose groups' rates, part over whole, scatter as much as the real ones'."""
    if whole.sum() <= 0:
        return 1.0
    rate = part.sum() / whole.sum()

    def scatter(names: NDArray[np.intp]) -> float:
        parts, wholes = (np.bincount(names, weights=values, minlength=n_groups) for values in (part, whole))
        own = np.divide(parts, wholes, out=np.full(n_groups, rate), where=wholes > 0)
        return float((wholes * (own - rate) ** 2).sum())

    real = scatter(group)
    as_much = sum(scatter(group[order]) >= real - 1e-9 for order in orders)
    return (1 + as_much) / (1 + len(orders))


def _are_strata(sample: Sample, group: NDArray[np.intp]) -> bool:
    """Whether no stratum holds tiles of two groups."""
    pairs = np.unique(np.stack([sample.stratum, group]), axis=1)
    return pairs.shape[1] == len(np.unique(sample.stratum))


def _p_of_intervals(rates: list[Estimate]) -> float:
    """Homogeneity of independent rates: their logits, with the standard errors their intervals imply."""
    known = [rate for rate in rates if rate.high - rate.low < 0.999]
    if len(known) < 2:
        return 1.0
    value, low, high = np.clip(np.array([(r.value, r.low, r.high) for r in known]), 1e-4, 1 - 1e-4).T
    logit = np.log(value / (1 - value))
    spread = np.log(high / (1 - high)) - np.log(low / (1 - low))
    precision = 1 / np.maximum(spread / (2 * normal_quantile(known[0].level)), 1e-6) ** 2
    middle = (precision * logit).sum() / precision.sum()
    return float(chi2.sf((precision * (logit - middle) ** 2).sum(), len(known) - 1))


def _shuffled(stratum: NDArray[np.intp], shuffles: int, seed: int) -> NDArray[np.intp]:
    """[shuffles, n] orders that keep each stratum's tiles among themselves."""
    rng = np.random.default_rng(seed)
    home = np.argsort(stratum, kind="stable")
    orders = np.empty((shuffles, len(stratum)), np.intp)
    for row in orders:
        row[home] = np.lexsort((rng.random(len(stratum)), stratum))
    return orders


def _thin(names: NDArray[np.str_], group: NDArray[np.intp], hits: Floats) -> tuple[str, ...]:
    few = [str(name) for k, name in enumerate(names) if hits[group == k].sum() < FEW_SITES]
    if not few:
        return ()
    named = ", ".join(few[:_NAMED]) + (f" and {len(few) - _NAMED} others" if len(few) > _NAMED else "")
    return (f"fewer than {FEW_SITES} confirmed hits in {named}: a difference there may go unseen",)
