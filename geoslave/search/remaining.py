"""How many sites remain among the chips nobody has looked at, and whether looking on is worth it.

The ranking shows likely chips; they say nothing about the others. The audit does: chips drawn at random
among all unseen ones. Let K be the sites in all chips. Before an audit draw, F of them are found and U chips
are unseen, so the draw is a site with probability (K - F) / U, whatever the ranking did before: K alone is
unknown. The interval holds every K that the draws do not speak against by 1 / (1 - level): the ratio of prior
to posterior is a martingale under the true K, so by Ville's inequality the interval holds it with at least
that probability however often one looks and whenever one stops (Waudby-Smith & Ramdas 2020, "Confidence
sequences for sampling without replacement").

A site here is a chip that a reviewer answers with yes; one in two chips counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoslave.search import SearchError

LEVEL = 0.95
_GRID = 20_000
"""Totals that the prior is spread over, all of them in smaller searches; between two the interval takes the wider."""
_WORTH_CLICKS = 25
"""Clicks for a site that are still worth it."""
_AUDIT, _AUDIT_WHEN_DRY = 0.1, 0.5
"""Shares of a page that are drawn at random: while likely chips bring sites, and once they bring none."""
_DRY = 14
"""Likely chips without a site after which one may think of stopping."""


@dataclass(frozen=True, slots=True)
class AuditDraw:
    """One chip drawn at random among the unseen ones, and what it was."""

    unseen: int
    """Chips unseen before the draw, this one included."""
    found: int
    """Sites known before the draw."""
    site: bool


@dataclass(frozen=True, slots=True)
class Remaining:
    """Sites that are not found yet."""

    found: int
    unseen: int
    """Chips nobody has looked at."""
    value: int
    """Most likely about so many: the median of what is plausible."""
    low: int
    high: int
    """Limits of the interval."""
    level: float
    audited: int
    audit_sites: int
    """Of the audited, those that were sites."""

    @property
    def found_share(self) -> tuple[float, float]:
        """Share of all sites that is found: (at least, at most)."""
        return self.found / max(self.found + self.high, 1), self.found / max(self.found + self.low, 1)


@dataclass(frozen=True, slots=True)
class Advice:
    """Whether to go on."""

    go_on: bool
    words: str


def remaining(draws: Sequence[AuditDraw], chips: int, found: int, unseen: int, level: float = LEVEL) -> Remaining:
    """Estimate how many sites remain.

    Args:
        draws: every audit draw so far whose answer is known, in the order of drawing; pages that are answered
            in part have no part in it, or easy answers would come first.
        chips: all chips of the search.
        found: sites known now.
        unseen: chips nobody has answered for now.

    Raises:
        SearchError: if the numbers contradict each other.
    """
    if not 0 <= found <= chips - unseen or unseen < 0 or not 0 < level < 1:
        raise SearchError(f"{found} sites among {chips - unseen} chips looked at cannot be: check the answers")
    spread = _totals(chips)
    prior = _log_prior(spread)
    evidence = np.logaddexp.reduce(_log_likelihood(draws, spread) + prior - np.logaddexp.reduce(prior))
    totals = _tried(spread, chips, found, unseen)
    support = _log_likelihood(draws, totals)
    joint = support + _log_prior(totals)
    kept = support > evidence + np.log(1 - level)
    possible = (totals >= found) & (totals <= found + unseen)
    low, high = _limits(totals, kept & possible, possible, found, unseen)
    value = _median(totals[possible], joint[possible], found)
    return Remaining(
        found=found,
        unseen=unseen,
        value=int(np.clip(value, low, high)),
        low=low,
        high=high,
        level=level,
        audited=len(draws),
        audit_sites=sum(draw.site for draw in draws),
    )


def audit_share(recent: Sequence[bool]) -> float:
    """Share of the next page to draw at random.

    While likely chips bring sites nobody asks how many remain, and random chips bring few: a tenth. When a page of
    likely chips brought none one may think of stopping, and the interval of `remaining` is what that hangs on: half.
    The interval holds whatever the share, for it is settled before the draw, by answers that are known then.

    Args:
        recent: answers to the likeliest chips of the last pages, latest last: True was a site.
    """
    last = recent[-_DRY:]
    return _AUDIT_WHEN_DRY if len(last) == _DRY and not any(last) else _AUDIT


def worth_going_on(left: Remaining, recent: Sequence[bool]) -> Advice:
    """Say in words whether another page is worth it.

    Args:
        recent: answers to the likeliest chips of the last pages, latest last: True was a site.
    """
    share = sum(recent) / len(recent) if recent else None
    told = (
        f"{_sites(left.found)} found; {left.low:,} to {left.high:,} more may remain in {left.unseen:,} chips "
        f"nobody has looked at ({left.level:.0%} sure, from {left.audited} drawn at random)"
    )
    if left.unseen == 0:
        return Advice(False, f"Every chip was looked at: {_sites(left.found)} found.")
    if left.high == 0:
        return Advice(False, f"Stop: {told}.")
    if share is None:
        return Advice(True, f"Go on: nothing is known yet of what the ranking finds. {told}.")
    if share > 0:
        clicks = 1 / share
        cost = f"of the last {len(recent)} likely chips {sum(recent)} were sites, a new one in {clicks:.0f} clicks"
        if clicks <= _WORTH_CLICKS:
            return Advice(True, f"Go on: {cost}. {told}.")
        return Advice(False, f"Hardly worth it: {cost}. {told}.")
    if len(recent) < _WORTH_CLICKS:
        return Advice(True, f"One more page: none of the last {len(recent)} likely chips was a site. {told}.")
    advice = "if that is too many, add examples of another look, or look at random chips only"
    if left.audited < 60:
        advice = "the interval is wide because few chips were drawn at random: a page of random chips narrows it"
    return Advice(False, f"Stop, or help it: none of the last {len(recent)} likely chips was a site. {told}; {advice}.")


def _totals(chips: int) -> NDArray[np.int64]:
    """Totals K that the prior is spread over, from 0 to all chips.

    They must not depend on what was found: Ville's inequality needs a prior that is fixed before the first draw.
    """
    if chips <= _GRID:
        return np.arange(chips + 1)
    near = np.arange(_GRID // 4)
    far = np.geomspace(_GRID // 4, chips, 3 * _GRID // 4)
    return np.unique(np.concatenate([near, far]).round().astype(np.int64))


def _tried(spread: NDArray[np.int64], chips: int, found: int, unseen: int) -> NDArray[np.int64]:
    """Totals of which it is asked whether the draws speak against them: finer just above what was found."""
    if chips <= _GRID:
        return spread
    above = found + np.geomspace(1, max(unseen, 1), _GRID // 4)
    tried = np.unique(np.concatenate([spread, above, [found, found + unseen]]).round().astype(np.int64))
    return tried[tried <= chips]


def _log_prior(totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """[total], not brought to a sum of one: a total K counts 1 / (1 + K)."""
    return -np.log1p(totals) + np.log(_widths(totals))


def _widths(totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many totals each tried one stands for."""
    return np.maximum(np.gradient(totals.astype(float)), 0.5) if len(totals) > 1 else np.ones(1)


def _log_likelihood(draws: Sequence[AuditDraw], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """[total] of the draws; -inf where a total is impossible."""
    out = np.zeros(len(totals))
    with np.errstate(divide="ignore"):
        for draw in draws:
            if draw.unseen < 1:
                raise SearchError("an audit draw among no chips cannot be: check the rounds")
            chance = np.clip((totals - draw.found) / draw.unseen, 0, 1)
            out += np.log(chance) if draw.site else np.log1p(-chance)
    return out


def _limits(
    totals: NDArray[np.int64], kept: NDArray[np.bool_], possible: NDArray[np.bool_], found: int, unseen: int
) -> tuple[int, int]:
    """Smallest and largest number remaining; between tried totals the wider one."""
    inside = np.flatnonzero(kept)
    if not len(inside):  # every possible total is refused: what is found already exceeds what chance allows
        at = int(np.flatnonzero(possible)[0])
        inside = np.array([at])
    below = totals[inside[0] - 1] + 1 if inside[0] > 0 else totals[inside[0]]
    above = totals[inside[-1] + 1] - 1 if inside[-1] + 1 < len(totals) else totals[inside[-1]]
    low, high = max(int(below), found) - found, min(int(above), found + unseen) - found
    return low, max(low, high)


def _median(totals: NDArray[np.int64], joint: NDArray[np.float64], found: int) -> int:
    weight = np.exp(joint - joint.max()) if np.isfinite(joint.max()) else np.ones(len(joint))
    at = int(np.searchsorted(np.cumsum(weight), weight.sum() / 2))
    return int(totals[min(at, len(totals) - 1)]) - found


def _sites(n: int) -> str:
    return "1 site" if n == 1 else f"{n:,} sites"
