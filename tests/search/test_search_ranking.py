"""The ranking learns from answers, shows no place twenty times, and draws its audit by chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from geoslave.search import SearchError
from geoslave.search.ranking import (
    _RIDGE,
    Answers,
    _kernel_ridge,
    _likeness,
    _supporting,
    diverse_page,
    fit,
    learn_background,
    next_page,
    rank,
)


def haystack(
    n: int = 600, sites: int = 30, seed: int = 0, lean: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(vectors, which are sites, places): sites lean one way, weakly."""
    rng = np.random.default_rng(seed)
    site = np.zeros(n, bool)
    site[rng.choice(n, sites, replace=False)] = True
    vectors = rng.standard_normal((n, 24))
    vectors[site, :3] += lean
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = np.column_stack([np.arange(n) % 25, np.arange(n) // 25]) * 0.02
    return vectors.astype(np.float16), site, places


def test_one_example_finds_more_of_its_kind() -> None:
    vectors, site, _ = haystack()
    example = int(np.flatnonzero(site)[0])
    order = rank(fit(vectors, Answers.of({example: True})).logits(vectors), np.array([example]))
    assert example not in order
    assert site[order[:30]].mean() > 5 * site.mean()


def test_answers_make_the_ranking_better() -> None:
    vectors, site, places = haystack(sites=80, lean=1.5)
    known = {int(np.flatnonzero(site)[0]): True}
    first = fit(vectors, Answers.of(known)).logits(vectors)
    for number in range(3):
        page = next_page(vectors, places, Answers.of(known), 20, seed=number)
        known |= {int(row): bool(site[row]) for row in page.rows}
    later = fit(vectors, Answers.of(known)).logits(vectors)
    unseen = np.setdiff1d(np.arange(len(site)), list(known))

    def share_above(logits: np.ndarray) -> float:
        return float((logits[unseen][site[unseen]][:, None] > logits[unseen][~site[unseen]]).mean())

    assert share_above(later) > max(share_above(first), 0.8)


def test_counter_examples_push_their_like_down() -> None:
    vectors, site, _ = haystack()
    yes, others = np.flatnonzero(site)[0], np.flatnonzero(~site)[:5]
    with_them = Answers.of({int(yes): True, **{int(row): False for row in others}})
    scores = fit(vectors, with_them).scores(vectors)
    assert scores[others].max() < scores[yes]


@pytest.mark.parametrize("yes,no", [(1, 0), (6, 14), (20, 80)])
def test_a_fit_is_as_good_as_an_exact_one(yes: int, no: int) -> None:
    """Against a general minimiser of the same function."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((yes + no + 30, 8)).astype(np.float32) / np.sqrt(8).astype(np.float32)
    y = np.arange(len(x)) < yes
    weight = np.where(y, 1 / yes, 1 / (len(x) - yes))
    kernel, target = _likeness(x, x).astype(float), np.where(y, 1.0, -1.0)
    share, bias = _kernel_ridge(x, y, weight)

    def loss(own: np.ndarray) -> float:
        return float(weight @ (target - bias - kernel @ own) ** 2 + _RIDGE * own @ kernel @ own)

    exact = minimize(loss, np.zeros(len(x)), method="BFGS").x
    assert loss(share) <= loss(exact) + 1e-4
    assert np.corrcoef(kernel @ share, kernel @ exact)[0, 1] > 0.99


def test_sites_of_two_looks_are_found_by_one_example_of_each() -> None:
    """They lie on opposite sides of the others: no single direction leads to both."""
    rng = np.random.default_rng(0)
    vectors = 0.3 * rng.standard_normal((400, 16))
    vectors[:20, 0] += 3
    vectors[20:40, 0] -= 3
    vectors[:, 1] += 2
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    others = dict.fromkeys(range(380, 400), False)
    logits = fit(vectors.astype(np.float16), Answers.of({0: True, 20: True, **others})).logits(vectors)
    assert (rank(logits)[:40] < 40).mean() > 0.7


def test_among_many_chips_the_likeliest_are_ranked_as_among_few(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, site, _ = haystack(3_000, 60)
    ranker = fit(vectors, Answers.of({int(row): bool(site[row]) for row in [*np.flatnonzero(site)[:5], *range(20)]}))
    exact = ranker.logits(vectors)
    monkeypatch.setattr("geoslave.search.ranking._CLOSELY", 600)
    quick = ranker.logits(vectors)
    assert (rank(quick)[:20] == rank(exact)[:20]).all()
    close = rank(quick)[:600]
    assert np.allclose(quick[close], exact[close], atol=1e-5)
    assert np.isin(np.flatnonzero(site), close).mean() > 0.95


def test_of_more_answers_than_can_be_held_all_sites_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoslave.search.ranking._SUPPORT", 100)
    _, site, _ = haystack(600, 30)
    kept = _supporting(Answers(np.arange(600), site), seed=0)
    assert len(kept.rows) == 100 and kept.sites.sum() == 30
    assert (site[kept.rows] == kept.sites).all()
    mostly = _supporting(Answers(np.arange(600), ~site), seed=0)
    assert len(mostly.rows) == 100 and (~mostly.sites).sum() == 30
    few = _supporting(Answers(np.arange(50), site[:50]), seed=0)
    assert (few.rows == np.arange(50)).all()


def test_the_ground_that_is_kept_changes_no_ranking() -> None:
    vectors, site, _ = haystack()
    answers = Answers.of({int(row): bool(site[row]) for row in [*np.flatnonzero(site)[:3].tolist(), 7, 8]})
    kept = fit(vectors, answers, learn_background(vectors))
    assert np.allclose(kept.logits(vectors), fit(vectors, answers).logits(vectors))


def test_nothing_can_be_learned_without_a_site() -> None:
    vectors, _, _ = haystack(50, 5)
    with pytest.raises(SearchError, match="at least one place"):
        fit(vectors, Answers.of({3: False}))
    with pytest.raises(SearchError, match="fewer than two"):
        learn_background(vectors[:1])


def test_the_first_page_is_not_one_place_twenty_times() -> None:
    vectors, _, places = haystack(400, 20)
    logits = np.linspace(5, 0, 400)
    places[:40] = [10.0, 10.0]  # the forty likeliest are one place
    vectors[:40] = vectors[0]
    page = diverse_page(logits, vectors, places, 10, apart_m=500)
    assert (page < 40).sum() == 1
    assert page[0] == 0


def test_where_only_one_place_is_left_the_page_is_still_filled() -> None:
    vectors, _, places = haystack(30, 3)
    places[:] = 10.0
    assert len(diverse_page(np.arange(30.0), vectors, places, 12, apart_m=500)) == 12


@given(st.integers(0, 200), st.integers(1, 40), st.floats(0, 1))
def test_a_page_shows_unseen_chips_once_and_tells_their_chance(seed: int, size: int, share: float) -> None:
    vectors, site, places = haystack(60, 6)
    answers = Answers.of({row: bool(site[row]) for row in [*np.flatnonzero(site)[:2].tolist(), 50, 51]})
    page = next_page(vectors, places, answers, size, seed=seed, audit_share=share)
    assert len(set(page.rows.tolist())) == len(page.rows) == min(size, 56)
    assert not np.isin(page.rows, answers.rows).any()
    audit = np.array([how == "audit" for how in page.how])
    assert audit.sum() == max(round(len(page.rows) * share), share > 0)
    assert np.allclose(page.audit_probability[audit], audit.sum() / 56)
    assert np.isnan(page.audit_probability[~audit]).all()


def test_the_audit_is_drawn_without_looking_at_the_ranking() -> None:
    vectors, site, places = haystack(60, 6)
    known = Answers.of({int(np.flatnonzero(site)[0]): True})
    drawn = np.zeros(60)
    for seed in range(600):
        page = next_page(vectors, places, known, 10, seed=seed, audit_share=0.5)
        drawn[[row for row, how in zip(page.rows, page.how, strict=True) if how == "audit"]] += 1
    expected = 600 * 5 / 59
    assert drawn[known.rows].sum() == 0
    assert np.abs(np.delete(drawn, known.rows) - expected).max() < 5 * np.sqrt(expected)


def test_the_same_seed_gives_the_same_page() -> None:
    vectors, site, places = haystack()
    known = Answers.of({int(np.flatnonzero(site)[0]): True})
    one, other = (next_page(vectors, places, known, 20, seed=4) for _ in range(2))
    assert one.rows.tolist() == other.rows.tolist()
    assert next_page(vectors, places, known, 20, seed=5).rows.tolist() != one.rows.tolist()
