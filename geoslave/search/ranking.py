"""Which chips to look at next: a light classifier on their vectors, refitted from the answers within a second.

The classifier is kernel ridge regression: a chip scores by its likeness to each chip that is known, and likeness fades
with distance (Gaussian), so that sites of several looks need not lie on one side of a plane. Against logistic
regression with a ridge, which it replaced, 80 % of the mines it was chosen on took a fifth fewer clicks
(scripts/bench/new_target.py). Chips nobody has looked at count, weakly, as negatives: nearly all of them are.

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
_RIDGE = 0.002
_FADES = 1.5
"""How fast likeness fades: exp(-fades * squared distance / mean square of vectors less their middle)."""
_SUPPORT = 4_000
"""Known chips that scores are made from, at most."""
_LOGIT = 4.0
"""Of a chip that scores as sites do, 1; -1 is as chips without."""
_CLOSELY = 20_000
"""Chips whose scores are exact: those that a straight direction puts first. A score costs a product with every known
chip."""
_WEIGHT_OF_ASSUMED = 0.3
"""All assumed negatives together; all answers of 'no' together weigh the rest of one, all sites one."""
_CHUNK = 4_096
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
    """Root mean square of the lengths of vectors less the centre."""
    inputs: NDArray[np.float32]
    """[n, d] those chips, less the centre, in units of the spread: kept, for every fit takes some of them."""


@dataclass(frozen=True, slots=True)
class Ranker:
    """Known chips, and how much likeness to each says for or against a site."""

    known: NDArray[np.float32]
    """[m, d] less the centre, in units of the root mean square of their lengths over the ground."""
    share: NDArray[np.float32]
    """[m] above 0 for sites, below for others."""
    bias: float
    centre: NDArray[np.float32]
    """[d]"""
    spread: float

    @property
    def weights(self) -> NDArray[np.float32]:
        """[d] the direction that scores follow while likenesses are small: the farther along it, the likelier."""
        return (self.share @ self.known / self.spread).astype(np.float32)

    def logits(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """[n] of vectors [n, d]; above 0: rather a site.

        Of more than 20,000 only those that lie farthest along `weights` are compared with every known chip; the
        others follow behind all of these, in the order of that direction.
        """
        if len(vectors) <= _CLOSELY:
            return self._exact(vectors)
        out = np.empty(len(vectors), np.float32)
        direction = self.weights
        for start in range(0, len(vectors), _CHUNK):
            out[start : start + _CHUNK] = vectors[start : start + _CHUNK].astype(np.float32) @ direction
        order = np.argpartition(-out, _CLOSELY)
        near, far = np.sort(order[:_CLOSELY]), order[_CLOSELY:]
        exact = self._exact(vectors[near])
        out[far] += exact.min() - out[far].max() - np.float32(1e-3)
        out[near] = exact
        return out

    def scores(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """[n] in (0, 1): good for ranking, no probability."""
        return _logistic(self.logits(vectors))

    def _exact(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        out = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), _CHUNK):
            own = (vectors[start : start + _CHUNK].astype(np.float32) - self.centre) / np.float32(self.spread)
            out[start : start + _CHUNK] = _likeness(own, self.known) @ self.share
        return out + np.float32(self.bias)


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
    spread = max(float(np.sqrt(sample.var(axis=0, dtype=np.float64).sum())), 1e-6)
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
    learned = _supporting(answers, seed)
    assumed = _assumed(ground, answers, seed)
    own = (vectors[learned.rows].astype(np.float32) - ground.centre) / np.float32(ground.spread)
    known = np.concatenate([own, ground.inputs[assumed]])
    target = np.concatenate([learned.sites, np.zeros(len(assumed), bool)])
    share, bias = _kernel_ridge(known, target, _weights(learned.sites, len(assumed)))
    return Ranker(known, share * np.float32(_LOGIT), bias * _LOGIT, ground.centre, ground.spread)


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
    audit_share: float = 0.1,
    *,
    uncertain_share: float = 0.2,
    background: Background | None = None,
    apart_m: float = 500.0,
    eligible: NDArray[np.bool_] | None = None,
) -> Page:
    """Chips to look at next: most likely sites, uncertain ones, and a random audit that tells how many remain.

    The audit is drawn first, at random among all chips nobody has seen, without looking at the ranking: only
    so can it say something about all of them.

    Args:
        places: [n, 2] longitude and latitude.
        audit_share: of the page, one chip at least unless it is 0.
        seed: another one for each page.
        eligible: [n] chips that may be shown and are counted; None: all.
    """
    rng = np.random.default_rng(seed)
    done = np.union1d(answers.rows, answers.seen)
    open_ = np.ones(len(vectors), bool) if eligible is None else eligible.copy()
    open_[done] = False
    unseen = np.flatnonzero(open_)
    size = min(size, len(unseen))
    n_audit = min(size, max(round(size * audit_share), int(audit_share > 0)))
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


def _kernel_ridge(
    x: NDArray[np.float32], y: NDArray[np.bool_], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float32], float]:
    """(share [n] of each of some vectors [n, d], bias) of weighted least squares from likeness to -1 or 1.

    With the kernel matrix K it minimises sum(weight * (target - bias - K share)**2) + ridge * share' K share; the
    bias is the weighted mean of the targets (Saunders, Gammerman & Vovk 1998).
    """
    target = np.where(y, 1.0, -1.0)
    bias = float(weight @ target / weight.sum())
    kernel = _likeness(x, x)
    kernel[np.diag_indices_from(kernel)] += (_RIDGE / np.maximum(weight, 1e-9)).astype(np.float32)
    # numpy, not scipy: the two keep threads of their own, which wait for each other longer than this takes
    return np.linalg.solve(kernel, (target - bias).astype(np.float32)), bias


def _likeness(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, m] of vectors [n, d] and [m, d]: 1 for the same, fading to 0."""
    product = x @ y.T
    product *= 2
    product -= (x * x).sum(axis=1)[:, None]
    product -= (y * y).sum(axis=1)
    product *= np.float32(_FADES)
    likeness: NDArray[np.float32] = np.exp(np.minimum(product, 0, out=product), out=product)
    return likeness


def _supporting(answers: Answers, seed: int) -> Answers:
    """All answers, or as many as scores are made from: sites first, at most half."""
    if len(answers.rows) <= _SUPPORT:
        return answers
    order = np.random.default_rng(seed + 2).permutation(len(answers.rows))
    yes, no = order[answers.sites[order]], order[~answers.sites[order]]
    sites = yes[: max(_SUPPORT // 2, _SUPPORT - len(no))]
    kept = np.sort(np.concatenate([sites, no[: _SUPPORT - len(sites)]]))
    return Answers(answers.rows[kept], answers.sites[kept], answers.seen)


def _logistic(logits: NDArray[Any]) -> NDArray[Any]:
    values: NDArray[Any] = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
    return values
