"""Every number that was published, to the digits given (shared/reference/measurement.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from geoslave.estimate.accuracy import assess_accuracy
from geoslave.estimate.count import count_chapman, count_sites
from geoslave.estimate.estimators import chapman, difference, discount, ppi_mean
from geoslave.estimate.intervals import fay_feuer, wald
from tests.estimate.tables import strata

Z196 = float(2 * norm.cdf(1.96) - 1)
"""The level at which z is 1.96 exactly, as the publications round it."""


def test_fay_feuer_stratified() -> None:
    estimate = count_sites(*strata((600, 300, 270), (1900, 200, 6), (17500, 1000, 1)), method="fay-feuer")
    assert estimate.value == pytest.approx(614.5)
    assert (estimate.low, estimate.high) == pytest.approx((531.454, 727.939), abs=5e-4)


def test_fay_feuer_formula() -> None:
    weights, hits = np.array([2, 9.5, 17.5]), np.array([270, 6, 1])
    low, high = fay_feuer((weights * hits).sum(), (weights**2 * hits).sum(), weights.max())
    assert (float(low), float(high)) == pytest.approx((531.454, 727.939), abs=5e-4)


@pytest.mark.parametrize(
    ("found", "value", "low", "high"), [(0, 540, 540, 611.56), (3, 598.2, 552.0, 710.09), (10, 734, 633.03, 896.77)]
)
@pytest.mark.parametrize("method", ["fay-feuer", "gamma-poisson"])
def test_census_and_audit(found: int, value: float, low: float, high: float, method: str) -> None:
    estimate = count_sites(*strata((600, 600, 540), (19400, 1000, found)), method=method)
    assert estimate.value == pytest.approx(value)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-3)


def test_the_default_agrees_with_the_book_where_sites_fall_singly() -> None:
    """It differs by the finite population alone: 1,000 of 19,400 tiles were seen."""
    assert count_sites(*strata((600, 600, 540), (19400, 1000, 0))).high == pytest.approx(611.56, abs=5e-3)
    estimate = count_sites(*strata((600, 600, 540), (19400, 1000, 10)))
    assert (estimate.low, estimate.high) == pytest.approx((633.03, 896.77), rel=0.006)


def test_discount() -> None:
    value, low, high = discount([1, 2, 7], [2, 1, 2], [6, 2, 6], level=Z196)
    assert value == pytest.approx(9.047619, abs=5e-7)
    assert (high - low) / 2 == pytest.approx(0.762063, abs=5e-7)


Y = [1, 0, 0, 1, 1, 0, 0, 0, 1, 0]
YHAT = [0.9, 0.2, 0.1, 0.7, 0.8, 0.3, 0.1, 0.2, 0.6, 0.4]
REST = [0.1, 0.2, 0.9, 0.8, 0.3, 0.1, 0.1, 0.2, 0.6, 0.4, 0.05, 0.95, 0.1, 0.2, 0.7, 0.1, 0.3, 0.2, 0.1, 0.1]


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        (1, (0.295, 0.093531, 0.496469)),
        (None, (0.297580, 0.095744, 0.499416)),
        (0, (0.4, 0.096364, 0.703636)),
    ],
)
def test_ppi(lam: float | None, expected: tuple[float, float, float]) -> None:
    assert ppi_mean(Y, YHAT, REST, lam) == pytest.approx(expected, abs=1e-6)


def test_difference_estimator() -> None:
    """T = sum yhat + N mean(y - yhat); V = N^2 (1 - n/N) s_d^2 / n, by hand: d = (1, 0, 0, -1), N = 40, n = 4."""
    value, low, high = difference([1] * 10 + [0] * 30, [2, 0, 1, 0], [1, 0, 1, 1], level=Z196)
    assert value == pytest.approx(10)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(40**2 * 0.9 * (2 / 3) / 4))


def test_chapman() -> None:
    value, _, low, high = chapman(10, 15, 5)
    assert value == pytest.approx(28.333, abs=5e-4)
    assert (low, high) == pytest.approx((21.94, 64.67), abs=5e-3)
    assert chapman(100, 100, 20)[:2] == pytest.approx((484.762, 82.032), abs=1e-3)
    assert chapman(346, 184, 49)[:2] == pytest.approx((1282.9, 142.08), abs=5e-3)
    assert count_chapman(10, 15, 5).value == value


def test_olofsson_2014() -> None:
    matrix = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
    hectares = np.array([0.02, 0.015, 0.32, 0.645]) * 10_000_000 * 0.09
    found = assess_accuracy(matrix, hectares, level=Z196)

    def halves(figures: tuple) -> list[float]:
        return [figure.value - figure.low for figure in figures]  # the upper end stops at 1

    assert [u.value for u in found.users] == pytest.approx([0.88, 0.7333, 0.9273, 0.9631], abs=5e-5)
    assert halves(found.users) == pytest.approx([0.0740, 0.1008, 0.0397, 0.0205], abs=5e-5)
    assert [p.value for p in found.producers] == pytest.approx([0.7487, 0.8472, 0.9345, 0.9616], abs=5e-5)
    assert halves(found.producers) == pytest.approx([0.2133, 0.2544, 0.0343, 0.0184], abs=5e-5)
    assert found.overall.value == pytest.approx(0.94651, abs=5e-6)
    assert halves((found.overall,)) == pytest.approx([0.0185], abs=5e-5)
    assert [a.value for a in found.areas] == pytest.approx([21157.8, 11686.2, 285769.9, 581386.2], abs=0.05)
    assert halves(found.areas) == pytest.approx([6157.6, 3755.8, 15509.8, 16281.7], abs=0.06)


def test_olofsson_2013() -> None:
    found = assess_accuracy([[97, 0, 3], [3, 279, 18], [2, 1, 97]], [22353, 1122543, 610228], level=Z196)
    area = found.areas[0]
    assert area.value == pytest.approx(45112.4, abs=0.05)
    assert (area.high - area.value) / 1.96 == pytest.approx(10751.4, abs=0.05)
    assert [p.value for p in found.producers] == pytest.approx([0.4806, 0.9942, 0.8969], abs=5e-5)
    assert found.overall.value == pytest.approx(0.94442, abs=5e-6)


REAL = {
    ("A", 500): (0.855, 0.963, 0.927, 0.28), ("A", 1500): (0.840, 0.977, 0.940, 0.16),
    ("B", 500): (0.682, 0.935, 0.905, 0.39), ("B", 1500): (0.715, 0.955, 0.962, 0.23),
    ("C", 500): (0.865, 0.955, 0.948, 0.28), ("C", 1500): (0.890, 0.988, 0.935, 0.16),
    ("D", 500): (0.798, 0.942, 0.952, 0.34), ("D", 1500): (0.815, 0.973, 0.942, 0.20),
    ("E", 500): (0.710, 0.928, 0.900, 0.49), ("E", 1500): (0.752, 0.950, 0.935, 0.29),
}  # fmt: skip
"""Coverage of the textbook gamma, the compound Poisson gamma and Wald, and the second one's half-width."""


@pytest.mark.parametrize(("name", "n"), REAL, ids=str)
def test_coverage_on_real_frames(name: str, n: int, data_dir: Path) -> None:
    """Published from 400 to 600 repetitions: hence the tolerance of three of their standard errors."""
    sites = pd.read_csv(data_dir / "site_frames" / f"frame_{name}.csv")["n_sites"].to_numpy()
    size, there = np.arange(sites.max() + 1), np.bincount(sites)
    rng = np.random.default_rng([ord(name), n])
    drawn = rng.multivariate_hypergeometric(there, n, 2000, method="marginals")
    weight, truth = len(sites) / n, sites.sum()
    total, first, second = weight * (drawn @ size), weight**2 * (drawn @ size), weight**2 * (drawn @ size**2)
    mean = drawn @ size / n
    variance = len(sites) ** 2 * (1 / n - 1 / len(sites)) * (drawn @ size**2 - n * mean**2) / (n - 1)
    ends = [fay_feuer(total, first, weight), fay_feuer(total, second, weight), wald(total, variance)]
    covered = [float(((low <= truth) & (truth <= high)).mean()) for low, high in ends]
    told = REAL[name, n]
    for seen, published in zip(covered, told, strict=False):
        assert seen == pytest.approx(published, abs=3 * (published * (1 - published) / 400) ** 0.5 + 0.005)
    half = float((ends[1][1] - ends[1][0]).mean() / 2 / truth)
    assert half == pytest.approx(told[3], abs=0.015)
