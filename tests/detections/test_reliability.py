"""Reliability: what a confidence is worth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoslave.detections.reliability import reliability, wilson

SHARES = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        arrays(float, n, elements=st.floats(0, 1)), arrays(bool, n), arrays(int, n, elements=st.integers(0, 5))
    )
)


def test_the_textbook_example_by_hand():
    confidence = np.repeat([0.25, 0.75], 10)
    hit = np.r_[np.repeat([1, 0], [4, 6]), np.repeat([1, 0], [7, 3])]
    measured = reliability(confidence, hit, 2)
    assert measured.ece == pytest.approx((0.15 + 0.05) / 2)
    assert measured.brier == pytest.approx((0.4 * 0.75**2 + 0.6 * 0.25**2 + 0.7 * 0.25**2 + 0.3 * 0.75**2) / 2)
    assert [(b.low, b.high, b.n) for b in measured.bins] == [(0, 0.5, 10), (0.5, 1, 10)]
    assert [b.hit_rate for b in measured.bins] == [0.4, 0.7]


@given(SHARES, st.integers(1, 12), st.sampled_from(["mass", "width"]))
def test_figures_are_shares_and_the_interval_holds_its_figure(drawn, n_bins, binning):
    confidence, hit, groups = drawn
    measured = reliability(confidence, hit, n_bins, groups=groups, binning=binning, n_replicates=50)
    assert 0 <= measured.ece <= 1 and 0 <= measured.brier <= 1
    assert 0 <= measured.ece_debiased <= measured.ece + 1e-9
    if measured.n_groups > 1:
        assert measured.ece_low <= measured.ece <= measured.ece_high
        assert measured.brier_low <= measured.brier <= measured.brier_high
    assert sum(b.n for b in measured.bins) == len(confidence)
    assert all(b.hit_low <= b.hit_rate <= b.hit_high for b in measured.bins)
    assert all(b.low - 1e-9 <= b.mean_confidence <= b.high + 1e-9 for b in measured.bins)
    json.dumps(measured.to_dict(), allow_nan=False)


@given(SHARES)
def test_the_order_of_detections_does_not_matter(drawn):
    confidence, hit, _ = drawn
    turned = reliability(confidence[::-1], hit[::-1], n_replicates=0)
    assert turned.ece == pytest.approx(reliability(confidence, hit, n_replicates=0).ece)


def test_a_good_forecaster_is_told_from_an_overconfident_one():
    generator = np.random.default_rng(1)
    truth = generator.uniform(0, 1, 4000)
    hit = generator.uniform(0, 1, 4000) < truth
    boastful = np.where(truth > 0.5, np.sqrt(truth), truth**2)
    assert reliability(truth, hit).ece < 0.03
    assert reliability(boastful, hit).ece > 0.05


def test_debiasing_takes_off_what_scatter_alone_makes():
    """Of forecasters who are exactly right, judged on 40 detections each."""
    generator = np.random.default_rng(2)
    plain, mended = [], []
    for _ in range(200):
        truth = generator.uniform(0, 1, 40)
        measured = reliability(truth, generator.uniform(0, 1, 40) < truth, n_replicates=0)
        plain.append(measured.ece)
        mended.append(measured.ece_debiased)
    assert np.mean(plain) > 0.08
    assert np.mean(mended) < 0.7 * np.mean(plain)


@pytest.mark.parametrize("lift", [0.0, 1.0])
def test_the_interval_holds_the_true_error_of_a_right_and_of_a_boastful_forecaster(lift: float):
    generator = np.random.default_rng(3)

    def judged(n: int) -> tuple[np.ndarray, np.ndarray]:
        truth = generator.uniform(0.02, 0.98, n)
        return 1 / (1 + np.exp(-(np.log(truth / (1 - truth)) + lift))), generator.uniform(size=n) < truth

    true = reliability(*judged(300_000), n_replicates=0).ece
    told = [reliability(*judged(150), n_replicates=200, seed=k) for k in range(60)]
    assert sum(r.ece_low <= true <= r.ece_high for r in told) >= 53


def test_groups_that_fail_together_widen_the_interval():
    confidence = np.full(200, 0.5)
    groups = np.repeat(np.arange(10), 20)
    hit = np.isin(groups, [0, 1, 2, 3, 4, 5])
    alone, together = reliability(confidence, hit), reliability(confidence, hit, groups=groups)
    assert together.ece_high - together.ece_low > 1.5 * (alone.ece_high - alone.ece_low)


def test_few_detections_get_few_bins_and_none_gets_no_figure():
    assert len(reliability([0.1, 0.9, 0.3], [0, 1, 0]).bins) == 1
    nothing = reliability([], [])
    assert (nothing.n, nothing.ece, nothing.brier, nothing.bins) == (0, None, None, ())


def test_equal_confidences_stay_in_one_bin():
    measured = reliability(np.r_[np.full(30, 0.2), np.full(70, 0.9)], np.zeros(100))
    assert [b.n for b in measured.bins] == [30, 70]


def test_shares_outside_0_to_1_are_refused():
    with pytest.raises(ValueError, match="confidence"):
        reliability([1.2], [1])
    with pytest.raises(ValueError, match="hit"):
        reliability([0.2], [np.nan])


def test_wilson_as_published():
    low, high = wilson(81, 263)  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 0) == (0, 1)
