"""Consensus against published figures, simulated crowds, and marks on a plane."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoslave.review.consensus import (
    Rule,
    agree,
    agreement,
    cluster_marks,
    dawid_skene,
    fleiss_kappa,
    sites_from_marks,
)
from geoslave.review.tasks import ReviewError

# Dawid & Skene 1979, table 1: 45 patients; observer 1 three times, then observers 2 to 5
PATIENTS = """
1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212 1211111
1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111 1111111 1121121
1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222
""".split()  # noqa: SIM905
FLEISS = (
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
)  # fmt: skip


def test_dawid_skene_reproduces_the_published_figures() -> None:
    observer = (0, 0, 0, 1, 2, 3, 4)
    votes = [(i, observer[k], int(c) - 1) for i, row in enumerate(PATIENTS) for k, c in enumerate(row)]
    task, reviewer, answer = zip(*votes, strict=True)
    fit = dawid_skene(task, reviewer, answer, n_tasks=45, n_reviewers=5, n_truths=4)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(-192.89088, abs=1e-5)
    assert fit.prevalence == pytest.approx([0.3996, 0.4220, 0.1118, 0.0667], abs=5e-5)
    first = [[0.8895, 0.1105, 0, 0], [0.0706, 0.8764, 0.0530, 0], [0, 0.3388, 0.6612, 0], [0, 0, 0.5556, 0.4444]]
    assert fit.confusion[0] == pytest.approx(np.array(first), abs=5e-5)
    for patient, truth, posterior in ((7, 1, 0.981), (35, 2, 0.948), (38, 3, 0.9788)):
        assert fit.posterior[patient - 1, truth - 1] == pytest.approx(posterior, abs=5e-4)


def test_fleiss_and_mapswipe_agreement_give_the_known_figures() -> None:
    assert fleiss_kappa(FLEISS) == pytest.approx(0.20993, abs=5e-6)
    assert agreement([(3, 0, 0), (2, 1, 0), (5, 2, 1)]) == pytest.approx([1, 1 / 3, 0.392857], abs=5e-7)
    assert np.isnan(fleiss_kappa([(1, 0)])) and np.isnan(agreement([(1, 0)])[0])
    assert fleiss_kappa([(3, 0), (2, 0)]) == 1.0


def crowd(seed: int, n_tasks: int = 300, n_each: int = 7) -> tuple[pd.DataFrame, dict[str, str]]:
    """Votes of 6 careful reviewers and 8 spammers, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n_tasks) < 0.4
    rows = []
    for k in range(n_tasks):
        for r in rng.choice(14, n_each, replace=False):
            right = rng.random() < 0.92
            yes = (truth[k] == right) if r < 6 else rng.random() < 0.7
            rows.append((f"t{k:03d}", f"r{r:02d}", "yes" if yes else "no"))
    names = {f"t{k:03d}": "yes" if truth[k] else "no" for k in range(n_tasks)}
    return pd.DataFrame(rows, columns=["task_id", "reviewer_id", "answer"]), names


@pytest.mark.parametrize("seed", range(4))
def test_it_beats_the_majority_where_spammers_vote_and_names_them(seed: int) -> None:
    votes, truth = crowd(seed)
    gold = dict(list(truth.items())[:20])
    found = agree(votes, gold=gold)
    rest = found.verdicts[~found.verdicts["task_id"].isin(gold)]
    right = rest["task_id"].map(truth)
    by_crowd, by_majority = (rest["answer"] == right).mean(), (rest["majority"] == right).mean()
    assert by_crowd > by_majority + 0.1 and by_crowd > 0.9
    skill = found.reviewers.set_index("reviewer_id").eval("sensitivity + specificity - 1")
    assert skill[:6].min() > 0.6 and skill[6:].max() < 0.4
    assert found.reviewers["gold_right"].sum() < found.reviewers["n_gold"].sum()


def test_it_says_when_votes_are_too_few_and_when_no_gold_was_answered() -> None:
    votes, truth = crowd(1, n_tasks=30, n_each=2)
    few = agree(votes)
    assert any("too few" in warning for warning in few.warnings)
    assert any("no gold" in warning for warning in few.warnings)
    many = agree(crowd(1)[0], gold=truth)
    assert many.warnings == ()
    with pytest.raises(ReviewError, match="no votes"):
        agree(votes.iloc[:0])


def test_one_careless_vote_decides_nothing() -> None:
    votes = pd.DataFrame({"task_id": ["a"], "reviewer_id": ["r"], "answer": ["yes"]})
    (row,) = agree(votes).verdicts.to_dict("records")
    assert row["status"] == "open" and 0.5 < row["probability"] < 0.95


def test_what_answers_mean() -> None:
    rows = [
        ("a", "yes yes offset"),
        ("b", "bad_imagery bad_imagery no"),
        ("c", "unsure unsure unsure"),
        ("d", "no no no"),
    ]
    votes = pd.DataFrame(
        [(task, f"r{k}", word) for task, words in rows for k, word in enumerate(words.split())],
        columns=["task_id", "reviewer_id", "answer"],
    )
    found = agree(votes, settled={"c": "yes"}).verdicts.set_index("task_id")
    assert found["answer"].to_dict() == {"a": "yes", "b": "bad_imagery", "c": "yes", "d": "no"}
    assert found.loc["a", "n_offset"] == 1 and found.loc["a", "agreement"] == 1.0
    assert np.isnan(found.loc["b", "probability"])
    assert found.loc["c", ["probability", "status"]].tolist() == [1.0, "settled"]


@pytest.mark.parametrize(
    ("probability", "n", "state"),
    [(0.95, 5, "open"), (0.95, 6, "yes"), (0.05, 6, "no"), (0.5, 10, "open"), (0.5, 11, "experts"), (0.9, 6, "open")],
)
def test_retirement_is_caesars(probability: float, n: int, state: str) -> None:
    assert Rule().state(probability, n) == state


@given(st.integers(0, 10_000))
def test_posteriors_are_probabilities_and_gold_holds_fast(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    task, reviewer, answer = rng.integers(0, 8, n), rng.integers(0, 5, n), rng.integers(0, 3, n)
    sizes = {"n_tasks": 8, "n_reviewers": 5, "n_truths": 2, "n_answers": 3}
    fit = dawid_skene(task, reviewer, answer, gold={2: 1}, prior=np.ones((2, 3)), **sizes)
    assert np.isfinite(fit.posterior).all() and fit.posterior.sum(axis=1) == pytest.approx(np.ones(8))
    assert fit.confusion.sum(axis=2) == pytest.approx(np.ones((5, 2)))
    assert fit.posterior[2].tolist() == [0.0, 1.0]


def test_marks_become_sites_in_metres() -> None:
    marks = pd.DataFrame(
        [(0, 0, "a"), (10, 5, "b"), (4, -6, "c"), (200, 0, "a"), (215, 0, "b"), (900, 900, "c")],
        columns=["x_m", "y_m", "reviewer_id"],
    )
    sites = sites_from_marks(marks, n_looked=4, distance_m=40)
    assert sites["n_saw"].tolist() == [3, 2, 1]
    assert sites["share"].tolist() == [0.75, 0.5, 0.25]
    assert sites.loc[1, "x_m"] == pytest.approx(207.5)


def test_two_marks_of_one_person_are_two_sites_and_chains_do_not_grow() -> None:
    assert cluster_marks([(0, 0), (5, 0), (2, 0)], ["a", "a", "b"], 40).max() == 1
    line = [(30.0 * k, 0.0) for k in range(6)]
    groups = cluster_marks(line, list("abcdef"), 40)
    assert max(np.ptp([line[k][0] for k in np.flatnonzero(groups == g)]) for g in set(groups)) <= 40
    assert cluster_marks([], [], 40).tolist() == [] and cluster_marks([(1, 1)], ["a"], 40).tolist() == [0]
