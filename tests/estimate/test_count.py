"""Counts from tables: sums, intervals, warnings, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoslave.errors import EstimateError
from geoslave.estimate.count import class_counts, count_by, count_sites
from geoslave.estimate.intervals import Moments, compound, fay_feuer
from geoslave.estimate.rates import detector_rates
from geoslave.estimate.result import METHODS, Estimate
from geoslave.estimate.sample import Assumptions, census, draw, random, stratified
from geoslave.estimate.tables import checked_frame
from tests.estimate.tables import region, reviewed, strata


def sampled(truth: pd.DataFrame, n: int = 700, seed: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = truth.drop(columns=["sites", "hits"])
    checked = checked_frame(frame)
    return frame, reviewed(draw(checked, stratified(checked, n, Assumptions()), seed), truth)


def test_an_estimate_cannot_be_changed() -> None:
    estimate = count_sites(*strata((10, 10, 3)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.value = 4.0  # type: ignore[misc]
    names = [field.name for field in dataclasses.fields(Estimate)]
    assert names == ["value", "low", "high", "level", "method", "n_reviewed", "warnings"]


def test_a_frame_reviewed_whole_is_certain() -> None:
    truth = region(300)
    frame = truth[["tile_id", "n_flagged"]]
    reviews = truth[["tile_id"]].assign(n_sites=truth["sites"])
    estimate = count_sites(frame, reviews)
    assert estimate.value == estimate.low == estimate.high == truth["sites"].sum()


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_the_interval_holds_the_estimate_and_what_was_seen(seed: int) -> None:
    frame, reviews = sampled(region(800, seed), 150, seed)
    estimate = count_sites(frame, reviews)
    assert reviews["n_sites"].sum() <= estimate.low + 1e-9
    assert estimate.low <= estimate.value <= estimate.high


@given(st.floats(0.1, 1e4), st.floats(0.01, 1), st.floats(1, 100))
def test_a_higher_level_is_a_wider_interval(total: float, share: float, extra: float) -> None:
    variance = share * extra * total  # at most that of hits at the largest weight
    narrow, wide = fay_feuer(total, variance, extra, 0.8), fay_feuer(total, variance, extra, 0.99)
    assert wide[0] <= narrow[0] <= total <= narrow[1] <= wide[1]


def test_the_order_of_rows_changes_nothing() -> None:
    frame, reviews = sampled(region())
    assert count_sites(frame.sample(frac=1, random_state=1), reviews.sample(frac=1, random_state=2)) == count_sites(
        frame, reviews
    )


def test_coverage_of_the_default() -> None:
    """A small measurement of what scripts/bench/coverage.py measures at length."""
    truth = region(3000, seed=5)
    frame = checked_frame(truth[["tile_id", "n_flagged"]])
    rng = np.random.default_rng(0)
    sums = []
    for stratum in stratified(frame, 600, Assumptions()).strata:
        there = np.bincount(truth.loc[frame["stratum"] == stratum.name, "sites"], minlength=30)
        drawn = rng.multivariate_hypergeometric(there, stratum.reviews, 1000, method="marginals")
        sites = np.arange(len(there))
        sums.append((stratum.tiles, stratum.reviews, drawn @ sites, drawn @ sites**2))
    tiles, reviews = (np.array([float(part[k]) for part in sums]) for k in (0, 1))
    moments = Moments(tiles, reviews, *(np.stack([part[k] for part in sums], -1).astype(float) for k in (2, 3)))
    _, low, high = compound(moments)
    total = truth["sites"].sum()
    assert ((low <= total) & (total <= high)).mean() >= 0.94


def test_parts_add_up_to_the_total() -> None:
    frame, reviews = sampled(region())
    total = count_sites(frame, reviews)
    for by in ("district", "stratum"):
        parts = count_by(frame, reviews, by)
        assert sum(part.value for part in parts.values()) == pytest.approx(total.value)
        assert sum(part.n_reviewed for part in parts.values()) == total.n_reviewed
        assert all(part.low <= part.value <= part.high for part in parts.values())


def test_a_part_reviewed_whole_is_certain() -> None:
    parts = count_by(*strata((600, 600, 540), (19400, 1000, 3)), "stratum")
    assert (parts["s0"].low, parts["s0"].high) == (540, 540)
    assert parts["s1"].high > 2 * parts["s1"].value


def test_classes_are_counted_each() -> None:
    frame, reviews = sampled(region())
    reviews = reviews.assign(n_zigzag=reviews["n_sites"] // 2, n_fcbk=reviews["n_sites"] - reviews["n_sites"] // 2)
    found = class_counts(frame, reviews)
    assert found["zigzag"].value + found["fcbk"].value == pytest.approx(count_sites(frame, reviews).value)


def test_recall_and_precision_hold_the_truth() -> None:
    truth = region(4000, seed=3)
    rates = detector_rates(*sampled(truth, 900))
    recall = truth["hits"].sum() / truth["sites"].sum()
    precision = truth["hits"].sum() / truth["n_flagged"].sum()
    assert rates["recall"].low < recall < rates["recall"].high
    assert rates["precision"].low < precision < rates["precision"].high
    assert rates["recall"].low >= 0 and rates["recall"].high <= 1


def test_hits_that_were_guessed_are_told() -> None:
    frame, reviews = sampled(region())
    told = detector_rates(frame, reviews.drop(columns="n_hits"))["recall"].warnings
    assert any("n_hits" in warning for warning in told)
    told = detector_rates(frame, reviews.assign(n_hits=np.nan))["recall"].warnings
    assert any("n_hits is empty" in warning for warning in told)


def test_probabilities_of_a_consensus_widen_the_interval() -> None:
    frame, reviews = sampled(region())
    sure = reviews.assign(probability=(reviews["n_sites"] > 0).astype(float))
    unsure = reviews.assign(probability=np.where(reviews["n_sites"] > 0, 0.7, 0.02))
    plain, same, doubted = (count_sites(frame, table) for table in (reviews, sure, unsure))
    assert (same.low, same.high) == pytest.approx((plain.low, plain.high), rel=1e-3)
    assert doubted.high - doubted.low > plain.high - plain.low


def test_methods_warn_where_they_fail() -> None:
    frame, reviews = strata((600, 300, 270), (17500, 1000, 2))
    for method in ("wald", "difference"):
        assert any("too short" in warning for warning in count_sites(frame, reviews, method=method).warnings)
    assert not any("too short" in warning for warning in count_sites(frame, reviews).warnings)
    several = reviews.assign(n_sites=reviews["n_sites"] * 3)
    assert any("several sites" in warning for warning in count_sites(frame, several, method="fay-feuer").warnings)


def test_discount_counts_draws_with_replacement() -> None:
    frame = pd.DataFrame({"tile_id": ["a", "b", "c"], "g": [1, 2, 7]})
    reviews = pd.DataFrame({"tile_id": ["c", "b", "c"], "n_sites": [6, 2, 6]})
    assert count_sites(frame, reviews, method="discount").value == pytest.approx(9.047619, abs=1e-6)


def test_ppi_counts_a_random_sample_and_refuses_another() -> None:
    truth = region(4000)
    frame = truth[["tile_id", "n_flagged"]]
    checked = checked_frame(frame)
    reviews = reviewed(draw(checked, random(checked, 800, Assumptions()), 3), truth)
    estimate = count_sites(frame, reviews, method="ppi")
    assert estimate.low < truth["sites"].sum() < estimate.high
    with pytest.raises(EstimateError, match="in strata"):
        count_sites(*sampled(truth), method="ppi")


def test_a_random_sample_of_clustered_sites_is_warned_about() -> None:
    truth = region(4000)
    checked = checked_frame(truth[["tile_id", "n_flagged"]])
    reviews = reviewed(draw(checked, random(checked, 400, Assumptions()), 3), truth)
    assert any("without strata" in warning for warning in count_sites(checked, reviews).warnings)


def test_census_and_audit_is_narrower_where_it_is_affordable() -> None:
    truth = region(4000, recall=0.97)
    checked = checked_frame(truth[["tile_id", "n_flagged"]])
    budget = int((truth["n_flagged"] > 0).sum()) + 400
    reviews = reviewed(draw(checked, census(checked, budget, Assumptions()), 2), truth)
    estimate = count_sites(truth[["tile_id", "n_flagged"]], reviews)
    assert estimate.low <= truth["sites"].sum() <= estimate.high
    assert estimate.half_width < 0.15


# ---------------------------------------------------------------- what is refused

FRAME, REVIEWS = strata((50, 20, 5), (500, 30, 1))


@pytest.mark.parametrize(
    ("frame", "reviews", "said"),
    [
        (FRAME, REVIEWS.assign(inclusion_probability=0.0), "above 0"),
        (FRAME, REVIEWS.assign(inclusion_probability=1.2), "at most 1"),
        (FRAME, REVIEWS.assign(inclusion_probability=np.nan), "above 0"),
        (FRAME, REVIEWS.assign(inclusion_probability=0.9), "does not match"),
        (FRAME, REVIEWS.assign(inclusion_probability=np.linspace(0.1, 0.5, 50)), "unequal"),
        (FRAME, REVIEWS.assign(tile_id=[f"x{i}" for i in range(50)]), "not in the frame"),
        (FRAME.iloc[10:], REVIEWS, "not in the frame"),
        (FRAME, pd.concat([REVIEWS, REVIEWS[:1]]), "duplicate"),
        (pd.concat([FRAME, FRAME[:1]]), REVIEWS, "duplicate"),
        (FRAME, REVIEWS[:20], "no review in stratum 's1'"),
        (FRAME, REVIEWS[:21], "needs two"),
        (FRAME, REVIEWS.assign(n_sites=-1), "whole number"),
        (FRAME, REVIEWS.assign(n_sites=0.5), "whole number"),
        (FRAME, REVIEWS.assign(n_sites="many"), "'many'"),
        (FRAME, REVIEWS.assign(n_sites=np.inf), "inf"),
        (FRAME, REVIEWS.assign(n_sites=np.nan), "not answered"),
        (FRAME, REVIEWS.assign(n_sites=[np.nan, *REVIEWS["n_sites"][1:]]), "not answered"),
        (FRAME, REVIEWS.iloc[:0], "no rows"),
        (FRAME.assign(n_flagged=-2), REVIEWS, "whole number"),
        (FRAME.assign(n_flagged=1.5), REVIEWS, "whole number"),
        (FRAME.assign(stratum=None), REVIEWS, "without a stratum"),
        (FRAME.assign(status="failed"), REVIEWS, "not searched"),
        (FRAME.assign(status="perhaps"), REVIEWS, "perhaps"),
        (FRAME, REVIEWS.assign(stratum_size=7), "another frame"),
        (FRAME, REVIEWS.assign(n_hits=3), "more n_hits"),
        (FRAME, REVIEWS.assign(probability=1.5), "from 0 to 1"),
        (FRAME.drop(columns="tile_id"), REVIEWS, "tile_id"),
        (FRAME, REVIEWS.drop(columns="n_sites"), "n_sites"),
    ],
)
def test_bad_tables_are_refused_in_words(frame: pd.DataFrame, reviews: pd.DataFrame, said: str) -> None:
    with pytest.raises(EstimateError, match=said):
        count_sites(frame, reviews)


@pytest.mark.parametrize("level", [0, 1, 95, -0.1])
def test_a_level_outside_0_and_1_is_refused(level: float) -> None:
    with pytest.raises(EstimateError, match="level"):
        count_sites(FRAME, REVIEWS, level=level)


def test_an_unknown_method_names_the_known() -> None:
    with pytest.raises(EstimateError, match="gamma"):
        count_sites(FRAME, REVIEWS, method="guess")
    assert next(iter(METHODS)) == "gamma"


def test_failed_blocks_become_a_stratum_on_request() -> None:
    gap = FRAME.assign(tile_id=[f"gap{i}" for i in range(550)], stratum="s0", status="failed")[:40]
    frame = pd.concat([FRAME.assign(status="ok"), gap], ignore_index=True)
    with pytest.raises(EstimateError, match="40 tiles"):
        count_sites(frame, REVIEWS)
    with pytest.raises(EstimateError, match="'not searched'"):
        count_sites(frame, REVIEWS, gaps="stratum")
    seen = pd.DataFrame({"tile_id": [f"gap{i}" for i in range(10)], "n_sites": [1] * 5 + [0] * 5})
    estimate = count_sites(frame, pd.concat([REVIEWS, seen]), gaps="stratum")
    assert estimate.value == pytest.approx(count_sites(FRAME, REVIEWS).value + 20)
    assert any("not searched" in warning for warning in estimate.warnings)


def test_unanswered_tasks_are_missing_at_random_on_request() -> None:
    reviews = REVIEWS.assign(n_sites=[np.nan, np.nan, *REVIEWS["n_sites"][2:]])
    estimate = count_sites(FRAME, reviews, gaps="stratum")
    assert estimate.n_reviewed == 48
    assert any("2 of 50 tasks" in warning for warning in estimate.warnings)


def test_one_row_that_is_missing_is_noticed() -> None:
    frame, reviews = sampled(region())
    flagged = reviews.index[reviews["stratum"] == "flagged 0"][0]
    with pytest.raises(EstimateError, match="rows are missing"):
        count_sites(frame, reviews.drop(index=flagged))
    told = count_sites(frame, reviews.drop(index=flagged), gaps="stratum")
    assert any("1 drawn tiles are missing" in warning for warning in told.warnings)
    rounded = reviews.assign(inclusion_probability=reviews["inclusion_probability"].round(4))
    assert count_sites(frame, rounded) == count_sites(frame, reviews)


def test_nothing_found_has_an_upper_end_and_says_so() -> None:
    estimate = count_sites(*strata((5000, 500, 0)))
    assert estimate.value == estimate.low == 0
    assert estimate.high == pytest.approx(36.9, abs=0.1)  # 3.689 sites seen, weight 10
    assert any("no reviewed tile" in warning for warning in estimate.warnings)
