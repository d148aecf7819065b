"""Intervals over spatial blocks: they hold the truth, and never claim more than independent counts would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoslave.detections import bootstrap
from geoslave.detections.bootstrap import auc, draw_blocks, precision_band, rate, share, statistic, wilson

blocks = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12)


def test_intervals_of_clustered_sites_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, n, inside = np.random.default_rng(3), 20, np.zeros(2)
    for seed in range(80):
        sites = rng.poisson(rng.gamma(2, 0.8, n)).astype(float)
        hits = rng.binomial(sites.astype(int), rng.beta(2.1, 0.9, n)).astype(float)
        alarms = rng.poisson(rng.gamma(1, 0.5, n)).astype(float)
        weight = draw_blocks(n, 300, seed)
        recall, per_km2 = share(hits, sites, weight), rate(alarms, np.ones(n), weight, per=1)
        inside += recall.low <= 0.7 <= recall.high, per_km2.low <= 0.5 <= per_km2.high
    assert (inside >= 70).all()  # 95 % of 80 are 76; 69 or fewer have a chance below 0.5 %


@given(blocks)
@settings(max_examples=50)
def test_an_interval_holds_its_figure_and_is_no_narrower_than_that_of_independent_counts(counts) -> None:
    part = np.array([min(a, b) for a, b in counts], float)
    whole = np.array([max(a, b) for a, b in counts], float)
    weight = draw_blocks(len(counts), 200, 0)
    figure = share(part, whole, weight)
    if not whole.sum():
        assert figure == bootstrap.UNDEFINED
        return
    assert figure.value == part.sum() / whole.sum()
    if (whole > 0).sum() < 2:
        assert figure.low is None and figure.high is None
        return
    low, high = wilson(part.sum(), whole.sum())
    assert 0 <= figure.low <= low <= high <= figure.high <= 1
    alarms = rate(part, whole, weight)
    assert alarms.low <= alarms.value <= alarms.high


def test_fewer_than_two_blocks_give_no_interval() -> None:
    one = np.array([3.0])
    for figure in (share(one, one, draw_blocks(1)), rate(one, one, draw_blocks(1)), statistic(0.5, np.zeros(0), 1)):
        assert figure.value is not None and figure.low is None and figure.high is None


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=20))
@settings(max_examples=50)
def test_auc_is_the_share_of_pairs_in_the_right_order(tiles) -> None:
    score, positive = np.array([s for s, _ in tiles]), np.array([p for _, p in tiles])
    steps = np.unique(score)
    counts = [[[(score[positive == sign] == step).sum() for step in steps]] for sign in (True, False)]
    mine = auc(*(np.array(c, float) for c in counts))[0]
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert np.isnan(mine) if not pairs else mine == pytest.approx(np.mean(pairs))


def test_the_band_lies_about_the_envelope_of_the_curve() -> None:
    rng = np.random.default_rng(0)
    confidence = np.sort(rng.random(200))[::-1]
    hit = rng.random(200) < confidence
    block = rng.integers(0, 20, 200)
    sites = bootstrap.per_block(block[hit], 20) + 1
    recall = np.linspace(0, 1, 11)
    low, high = precision_band(confidence, hit, block, draw_blocks(20, 300), sites, recall)
    assert (low >= 0).all() and (high <= 1).all() and (low <= high).all()
    assert (np.diff(low) <= 1e-9).all() and (np.diff(high) <= 1e-9).all()
    assert high[-1] == 0  # a site no detection claims: no replicate finds all of them
    hits = np.cumsum(hit)
    precision = hits / np.arange(1, 201)
    for k, reach in enumerate(recall[:8]):
        there = hits / sites.sum() >= reach
        assert not there.any() or low[k] <= precision[there].max() <= high[k]
