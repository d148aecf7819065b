"""Reviewers err: what may be true, given all their votes. A Bayesian Dawid-Skene model for yes and no.

Each reviewer has a sensitivity (says yes where a tile holds sites) and a specificity (says no where
it does not); each stratum has a share of tiles with sites. All of it is unknown and drawn by Gibbs
sampling together with the truths (Joseph, Gyorkos and Coupal 1995, Am. J. Epidemiology 141), so that a
count made from the draws carries the doubt about tiles *and* about reviewers. Tiles of known answer
(gold) fix their truth and so measure the reviewers. Where sites are rare this matters most: with a
specificity of 0.95 a majority of three still invents 7 sites in 1,000 empty tiles. What a coordinator
settled is held fast in the same way.

Reviewers are taken to err independently of each other, and alike in all strata.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geoslave.errors import EstimateError

PRIOR_SENSITIVITY = (9.0, 1.0)
"""Beta prior: as if each reviewer had been right on 9 of 10 tiles with sites,"""
PRIOR_SPECIFICITY = (19.0, 1.0)
"""and on 19 of 20 without."""
PRIOR_SHARE = (0.5, 0.5)
"""Jeffreys' prior of a stratum's share of tiles with sites."""
_BURN_IN, _THIN = 100, 2
_YES, _NO = ("yes", "y", "true", "1", "1.0"), ("no", "n", "false", "0", "0.0")

Floats = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Tally:
    """Votes by tile and reviewer, [tiles, reviewers]; the sampled tiles first, then the gold ones."""

    yes: Floats
    """1 where the reviewer said yes."""
    cast: Floats
    """1 where the reviewer said yes or no."""
    known: Floats
    """[gold tiles], their truth, 0 or 1."""
    settled: Floats
    """[n_sampled], the truth where a coordinator settled it, 0 or 1; else NaN."""

    @property
    def n_sampled(self) -> int:
        return len(self.yes) - len(self.known)


def tally(votes: pd.DataFrame, gold: pd.DataFrame | None, tiles: pd.Series, settled: Floats | None = None) -> Tally:
    """Count votes on the sampled tiles and the gold ones; votes on other tiles are left out.

    Args:
        votes: `tile_id, reviewer, answer`; unsure and empty answers say nothing. The last of several votes of
            one reviewer on one tile counts.
        gold: `tile_id, answer`.
        tiles: the sampled tiles.
        settled: as `Tally.settled`; such a tile needs no vote, and its votes measure the reviewers.

    Raises:
        EstimateError: if a column is missing, an answer is not understood, or a sampled tile has no vote and was
            not settled.
    """
    for column in ("tile_id", "reviewer", "answer"):
        if column not in votes:
            raise EstimateError(f"the votes have no column '{column}': they need tile_id, reviewer, answer")
    known = _gold(gold)
    ids = [*tiles.astype(str), *known.index]
    votes = votes.assign(tile_id=votes["tile_id"].astype(str), said=_answers(votes["answer"], "the votes"))
    votes = votes[votes["said"].notna()].drop_duplicates(["tile_id", "reviewer"], keep="last")
    reviewers, who = np.unique(votes["reviewer"].astype(str), return_inverse=True)
    yes, cast = np.zeros((len(ids), len(reviewers))), np.zeros((len(ids), len(reviewers)))
    said = votes["said"].to_numpy(float)
    for offset, names in ((0, ids[: len(tiles)]), (len(tiles), ids[len(tiles) :])):
        row = pd.Index(names).get_indexer(votes["tile_id"])
        there = row >= 0
        yes[offset + row[there], who[there]] = said[there]
        cast[offset + row[there], who[there]] = 1
    fixed = np.full(len(tiles), np.nan) if settled is None else settled
    silent = np.flatnonzero((cast[: len(tiles)].sum(1) == 0) & np.isnan(fixed))
    if len(silent):
        raise EstimateError(
            f"{len(silent)} reviewed tiles have no vote (the first: {ids[silent[0]]}): give all votes, or leave the "
            "tiles' n_sites empty"
        )
    return Tally(yes, cast, known.to_numpy(float), fixed)


def draw_truths(votes: Tally, stratum: Index, m: int = 200, seed: int = 0) -> NDArray[np.bool_]:
    """Draw m times which tiles hold sites: [m, n_sampled].

    Args:
        stratum: [n_sampled], positions from 0: the share of tiles with sites differs by stratum.
    """
    rng = np.random.default_rng(seed)
    n, n_strata = votes.n_sampled, int(stratum.max(initial=0)) + 1
    held = np.flatnonzero(~np.isnan(votes.settled))
    truth = np.concatenate([votes.yes[:n].sum(1) * 2 > votes.cast[:n].sum(1), votes.known]).astype(float)
    truth[held] = votes.settled[held]
    size = np.bincount(stratum, minlength=n_strata).astype(float)
    no = votes.cast - votes.yes
    kept = np.empty((m, n), bool)
    for step in range(_BURN_IN + m * _THIN):
        sensitivity = _beta(rng, PRIOR_SENSITIVITY, truth @ votes.yes, truth @ no)
        specificity = _beta(rng, PRIOR_SPECIFICITY, (1 - truth) @ no, (1 - truth) @ votes.yes)
        found = np.bincount(stratum, weights=truth[:n], minlength=n_strata).astype(float)
        share = _beta(rng, PRIOR_SHARE, found, size - found)
        weight = np.log(np.stack([sensitivity / (1 - specificity), (1 - sensitivity) / specificity]))
        odds = votes.yes[:n] @ weight[0] + no[:n] @ weight[1] + np.log(share / (1 - share))[stratum]
        truth[:n] = rng.random(n) < 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
        truth[held] = votes.settled[held]
        if step >= _BURN_IN and (step - _BURN_IN) % _THIN == 0:
            kept[(step - _BURN_IN) // _THIN] = truth[:n] > 0
    return kept


def _beta(rng: np.random.Generator, prior: tuple[float, float], right: Floats, wrong: Floats) -> Floats:
    return np.clip(rng.beta(prior[0] + right, prior[1] + wrong), 1e-9, 1 - 1e-9)


def _gold(gold: pd.DataFrame | None) -> pd.Series:
    if gold is None:
        return pd.Series(dtype=float)
    for column in ("tile_id", "answer"):
        if column not in gold:
            raise EstimateError(f"the gold tiles have no column '{column}': they need tile_id, answer")
    said = _answers(gold["answer"], "the gold tiles")
    if said.isna().any():
        raise EstimateError("a gold tile is neither yes nor no: its answer must be known")
    known = pd.Series(said.to_numpy(float), index=gold["tile_id"].astype(str))
    if known.index.duplicated().any():
        raise EstimateError(f"gold tile {known.index[known.index.duplicated()][0]} stands there twice: keep one")
    return known


def _answers(answers: pd.Series, what: str) -> pd.Series:
    text = answers.astype(object).where(answers.notna(), "").astype(str).str.strip().str.lower()
    odd = text[~text.isin((*_YES, *_NO, "unsure", "maybe", "unknown", "bad imagery", "offset", ""))]
    if len(odd):
        raise EstimateError(f"{what}: answer '{odd.iloc[0]}' is not understood: write yes, no or unsure")
    return pd.Series(np.where(text.isin(_YES), 1.0, np.where(text.isin(_NO), 0.0, np.nan)), index=answers.index)
