"""Which places are looked at, and with what chance.

* **triage**: detections, the most useful first. Chosen on purpose, so nothing follows for the others.
* **stratified**: detections, as many from every stratum of confidence as can be.
* **random**: detections or tiles at random.
* **census+audit**: every tile with a detection, and a random sample of those without.

Tiles are strata by flagged count, named as `geoslave estimate` names them. Every row carries its
inclusion probability: the sample's size over the stratum's. Tables in, tables out; no disk, no pictures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geoslave.review.tasks import ReviewError

DESIGNS = ("triage", "census+audit", "stratified", "random")
SCORE_EDGES = (0.2, 0.4, 0.6, 0.8)
TIER_SIZE = 20
"""So many tasks share a tier: inside it reviewers have their own orders, between tiers the more useful go first."""
_RULE = re.compile(r"\s*(\w+)\s*(<=|>=|==|!=|<|>|=)\s*(.+?)\s*")

Flags = NDArray[np.bool_]


def triage(detections: pd.DataFrame, n: int | None, urgent: Sequence[str] = ()) -> pd.DataFrame:
    """The `n` most useful detections with `tier`; those an urgent rule names are in tier 0.

    Useful is what is uncertain (confidence near 0.5), large (by rank of `area_m2`), new (column `change` says
    new, or `new` is true), or near what a siting rule protects (any true column whose name begins with rule_).
    """
    first = rules(detections, urgent)
    order = np.lexsort((-usefulness(detections), ~first))[:n]
    table = detections.iloc[order].reset_index(drop=True)
    rank = np.arange(len(table)) - first.sum()
    tier = np.where(rank < 0, 0, 1 + rank // TIER_SIZE)
    stratum = np.where(rank < 0, "triage: urgent", f"triage: first {len(table)} of {len(detections)}")
    return table.assign(stratum=stratum, inclusion_probability=1.0, tier=tier)


def usefulness(detections: pd.DataFrame) -> NDArray[np.float64]:
    """0 or more: what looking at each detection is worth."""
    worth = 1 - np.abs(2 * detections["confidence"].to_numpy(float) - 1)
    if "area_m2" in detections and len(detections) > 1:
        worth += 0.5 * detections["area_m2"].rank(pct=True).to_numpy(float)
    if "change" in detections:
        worth += 0.5 * detections["change"].astype(str).str.lower().eq("new").to_numpy()
    if "new" in detections:
        worth += 0.5 * _true(detections["new"])
    near = [_true(detections[name]) for name in detections.columns if str(name).startswith("rule_")]
    return worth + (0.5 * np.any(near, axis=0) if near else 0.0)


def rules(detections: pd.DataFrame, urgent: Sequence[str]) -> Flags:
    """Rows that any of the rules names, each as COLUMN<NUMBER, COLUMN=WORD and so on.

    Raises:
        ReviewError: if a rule is not understood or names a column that is not there.
    """
    named = np.zeros(len(detections), bool)
    for rule in urgent:
        parts = _RULE.fullmatch(rule)
        if not parts or parts[1] not in detections.columns:
            columns = ", ".join(str(name) for name in detections.columns if name != "geometry")
            raise ReviewError(f"the rule '{rule}' is not understood: write COLUMN<NUMBER with one of {columns}")
        named |= _compared(detections[parts[1]], parts[2], parts[3])
    return named


def stratified(detections: pd.DataFrame, n: int | None, rng: np.random.Generator) -> pd.DataFrame:
    """Detections by confidence in steps of 0.2, as many from every stratum as can be."""
    band = np.searchsorted(SCORE_EDGES, detections["confidence"].to_numpy(float), side="right")
    edges = (0.0, *SCORE_EDGES, 1.0)
    names = np.array([f"confidence {edges[k]:.1f}-{edges[k + 1]:.1f}" for k in range(len(edges) - 1)])[band]
    sizes = pd.Series(names).value_counts().sort_index()
    return _drawn(detections.assign(stratum=names), even_shares(sizes, n), rng)


def random(table: pd.DataFrame, n: int | None, rng: np.random.Generator, stratum: str = "random") -> pd.DataFrame:
    """Rows at random, all with the same chance."""
    return _drawn(table.assign(stratum=stratum), {stratum: min(n or len(table), len(table))}, rng)


def census(tiles: pd.DataFrame, n_audit: int, rng: np.random.Generator) -> pd.DataFrame:
    """Every tile with `n_flagged` above 0, and `n_audit` of the others."""
    names = by_flagged(tiles["n_flagged"])
    sizes = pd.Series(names).value_counts()
    wanted = {str(name): n_audit if name == by_flagged([0])[0] else int(size) for name, size in sizes.items()}
    return _drawn(tiles.assign(stratum=names), wanted, rng)


def unflagged(tiles: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """`n` of the tiles without a detection, at random."""
    return random(tiles[tiles["n_flagged"] == 0], n, rng, "unflagged") if n else tiles.iloc[:0]


def by_flagged(n_flagged: Sequence[int] | pd.Series) -> NDArray[np.str_]:
    """The stratum of each tile: "flagged 0", "flagged 1", "flagged 2", "flagged 3-4", "flagged 5+"."""
    names = np.array(["flagged 0", "flagged 1", "flagged 2", "flagged 3-4", "flagged 5+"])
    return names[np.searchsorted([1, 2, 3, 5], np.asarray(n_flagged, int), side="right")]


def even_shares(sizes: pd.Series, n: int | None) -> dict[str, int]:
    """`n` shared out as evenly as the strata's sizes allow."""
    left = int(sizes.sum() if n is None else min(n, sizes.sum()))
    share: dict[str, int] = {}
    rest = sizes.sort_values(kind="stable")
    for k, (name, size) in enumerate(rest.items()):
        share[str(name)] = min(int(size), left // (len(rest) - k))
        left -= share[str(name)]
    return share


def _drawn(table: pd.DataFrame, wanted: dict[str, int], rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for name in sorted(wanted):
        members = table[table["stratum"] == name]
        n = min(wanted[name], len(members))
        if n:
            rows = np.sort(rng.choice(len(members), n, replace=False))
            parts.append(members.iloc[rows].assign(inclusion_probability=n / len(members), tier=0))
    return pd.concat(parts, ignore_index=True) if parts else table.iloc[:0].assign(inclusion_probability=1.0, tier=0)


def _true(values: pd.Series) -> Flags:
    return values.astype(str).str.lower().isin(("true", "1", "1.0", "yes")).to_numpy(bool)


def _compared(values: pd.Series, sign: str, text: str) -> Flags:
    number = pd.to_numeric(pd.Series([text]), errors="coerce").iloc[0]
    if np.isnan(number):
        same = values.astype(str).str.lower() == text.strip("'\"").lower()
        if sign not in ("=", "==", "!="):
            raise ReviewError(f"'{text}' is no number: words are compared with = only")
        return (~same if sign == "!=" else same).to_numpy(bool)
    held = pd.to_numeric(values, errors="coerce")
    compare = {"<": held.lt, "<=": held.le, ">": held.gt, ">=": held.ge, "!=": held.ne}.get(sign, held.eq)
    return (compare(number) & held.notna()).to_numpy(bool)
