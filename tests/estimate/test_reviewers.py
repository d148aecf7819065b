"""Reviewers who err: what all votes say together, and counts that carry the doubt."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geoslave.errors import EstimateError
from geoslave.estimate.count import count_sites
from geoslave.estimate.reviewers import draw_truths, tally


def voted(truth: np.ndarray, seed: int = 0, sensitivity: float = 0.9, specificity: float = 0.95) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        (f"{k}", name, "yes" if rng.random() < (sensitivity if there else 1 - specificity) else "no")
        for k, there in enumerate(truth)
        for name in ("ada", "ben", "cho")
    ]
    return pd.DataFrame(rows, columns=["tile_id", "reviewer", "answer"])


def rare(n: int = 1500, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < 0.03


def test_rare_sites_are_not_invented_by_majorities() -> None:
    """A majority of three finds 7 sites too many in 1,000 empty tiles; the model knows."""
    errors, naive = [], []
    for seed in range(6):
        truth = rare(seed=seed)
        votes = voted(truth, seed)
        tiles = pd.Series([str(k) for k in range(len(truth))])
        drawn = draw_truths(tally(votes, None, tiles), np.zeros(len(truth), np.intp), 60, seed)
        errors.append(drawn.sum(1).mean() - truth.sum())
        naive.append((votes["answer"].eq("yes").groupby(votes["tile_id"]).sum() >= 2).sum() - truth.sum())
    assert abs(np.mean(errors)) < np.mean(naive)
    assert abs(np.mean(errors)) < 6


def test_counts_with_votes_are_wider_and_hold_the_truth() -> None:
    truth = rare(6000)
    frame = pd.DataFrame({"tile_id": [str(k) for k in range(6000)]})
    votes = voted(truth[:1500])
    reviews = pd.DataFrame({"tile_id": frame["tile_id"][:1500], "n_sites": 1})
    known = reviews.assign(n_sites=truth[:1500].astype(int))
    carried, plain = count_sites(frame, reviews, votes=votes), count_sites(frame, known)
    assert carried.low < truth.sum() < carried.high
    assert carried.high - carried.low > plain.high - plain.low
    assert carried == count_sites(frame, reviews, votes=votes)


def test_gold_tiles_measure_a_reviewer_who_says_yes_to_everything() -> None:
    truth = rare(400)
    votes = voted(truth, sensitivity=0.95, specificity=0.6)
    gold_truth = np.arange(60) < 30
    gold_votes = voted(gold_truth, 3, 0.95, 0.6)
    gold_votes["tile_id"] = "g" + gold_votes["tile_id"]
    gold = pd.DataFrame({"tile_id": [f"g{k}" for k in range(60)], "answer": np.where(gold_truth, "yes", "no")})
    tiles = pd.Series([str(k) for k in range(len(truth))])
    drawn = draw_truths(tally(pd.concat([votes, gold_votes]), gold, tiles), np.zeros(len(truth), np.intp), 60)
    majority = (votes["answer"].eq("yes").groupby(votes["tile_id"]).sum() >= 2).sum()
    assert abs(drawn.sum(1).mean() - truth.sum()) < 0.3 * abs(majority - truth.sum())


@pytest.mark.parametrize(
    ("votes", "gold", "said"),
    [
        (voted(rare(20)).drop(columns="reviewer"), None, "reviewer"),
        (voted(rare(20)).assign(answer="perhaps"), None, "perhaps"),
        (voted(rare(10)), None, "no vote"),
        (voted(rare(20)).assign(answer="unsure"), None, "no vote"),
        (voted(rare(20)), pd.DataFrame({"tile_id": ["a"], "answer": ["unsure"]}), "neither yes nor no"),
        (voted(rare(20)), pd.DataFrame({"tile_id": ["a", "a"], "answer": ["yes", "no"]}), "twice"),
    ],
)
def test_bad_votes_are_refused(votes: pd.DataFrame, gold: pd.DataFrame | None, said: str) -> None:
    with pytest.raises(EstimateError, match=said):
        tally(votes, gold, pd.Series([str(k) for k in range(20)]))


def test_what_was_settled_stays_whatever_the_votes_say() -> None:
    votes = voted(rare(200))
    settled = np.full(200, np.nan)
    settled[:3] = (1.0, 0.0, 1.0)
    votes = votes[votes["tile_id"] != "2"]
    tiles = pd.Series([f"{k}" for k in range(200)])
    yes = draw_truths(tally(votes, None, tiles, settled), np.zeros(200, int), m=20)
    assert yes[:, 0].all() and not yes[:, 1].any() and yes[:, 2].all()
    with pytest.raises(EstimateError, match="1 reviewed tiles have no vote"):
        tally(votes, None, tiles)
