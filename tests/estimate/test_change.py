"""Counts of change, corrected for what the detector misses."""

from __future__ import annotations

import numpy as np
import pytest

from geoslave.errors import EstimateError
from geoslave.estimate.change import Rate, corrected_change

SURE = Rate(1, 1, 1)


def test_a_perfect_detector_needs_no_correction() -> None:
    change = corrected_change(100, 120, 80, SURE, SURE)
    assert (change.persisted.value, change.closed.value, change.opened.value, change.net.value) == (80, 20, 40, 20)
    assert change.closed.low == change.closed.high == 20


def test_misses_are_not_closures() -> None:
    """1,000 sites stand at both dates, .8 of them found at each: 800, 800, 640 at both."""
    rate = Rate(0.8, 0.8, 0.8)
    change = corrected_change(800, 800, 640, rate, rate)
    assert change.persisted.value == pytest.approx(1000)
    assert change.closed.value == pytest.approx(0, abs=1e-9) and change.closed.low == 0


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    persisted, closed, opened, r_a, r_b = 700, 150, 200, 0.8, 0.9
    held = np.zeros(3)
    runs = 150
    for seed in range(runs):
        a, b = rng.random(persisted) < r_a, rng.random(persisted) < r_b
        n_a, n_b = a.sum() + rng.binomial(closed, r_a), b.sum() + rng.binomial(opened, r_b)
        # recalls known from 300 reviewed sites each
        rates = []
        for truth in (r_a, r_b):
            seen = rng.binomial(300, truth) / 300
            half = 1.96 * np.sqrt(seen * (1 - seen) / 300)
            rates.append(Rate(seen, seen - half, min(1, seen + half)))
        change = corrected_change(n_a, n_b, (a & b).sum(), *rates, seed=seed)
        for k, (figure, truth) in enumerate(
            zip((change.persisted, change.closed, change.opened), (persisted, closed, opened), strict=True)
        ):
            held[k] += figure.low <= truth <= figure.high
    assert (held / runs > 0.9).all()


@pytest.mark.parametrize(
    ("counts", "said"), [((10, 10, 11), "check the matching"), ((-1, 3, 0), "no count"), ((3, 2.5, 1), "no count")]
)
def test_counts_that_cannot_be_are_refused(counts: tuple, said: str) -> None:
    with pytest.raises(EstimateError, match=said):
        corrected_change(*counts, SURE, SURE)


@pytest.mark.parametrize("rate", [(0, 0, 0), (0.5, 0.6, 0.7), (1.2, 1, 1.5)])
def test_rates_that_cannot_be_are_refused(rate: tuple) -> None:
    with pytest.raises(EstimateError, match="rate"):
        Rate(*rate)
