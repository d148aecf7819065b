"""The interval of what remains holds the truth however often one looks, and the advice says why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoslave.search import SearchError
from geoslave.search.remaining import AuditDraw, Remaining, audit_share, remaining, worth_going_on


def campaign(rng: np.random.Generator, chips: int, sites: int, skill: float, rounds: int) -> list[Remaining]:
    """A reviewer's rounds of 20 chips, drawn as a campaign draws; the ranking finds sites `skill` times too often."""
    site = np.zeros(chips, bool)
    site[rng.choice(chips, sites, replace=False)] = True
    seen = np.zeros(chips, bool)
    draws: list[AuditDraw] = []
    likely: list[bool] = []
    told = []
    for _ in range(rounds):
        unseen = np.flatnonzero(~seen)
        by_chance = round(20 * audit_share(likely))
        for row in rng.permutation(unseen)[:by_chance]:
            draws.append(AuditDraw(int((~seen).sum()), int((seen & site).sum()), bool(site[row])))
            seen[row] = True
        left = np.flatnonzero(~seen)
        weight = np.where(site[left], skill, 1.0)
        shown = rng.choice(left, min(20 - by_chance, len(left)), replace=False, p=weight / weight.sum())
        seen[shown] = True
        likely += site[shown].tolist()
        told.append(remaining(draws, chips, int((seen & site).sum()), int((~seen).sum())))
    return told


@pytest.mark.parametrize("sites", [0, 8, 60])
@pytest.mark.parametrize("skill", [1.0, 50.0])
def test_the_interval_holds_the_truth_at_every_round_at_once(sites: int, skill: float) -> None:
    rng = np.random.default_rng(sites)
    always = []
    for _ in range(60):
        rounds = campaign(rng, 800, sites, skill, 12)
        always.append(all(one.low <= sites - one.found <= one.high for one in rounds))
    assert np.mean(always) >= 0.93


def test_the_interval_holds_the_truth_among_more_chips_than_totals_are_tried() -> None:
    rng = np.random.default_rng(7)
    always = []
    for _ in range(12):
        sites = int(rng.integers(0, 3_000))
        rounds = campaign(rng, 50_000, sites, float(rng.choice([1.0, 50.0])), 8)
        always.append(all(one.low <= sites - one.found <= one.high for one in rounds))
    assert np.mean(always) >= 0.9


def test_it_narrows_as_the_audit_goes_on() -> None:
    rounds = campaign(np.random.default_rng(1), 800, 40, 50.0, 30)
    assert rounds[-1].high - rounds[-1].low < 0.4 * (rounds[0].high - rounds[0].low)
    assert rounds[-1].low <= rounds[-1].value <= rounds[-1].high


@pytest.mark.parametrize(
    ("recent", "share"),
    [
        ([], 0.1),
        ([False] * 13, 0.1),
        ([True] + [False] * 13, 0.1),
        ([True] + [False] * 14, 0.5),
        ([False] * 40, 0.5),
        ([False] * 40 + [True], 0.1),
    ],
)
def test_more_is_drawn_at_random_once_likely_chips_bring_nothing(recent: list[bool], share: float) -> None:
    assert audit_share(recent) == share


def test_without_an_audit_nothing_is_known_of_the_rest() -> None:
    told = remaining([], 1000, 5, 900)
    assert (told.low, told.high) == (0, 900)


def test_when_all_is_seen_nothing_remains() -> None:
    told = remaining([AuditDraw(3, 1, False)], 10, 2, 0)
    assert (told.low, told.value, told.high) == (0, 0, 0)
    assert not worth_going_on(told, [False]).go_on


def test_many_empty_audit_draws_leave_little() -> None:
    draws = [AuditDraw(1000 - k, 3, False) for k in range(400)]
    told = remaining(draws, 1003, 3, 600)
    assert told.low == 0
    assert told.high < 30


def test_of_a_million_chips_it_is_as_wide_or_wider_than_exact() -> None:
    draws = [AuditDraw(1_000_000 - k, 0, k == 100) for k in range(300)]
    told = remaining(draws, 1_000_000, 1, 999_700)
    assert 0 <= told.low < 3_400 < told.high < 40_000


@given(st.integers(0, 30), st.integers(0, 50), st.lists(st.booleans(), max_size=20))
def test_limits_are_possible_numbers(found: int, unseen: int, outcomes: list[bool]) -> None:
    chips = found + unseen + len(outcomes) + 5
    draws = [AuditDraw(chips - k, sum(outcomes[:k]), site) for k, site in enumerate(outcomes)]
    found += sum(outcomes)
    told = remaining(draws, chips, found, unseen)
    assert 0 <= told.low <= told.value <= told.high <= unseen


def test_numbers_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SearchError, match="cannot be"):
        remaining([], 10, 8, 5)
    with pytest.raises(SearchError, match="among no chips"):
        remaining([AuditDraw(0, 0, False)], 10, 0, 5)


def test_the_advice_says_what_a_click_brings() -> None:
    left = Remaining(10, 900, 20, 4, 60, 0.95, 80, 2)
    good = worth_going_on(left, [True] * 10 + [False] * 10)
    assert good.go_on
    assert "10 were sites" in good.words
    assert "4 to 60 more" in good.words
    bad = worth_going_on(left, [False] * 40)
    assert not bad.go_on
    assert worth_going_on(left, [False] * 5).go_on
