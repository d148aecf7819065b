"""Designs: what is shared out, drawn and expected."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoslave.errors import EstimateError
from geoslave.estimate.count import count_sites
from geoslave.estimate.sample import Assumptions, allocate, draw, propose, stratified
from geoslave.estimate.tables import checked_frame
from tests.estimate.tables import region, reviewed


def frame(tiles: int = 3000) -> pd.DataFrame:
    return checked_frame(region(tiles)[["tile_id", "n_flagged"]])


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 5)), min_size=1, max_size=8),
    st.integers(0, 9000),
    st.integers(0, 40),
)
def test_allocations_use_the_budget_and_no_tile_twice(strata: list[tuple[int, float]], budget: int, least: int) -> None:
    tiles, spread = np.array([s[0] for s in strata]), np.array([s[1] for s in strata])
    shares = allocate(tiles, spread, budget, least)
    assert shares.sum() == min(budget, tiles.sum())
    assert (shares >= 0).all() and (shares <= tiles).all()
    if np.minimum(tiles, least).sum() <= budget:
        assert (shares >= np.minimum(tiles, least)).all()


def test_neyman_shares_by_size_and_spread() -> None:
    assert allocate(np.array([1000, 1000]), np.array([3.0, 1.0]), 400).tolist() == [300, 100]
    assert allocate(np.array([3000, 1000]), np.array([1.0, 1.0]), 400).tolist() == [300, 100]
    assert allocate(np.array([50, 1000]), np.array([100.0, 1.0]), 400).tolist() == [50, 350]


@pytest.mark.parametrize("kind", ["stratified", "census+audit", "random"])
def test_samples_carry_their_probabilities(kind: str) -> None:
    tiles = frame()
    design = propose(tiles, budget=900, kind=kind)[0]
    drawn = draw(tiles, design, seed=4)
    assert len(drawn) == design.n_reviews == 900 and drawn["tile_id"].is_unique
    assert set(drawn["tile_id"]) <= set(tiles["tile_id"])
    assert (1 / drawn["inclusion_probability"]).sum() == pytest.approx(len(tiles))
    assert drawn.groupby("stratum")["stratum_size"].first().sum() == len(tiles)


def test_the_same_seed_draws_the_same_sample_whatever_the_order() -> None:
    tiles = frame()
    design = stratified(tiles, 300, Assumptions())
    first = draw(tiles, design, seed=9)
    assert first.equals(draw(tiles.sample(frac=1, random_state=0), design, seed=9))
    assert not first.equals(draw(tiles, design, seed=10))


def test_a_wish_is_met_by_the_fewest_reviews() -> None:
    tiles = frame()
    best, *others = propose(tiles, half_width=0.15)
    assert best.half_width <= 0.15
    assert all(best.n_reviews <= other.n_reviews for other in others)
    assert stratified(tiles, best.n_reviews // 2, Assumptions()).half_width > 0.15


def test_expectations_come_true_where_the_assumptions_do() -> None:
    truth = region(8000, seed=2, recall=0.8)
    tiles = checked_frame(truth[["tile_id", "n_flagged"]])
    design = stratified(tiles, 1000, Assumptions(recall=0.8, precision=0.87, clustering=3))
    widths = [count_sites(tiles, reviewed(draw(tiles, design, seed), truth)).half_width for seed in range(10)]
    assert np.mean(widths) == pytest.approx(design.half_width, rel=0.3)


def test_strata_of_the_frame_are_kept() -> None:
    tiles = checked_frame(region(500)[["tile_id"]].assign(n_flagged=0, stratum=["a"] * 100 + ["b"] * 400))
    assert [(s.name, s.tiles) for s in stratified(tiles, 100, Assumptions()).strata] == [("a", 100), ("b", 400)]


def test_a_frame_without_a_single_detection_can_be_reviewed() -> None:
    tiles = checked_frame(pd.DataFrame({"tile_id": [str(i) for i in range(500)], "n_flagged": 0}))
    designs = propose(tiles, budget=100)
    assert designs[0].n_reviews == 100 and np.isfinite(designs[0].expected_high)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either"),
        ({"budget": 100, "half_width": 0.1}, "either"),
        ({"budget": 1}, "no interval"),
        ({"half_width": -1.0}, "half-width"),
        ({"budget": 120, "kind": "census+audit"}, "too few are left"),
    ],
)
def test_impossible_wishes_are_refused(options: dict, said: str) -> None:
    with pytest.raises(EstimateError, match=said):
        propose(frame(), **options)


@pytest.mark.parametrize("assumed", [{"recall": 0}, {"recall": 1.1}, {"precision": 0}, {"clustering": 0.2}])
def test_impossible_assumptions_are_refused(assumed: dict) -> None:
    with pytest.raises(EstimateError, match="assumed"):
        Assumptions(**assumed)
