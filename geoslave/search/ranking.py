"""Which chips to look at next: a light classifier on their vectors, refitted from the answers within a second.

The classifier is logistic regression with a ridge. From one positive it points from the middle of the ground to
that example, and answers bend it from there. Chips nobody has looked at count, weakly, as negatives: nearly all
of them are. Dividing by the covariance (discriminant analysis) was tried: with few answers it follows noise, and
80 % of the kilns took a fifth more clicks (scripts/bench/new_target.py).

Everything here is pure: vectors and answers in, rows out, the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geoslave.search import SearchError

How = Literal["likely", "uncertain", "audit"]

_BACKGROUND = 4_000
"""Random chips that tell what the ground is like."""
_ASSUMED = 600
"""Of them, those that are taken for negatives."""
_RIDGE = 0.05 / 206
"""Of each number of a vector: longer vectors leave more room to fit answers by chance."""
_WEIGHT_OF_ASSUMED = 0.3
"""All assumed negatives together; all answers of 'no' together weigh the rest of one, all sites one."""
_NEWTON_STEPS, _CG_STEPS = 15, 40
_EXACT = 1e-4
"""Of the first gradient, what may be left when a fit ends: scores then agree to a thousandth of their spread."""
_CHUNK = 16_384
_EARTH_M = 111_320.0
"""Metres in a degree of latitude."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What is known of some chips."""

    rows: NDArray[np.int64]
    """[n] of the index, none twice."""
    sites: NDArray[np.bool_]
    """[n] True where there is a site."""
    seen: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Further chips that were shown without a clear answer: not to be shown again."""

    @staticmethod
    def of(known: Mapping[int, bool]) -> Answers:
        """From {row: is there a site}."""
        rows = np.array(sorted(known), np.int64)
        return Answers(rows, np.array([known[int(row)] for row in rows], bool))


@dataclass(frozen=True, slots=True)
class Background:
    """What the ground is like: made once an index."""

    rows: NDArray[np.int64]
    """[n] chips it was learned from."""
    centre: NDArray[np.float32]
    """[d]"""
    spread: float
    """Standard deviation of a number, over all numbers."""
    inputs: NDArray[np.float32]
    """[n, d] those chips, less the centre, in units of the spread: kept, for every fit takes some of them."""


@dataclass(frozen=True, slots=True)
class Ranker:
    """A direction in the space of vectors: the farther along it, the more a chip looks like a site."""

    weights: NDArray[np.float32]
    """[d]"""
    bias: float

    def logits(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """[n] of vectors [n, d]; above 0: rather a site."""
        out = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), _CHUNK):
            out[start : start + _CHUNK] = vectors[start : start + _CHUNK].astype(np.float32) @ self.weights
        return out + np.float32(self.bias)

    def scores(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """[n] in (0, 1): good for ranking, no probability."""
        return _logistic(self.logits(vectors))


@dataclass(frozen=True, slots=True)
class Page:
    """Chips to look at."""

    rows: NDArray[np.int64]
    """[n] in the order of showing."""
    how: tuple[How, ...]
    """[n] why each is shown."""
    audit_probability: NDArray[np.float64]
    """[n] chance each had to be drawn by the audit, given all answers before; NaN where the ranking chose it.

    No inclusion probability: the ranking may show a chip that the audit could have drawn.
    """
    score: NDArray[np.float32]
    """[n] of the ranking when the page was made."""


def learn_background(vectors: NDArray[np.floating[Any]], seed: int = 0) -> Background:
    """Middle and spread of random chips [n, d].

    Raises:
        SearchError: if there are fewer than two chips.
    """
    if len(vectors) < 2:
        raise SearchError("the index holds fewer than two chips: there is nothing to rank")
    rows = np.sort(np.random.default_rng(seed).choice(len(vectors), min(len(vectors), _BACKGROUND), replace=False))
    sample = vectors[rows].astype(np.float32)
    centre = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = max(float(np.sqrt(sample.var(axis=0, dtype=np.float64).mean())), 1e-6)
    return Background(rows.astype(np.int64), centre, spread, (sample - centre) / np.float32(spread))


def fit(
    vectors: NDArray[np.floating[Any]], answers: Answers, background: Background | None = None, seed: int = 0
) -> Ranker:
    """Learn from answers, one positive at least.

    Args:
        vectors: [n, d] of the whole index.
        background: of `learn_background`; None learns it.

    Raises:
        SearchError: if no answer is a site.
    """
    if not answers.sites.any():
        raise SearchError("no example is a site: give at least one place of the kind that is sought")
    ground = background or learn_background(vectors, seed)
    assumed = _assumed(ground, answers, seed)
    own = (vectors[answers.rows].astype(np.float32) - ground.centre) / np.float32(ground.spread)
    target = np.concatenate([answers.sites, np.zeros(len(assumed), bool)])
    weight = _weights(answers.sites, len(assumed))
    direction, bias = _logistic_ridge(np.concatenate([own, ground.inputs[assumed]]), target, weight)
    weights = direction / ground.spread
    return Ranker(weights.astype(np.float32), float(bias - weights @ ground.centre))


def rank(logits: NDArray[np.floating[Any]], seen: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Rows from the most to the least likely, without those that were seen; equals by row."""
    order = np.argsort(-logits, kind="stable")
    return order if seen is None or not len(seen) else order[~np.isin(order, seen)]


def considered(size: int) -> int:
    """Of the likeliest chips, how many a page of a size is chosen from."""
    return max(20 * size, 200)


def diverse_page(
    logits: NDArray[np.floating[Any]],
    vectors: NDArray[np.floating[Any]],
    places: NDArray[np.float64],
    size: int,
    *,
    seen: NDArray[np.int64] | None = None,
    apart_m: float = 500.0,
    variety: float = 0.2,
    candidates: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """The most likely chips that are not the same place, or the same look, again and again.

    Greedy: each next chip has the highest (1 - variety) * likelihood - variety * likeness to those chosen
    (maximal marginal relevance, Carbonell & Goldstein 1998), farther than `apart_m` from all of them as
    long as there are such.

    Args:
        logits: [n] of all chips, or of `candidates` only where those are given.
        vectors: [n, d] of all chips.
        places: [n, 2] longitude and latitude of all chips.
        candidates: rows to choose among; None: all.
    """
    pool = np.arange(len(vectors)) if candidates is None else candidates
    value = np.asarray(logits, np.float64)
    if seen is not None and len(seen):
        fresh = ~np.isin(pool, seen)
        pool, value = pool[fresh], value[fresh]
    best = np.argsort(-value, kind="stable")[: considered(size)]
    pool, value = pool[best], value[best]
    return pool[_marginal(value, vectors[pool].astype(np.float32), places[pool], size, apart_m, variety)]


def next_page(
    vectors: NDArray[np.floating[Any]],
    places: NDArray[np.float64],
    answers: Answers,
    size: int = 20,
    seed: int = 0,
    audit_share: float = 0.2,
    *,
    uncertain_share: float = 0.1,
    background: Background | None = None,
    apart_m: float = 500.0,
    eligible: NDArray[np.bool_] | None = None,
) -> Page:
    """Chips to look at next: most likely sites, uncertain ones, and a random audit that tells how many remain.

    The audit is drawn first, at random among all chips nobody has seen, without looking at the ranking: only
    so can it say something about all of them.

    Args:
        places: [n, 2] longitude and latitude.
        seed: another one for each page.
        eligible: [n] chips that may be shown and are counted; None: all.
    """
    rng = np.random.default_rng(seed)
    done = np.union1d(answers.rows, answers.seen)
    open_ = np.ones(len(vectors), bool) if eligible is None else eligible.copy()
    open_[done] = False
    unseen = np.flatnonzero(open_)
    size = min(size, len(unseen))
    n_audit = min(size, round(size * audit_share))
    audit = rng.choice(unseen, n_audit, replace=False) if n_audit else np.zeros(0, np.int64)
    ranker = fit(vectors, answers, background) if answers.sites.any() else None
    if ranker is None:  # nothing to go by yet: chance alone
        rest = rng.choice(np.setdiff1d(unseen, audit), size - n_audit, replace=False)
        return _page(np.concatenate([audit, rest]), ["audit"] * size, size / max(len(unseen), 1), np.zeros(size))
    logits = ranker.logits(vectors)
    left = np.setdiff1d(unseen, audit)
    n_uncertain = min(round(size * uncertain_share), size - n_audit)
    likely = diverse_page(logits[left], vectors, places, size - n_audit - n_uncertain, apart_m=apart_m, candidates=left)
    uncertain = _uncertain(logits, np.setdiff1d(left, likely), vectors, places, n_uncertain, apart_m)
    rows = np.concatenate([likely, uncertain, audit]).astype(np.int64)
    reasons: tuple[tuple[How, int], ...] = (("likely", len(likely)), ("uncertain", len(uncertain)), ("audit", n_audit))
    how = [reason for reason, n in reasons for _ in range(n)]
    return _page(rows, how, n_audit / max(len(unseen), 1), logits[rows])


def _page(rows: NDArray[np.int64], how: Sequence[How], of_audit: float, logits: NDArray[Any]) -> Page:
    chance = np.array([of_audit if one == "audit" else np.nan for one in how])
    return Page(rows.astype(np.int64), tuple(how), chance, _logistic(np.asarray(logits, np.float32)))


def _uncertain(
    logits: NDArray[np.float32],
    left: NDArray[np.int64],
    vectors: NDArray[Any],
    places: NDArray[np.float64],
    size: int,
    apart_m: float,
) -> NDArray[np.int64]:
    """Chips about which the ranking knows least: those nearest to even, unlike each other."""
    if not size or not len(left):
        return np.zeros(0, np.int64)
    return diverse_page(-np.abs(logits[left]), vectors, places, size, apart_m=apart_m, candidates=left)


def _marginal(
    value: NDArray[np.float64],
    vectors: NDArray[np.float32],
    places: NDArray[np.float64],
    size: int,
    apart_m: float,
    variety: float,
) -> NDArray[np.int64]:
    spread = max(float(np.ptp(value)), 1e-9) if len(value) else 1.0
    worth = (value - value.min()) / spread if len(value) else value
    alike = np.zeros(len(value))
    near = np.zeros(len(value), bool)
    free = np.ones(len(value), bool)
    chosen: list[int] = []
    while len(chosen) < size and free.any():
        allowed = free & ~near
        gain = np.where(allowed if allowed.any() else free, (1 - variety) * worth - variety * alike, -np.inf)
        best = int(np.argmax(gain))
        chosen.append(best)
        free[best] = False
        alike = np.maximum(alike, vectors @ vectors[best])
        near |= _metres(places, places[best]) < apart_m
    return np.array(chosen, np.int64)


def _metres(places: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances [n] in metres between near points of longitude and latitude (a plane is good enough)."""
    across = (places[:, 0] - place[0] + 180) % 360 - 180
    east = across * np.cos(np.radians(place[1]))
    return np.hypot(east, places[:, 1] - place[1]) * _EARTH_M


def _assumed(ground: Background, answers: Answers, seed: int) -> NDArray[np.int64]:
    """Which of the background's chips are taken for negatives."""
    free = np.flatnonzero(~np.isin(ground.rows, answers.rows))
    return np.random.default_rng(seed + 1).permutation(free)[:_ASSUMED]


def _weights(sites: NDArray[np.bool_], assumed: int) -> NDArray[np.float64]:
    """[n] positives weigh one together, answers of no and assumed negatives one together."""
    yes, no = int(sites.sum()), int((~sites).sum())
    of_assumed = 1.0 if no == 0 else _WEIGHT_OF_ASSUMED
    of_no = 0.0 if no == 0 else 1 - of_assumed
    weight = np.where(sites, 1 / max(yes, 1), of_no / max(no, 1))
    return np.concatenate([weight, np.full(assumed, of_assumed / max(assumed, 1))])


def _logistic_ridge(
    x: NDArray[np.float32], y: NDArray[np.bool_], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """(direction [d], bias) of weighted logistic regression with a ridge.

    Newton's method, each step by conjugate gradients with the diagonal as preconditioner (Lin, Weng & Keerthi 2008):
    no d x d matrix is made, which took nine tenths of a query's time.
    """
    design = np.column_stack([x, np.ones(len(x), np.float32)])
    squares = design * design
    share, target = weight.astype(np.float32), y.astype(np.float32)
    ridge = np.full(design.shape[1], _RIDGE * x.shape[1], np.float32)
    ridge[-1] = 1e-6
    theta = np.zeros(design.shape[1], np.float32)
    first = 0.0
    for _ in range(_NEWTON_STEPS):
        p = _logistic(design @ theta)
        gradient = design.T @ (share * (p - target)) + ridge * theta
        size = float(np.linalg.norm(gradient))
        first = first or size
        if size <= _EXACT * first:
            break
        curve = share * np.maximum(p * (1 - p), 1e-6)
        theta -= _newton_step(design, curve, ridge, curve @ squares + ridge, gradient, min(0.1, size / first) * size)
    return theta[:-1].astype(np.float64), float(theta[-1])


def _newton_step(
    design: NDArray[np.float32],
    curve: NDArray[np.float32],
    ridge: NDArray[np.float32],
    diagonal: NDArray[np.float32],
    gradient: NDArray[np.float32],
    exact: float,
) -> NDArray[np.float32]:
    """[d] what solves (design' curve design + ridge) step = gradient, but for a rest of the size `exact`."""
    step = np.zeros_like(gradient)
    rest = gradient.copy()
    way = scaled = rest / diagonal
    now = float(rest @ scaled)
    for _ in range(_CG_STEPS):
        bent = design.T @ (curve * (design @ way)) + ridge * way
        length = np.float32(now / max(float(way @ bent), 1e-30))
        step += length * way
        rest -= length * bent
        if float(np.linalg.norm(rest)) <= exact:
            break
        scaled = rest / diagonal
        before, now = now, float(rest @ scaled)
        way = scaled + np.float32(now / max(before, 1e-30)) * way
    return step


def _logistic(logits: NDArray[Any]) -> NDArray[Any]:
    values: NDArray[Any] = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
    return values
