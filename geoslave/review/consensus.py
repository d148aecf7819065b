"""What a crowd knows: majority, Dawid-Skene, agreement, and marks that become sites.

Dawid & Skene (1979), "Maximum likelihood estimation of observer error-rates using the EM algorithm",
Applied Statistics 28: each reviewer has a table of their own, how often they say what where the truth
is what; truth and tables are found together. Known answers (gold) are held fast. The EM runs until
nothing moves any more: stopping by the likelihood alone leaves posteriors off by a percent.

Arrays of votes are three columns of equal length: which task, which reviewer, which answer (numbers
from 0). Nothing here reads or writes a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from geoslave.review.tasks import ReviewError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TRUTHS = ("yes", "no")
SAID = ("yes", "no", "unsure")
"""What an answer says about the site: `offset` is a yes; `bad_imagery` says nothing about it."""
FEW_VOTES = 3.0
"""With fewer votes a task than this, on average, Dawid-Skene cannot tell a good reviewer from a lucky one."""
CAREFUL = np.array([[3.0, 1.0, 1.0], [1.0, 3.0, 1.0]])
"""Imagined votes of every reviewer, [truth, said]: right rather than wrong until their own votes tell."""
_FAR = 1e12


@dataclass(frozen=True, slots=True)
class DawidSkene:
    """What an EM ended with."""

    posterior: Floats
    """[task, truth], rows sum to 1."""
    confusion: Floats
    """[reviewer, truth, answer], the share of each answer given the truth."""
    prevalence: Floats
    """[truth]"""
    log_likelihood: float
    iterations: int
    converged: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """When a task is decided, as Caesar does it for SWAP."""

    low: float = 0.1
    high: float = 0.9
    least: int = 5
    """Decided after more votes than this, below `low` or above `high`."""
    most: int = 10
    """After more votes than this without a decision: experts."""

    def state(self, probability: float, n_votes: int) -> str:
        """yes, no, experts or open."""
        if n_votes > self.least and probability > self.high:
            return "yes"
        if n_votes > self.least and probability < self.low:
            return "no"
        return "experts" if n_votes > self.most else "open"


@dataclass(frozen=True, slots=True)
class Consensus:
    """Verdicts and what they rest on."""

    verdicts: pd.DataFrame
    """One row a task: task_id, answer (yes, no, unsure, bad_imagery), probability, n_votes, n_yes, n_no,
    n_unsure, n_bad_imagery, n_offset, agreement, majority, status (settled, decided, experts, open)."""
    reviewers: pd.DataFrame
    """One row a reviewer: n_votes, sensitivity, specificity, yes_yes .. no_unsure, n_gold, gold_right."""
    kappa: float
    """Fleiss; NaN where no task has two votes."""
    fit: DawidSkene | None
    warnings: tuple[str, ...]


def dawid_skene(
    task: ArrayLike,
    reviewer: ArrayLike,
    answer: ArrayLike,
    *,
    n_tasks: int,
    n_reviewers: int,
    n_truths: int,
    n_answers: int | None = None,
    gold: Mapping[int, int] | None = None,
    prior: Floats | None = None,
    prior_tasks: float = 0.0,
    tolerance: float = 1e-10,
    most: int = 5_000,
) -> DawidSkene:
    """Fit by EM.

    Args:
        task, reviewer, answer: [vote]; answer k < n_truths says truth k, further answers say neither.
        n_answers: as many as truths where not given.
        gold: task -> truth, held fast.
        prior: imagined votes of each reviewer, [truth, answer]; None for maximum likelihood as published.
        prior_tasks: imagined tasks of each truth, for the prevalence.
        tolerance: ends when no posterior moves more than this.
        most: iterations.

    Raises:
        ReviewError: without a vote.
    """
    i, j, k = (np.asarray(column, np.int64) for column in (task, reviewer, answer))
    if not len(i):
        raise ReviewError("there are no votes to agree on: import or cast some first")
    n_answers = n_answers or n_truths
    votes = _Votes(i, j, k, n_tasks, n_reviewers, n_truths, n_answers)
    fixed = np.array(sorted((gold or {}).items()), np.int64).reshape(-1, 2)
    posterior = _held_fast(votes.shares(), fixed)
    imagined = np.zeros((n_truths, n_answers)) if prior is None else np.asarray(prior, float)
    iterations, moved = 0, np.inf
    while moved > tolerance and iterations < most:
        prevalence, confusion = votes.maximise(posterior, imagined, prior_tasks)
        after, likelihood = votes.expect(prevalence, confusion)
        after = _held_fast(after, fixed)
        moved = float(np.abs(after - posterior).max())
        posterior = after
        iterations += 1
    return DawidSkene(posterior, confusion, prevalence, likelihood, iterations, moved <= tolerance)


@dataclass(frozen=True, slots=True)
class _Votes:
    """Votes as the steps of the EM need them."""

    task: Integers
    reviewer: Integers
    answer: Integers
    n_tasks: int
    n_reviewers: int
    n_truths: int
    n_answers: int

    def shares(self) -> Floats:
        """[task, truth]: the shares of the votes, where the EM begins."""
        first = np.zeros((self.n_tasks, self.n_truths))
        told = self.answer < self.n_truths
        np.add.at(first, (self.task[told], self.answer[told]), 1.0)
        total = first.sum(axis=1, keepdims=True)
        return np.where(total > 0, first / np.maximum(total, 1), 1 / self.n_truths)

    def maximise(self, posterior: Floats, imagined: Floats, tasks: float) -> tuple[Floats, Floats]:
        """Prevalence [truth] and confusion [reviewer, truth, answer] that fit the posterior best."""
        said = np.zeros((self.n_reviewers, self.n_answers, self.n_truths))
        np.add.at(said, (self.reviewer, self.answer), posterior[self.task])
        table = said.transpose(0, 2, 1) + imagined
        total = table.sum(axis=2, keepdims=True)
        confusion = np.where(total > 0, table / np.where(total > 0, total, 1), 1 / self.n_answers)
        voted = np.bincount(self.task, minlength=self.n_tasks) > 0
        there = posterior[voted].sum(axis=0) + tasks
        return there / there.sum(), confusion

    def expect(self, prevalence: Floats, confusion: Floats) -> tuple[Floats, float]:
        """Posterior [task, truth], and the votes' log-likelihood."""
        with np.errstate(divide="ignore"):
            each = np.log(confusion)[self.reviewer, :, self.answer]
            log = np.tile(np.log(prevalence), (self.n_tasks, 1))
        np.add.at(log, self.task, each)
        top = log.max(axis=1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        raw = np.exp(log - top)
        total = raw.sum(axis=1, keepdims=True)
        voted = np.bincount(self.task, minlength=self.n_tasks) > 0
        with np.errstate(divide="ignore"):
            likelihood = float((np.log(total) + top)[voted].sum())
        return np.where(total > 0, raw / np.where(total > 0, total, 1), 1 / self.n_truths), likelihood


def _held_fast(posterior: Floats, fixed: Integers) -> Floats:
    if len(fixed):
        posterior = posterior.copy()
        posterior[fixed[:, 0]] = 0.0
        posterior[fixed[:, 0], fixed[:, 1]] = 1.0
    return posterior


def fleiss_kappa(counts: ArrayLike) -> float:
    """Agreement beyond chance (Fleiss 1971); tasks with fewer than two votes are left out.

    Args:
        counts: [task, answer]; the number of votes may differ between tasks.

    Returns:
        at most 1; 1 too where every vote is the same; NaN without a task of two votes.
    """
    table = np.asarray(counts, float)
    n = table.sum(axis=1)
    table, n = table[n >= 2], n[n >= 2]
    if not len(table):
        return float("nan")
    observed = ((table**2).sum(axis=1) - n) / (n * (n - 1))
    share = table.sum(axis=0) / table.sum()
    by_chance = float((share**2).sum())
    if by_chance >= 1 - 1e-12:
        return 1.0
    return float((observed.mean() - by_chance) / (1 - by_chance))


def agreement(counts: ArrayLike) -> Floats:
    """MapSwipe's agreement of each row of counts [task, answer]: (sum n_k^2 - n) / (n (n - 1)); NaN below two votes."""
    table = np.atleast_2d(np.asarray(counts, float))
    n = table.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n >= 2, ((table**2).sum(axis=1) - n) / (n * (n - 1)), np.nan)


def agree(
    votes: pd.DataFrame,
    *,
    gold: Mapping[str, str] | None = None,
    settled: Mapping[str, str] | None = None,
    rule: Rule | None = None,
    least_votes: int = 3,
) -> Consensus:
    """Verdicts from votes.

    `bad_imagery` by most voters makes it the answer, with no probability. A settled task has the
    coordinator's answer and a probability of 1 or 0. `status` is `decided` where the rule says so or
    where `least_votes` voters left no doubt (probability beyond the rule's limits).

    Args:
        votes: columns task_id, reviewer_id, answer; one row a vote, each reviewer once a task.
        gold: task_id -> yes or no.
        settled: task_id -> a coordinator's answer; held fast as gold is.

    Raises:
        ReviewError: without a vote.
    """
    if votes.empty:
        raise ReviewError("there are no votes to agree on: import or cast some first")
    rule, gold, settled = rule or Rule(), dict(gold or {}), dict(settled or {})
    known = gold | {task: _said(answer) for task, answer in settled.items() if _said(answer) in TRUTHS}
    votes = votes.assign(said=votes["answer"].map(_said))
    tasks = pd.Index(sorted(votes["task_id"].unique()))
    reviewers = pd.Index(sorted(votes["reviewer_id"].unique()))
    telling = votes[votes["said"].isin(SAID)]
    fit = _fit(telling, tasks, reviewers, known) if len(telling) else None
    counts = _counts(votes, tasks)
    verdicts = _verdicts(tasks, counts, fit, settled, rule, least_votes)
    kappa = fleiss_kappa(_counts_of(votes, tasks, "said", (*SAID, "bad_imagery")))
    return Consensus(verdicts, _quality(votes, reviewers, fit, gold), kappa, fit, _warnings(telling, tasks, fit, gold))


def _said(answer: str) -> str:
    return "yes" if answer == "offset" else answer


def _fit(telling: pd.DataFrame, tasks: pd.Index, reviewers: pd.Index, known: Mapping[str, str]) -> DawidSkene:
    numbers = {task: k for k, task in enumerate(tasks)}
    return dawid_skene(
        tasks.get_indexer(pd.Index(telling["task_id"])),
        reviewers.get_indexer(pd.Index(telling["reviewer_id"])),
        pd.Index(SAID).get_indexer(pd.Index(telling["said"])),
        n_tasks=len(tasks),
        n_reviewers=len(reviewers),
        n_truths=len(TRUTHS),
        n_answers=len(SAID),
        gold={numbers[task]: TRUTHS.index(answer) for task, answer in known.items() if task in numbers},
        prior=CAREFUL,
        prior_tasks=2.0,
        tolerance=1e-8,
    )


def _counts_of(votes: pd.DataFrame, tasks: pd.Index, column: str, words: Sequence[str]) -> Floats:
    table = np.zeros((len(tasks), len(words)))
    rows, cols = tasks.get_indexer(pd.Index(votes["task_id"])), pd.Index(words).get_indexer(pd.Index(votes[column]))
    np.add.at(table, (rows[cols >= 0], cols[cols >= 0]), 1)
    return table


_WORDS = ("yes", "no", "unsure", "bad_imagery", "offset")


def _counts(votes: pd.DataFrame, tasks: pd.Index) -> pd.DataFrame:
    table = _counts_of(votes, tasks, "answer", _WORDS).astype(int)
    return pd.DataFrame(table, columns=[f"n_{word}" for word in _WORDS], index=tasks)


def _verdicts(
    tasks: pd.Index, counts: pd.DataFrame, fit: DawidSkene | None, settled: Mapping[str, str], rule: Rule, least: int
) -> pd.DataFrame:
    yes = counts["n_yes"] + counts["n_offset"]
    n = counts.sum(axis=1)
    said = np.column_stack([yes, counts["n_no"], counts["n_unsure"], counts["n_bad_imagery"]])
    probability = np.full(len(tasks), np.nan) if fit is None else fit.posterior[:, 0].copy()
    blind = 2 * counts["n_bad_imagery"].to_numpy() > n.to_numpy()
    probability[blind] = np.nan
    probability[said[:, :3].sum(axis=1) == 0] = np.nan
    status = np.array([_status(p, int(k), rule, least) for p, k in zip(probability, n, strict=True)], dtype=object)
    status[blind & (n.to_numpy() >= least)] = "decided"
    answer = np.where(probability > 0.5, "yes", np.where(probability < 0.5, "no", "unsure")).astype(object)
    answer[blind] = "bad_imagery"
    for task, word in settled.items():
        row = tasks.get_indexer(pd.Index([task]))[0]
        if row >= 0:
            answer[row], status[row] = _said(word), "settled"
            probability[row] = {"yes": 1.0, "no": 0.0}.get(_said(word), np.nan)
    table = pd.DataFrame({"task_id": tasks, "answer": answer, "probability": probability, "n_votes": n.to_numpy()})
    table = pd.concat([table, counts.reset_index(drop=True)], axis=1)
    return table.assign(agreement=agreement(said), majority=_majority(said), status=status)


def _status(probability: float, n_votes: int, rule: Rule, least: int) -> str:
    if np.isnan(probability):
        return "experts" if n_votes > rule.most else "open"
    state = rule.state(probability, n_votes)
    if state in ("yes", "no") or (n_votes >= least and not rule.low <= probability <= rule.high):
        return "decided"
    return state


def _majority(said: Floats) -> NDArray[np.object_]:
    """The most frequent answer; unsure where two are equal."""
    words = np.array([*SAID, "bad_imagery"], dtype=object)
    top = said.max(axis=1, keepdims=True)
    alone = (said == top).sum(axis=1) == 1
    return np.where(alone, words[said.argmax(axis=1)], "unsure")


def _quality(votes: pd.DataFrame, reviewers: pd.Index, fit: DawidSkene | None, gold: Mapping[str, str]) -> pd.DataFrame:
    table = pd.DataFrame({"reviewer_id": reviewers})
    table["n_votes"] = votes["reviewer_id"].value_counts().reindex(reviewers).to_numpy()
    if fit is not None:
        table["sensitivity"], table["specificity"] = fit.confusion[:, 0, 0], fit.confusion[:, 1, 1]
        for a, truth in enumerate(TRUTHS):
            for b, said in enumerate(SAID):
                table[f"{truth}_{said}"] = fit.confusion[:, a, b]
    told = votes[votes["task_id"].isin(list(gold))]
    right = told[told["said"] == told["task_id"].map(gold)]
    table["n_gold"] = told["reviewer_id"].value_counts().reindex(reviewers, fill_value=0).to_numpy()
    table["gold_right"] = right["reviewer_id"].value_counts().reindex(reviewers, fill_value=0).to_numpy()
    return table


def _warnings(
    telling: pd.DataFrame, tasks: pd.Index, fit: DawidSkene | None, gold: Mapping[str, str]
) -> tuple[str, ...]:
    told: list[str] = []
    mean = len(telling) / len(tasks)
    if mean < FEW_VOTES:
        told.append(
            f"{mean:.1f} votes a task are too few to weigh reviewers against each other: the probabilities rest on "
            f"an assumed care; {FEW_VOTES:g} or more are needed"
        )
    few = int((telling["reviewer_id"].value_counts() < 10).sum())
    if few:
        told.append(f"{few} reviewers have fewer than 10 votes: their quality is assumed rather than known")
    if not set(gold) & set(tasks):
        told.append("no gold task was answered: a crowd that errs together cannot be told from one that is right")
    if fit is not None and not fit.converged:
        told.append("the EM did not come to rest: take the probabilities as rough")
    return tuple(told)


# ---------------------------------------------------------------- marks


def cluster_marks(metres: ArrayLike, reviewer: Sequence[str], distance_m: float) -> Integers:
    """Which site each mark belongs to.

    Marks of one site lie no farther than `distance_m` from each other (complete linkage), and a reviewer
    has one mark a site: two marks of the same person are two sites, however close.

    Args:
        metres: [mark, (x, y)] on a local metric plane.
        reviewer: who made each.

    Returns:
        [mark], numbers from 0 in the order of their first mark.
    """
    points = np.asarray(metres, float).reshape(-1, 2)
    if len(points) < 2:
        return np.zeros(len(points), np.int64)
    apart = np.hypot(*(points[:, None, :] - points[None, :, :]).transpose(2, 0, 1))
    who = np.asarray(reviewer, dtype=object)
    apart[who[:, None] == who[None, :]] = _FAR
    pairs = apart[np.triu_indices(len(points), 1)]
    groups = fcluster(linkage(pairs, "complete"), distance_m, "distance")
    return pd.factorize(groups)[0].astype(np.int64)


def sites_from_marks(marks: pd.DataFrame, n_looked: int, distance_m: float) -> pd.DataFrame:
    """The sites of one search task.

    Args:
        marks: columns x_m, y_m (a local metric plane) and reviewer_id.
        n_looked: how many reviewers answered the task.

    Returns:
        one row a site: x_m, y_m (mean of its marks), n_saw, n_looked, share, spread_m (largest distance of a
        mark from the mean).
    """
    columns = ["x_m", "y_m", "n_saw", "n_looked", "share", "spread_m"]
    if marks.empty:
        return pd.DataFrame(columns=columns)
    site = cluster_marks(marks[["x_m", "y_m"]].to_numpy(), list(marks["reviewer_id"]), distance_m)
    middle = marks[["x_m", "y_m"]].groupby(site).transform("mean")
    away = np.hypot(marks["x_m"] - middle["x_m"], marks["y_m"] - middle["y_m"])
    grouped = marks.assign(away=away).groupby(site)
    table = grouped.agg(
        x_m=("x_m", "mean"), y_m=("y_m", "mean"), n_saw=("reviewer_id", "size"), spread_m=("away", "max")
    )
    return table.assign(n_looked=n_looked, share=table["n_saw"] / n_looked)[columns].reset_index(drop=True)
