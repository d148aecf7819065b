"""A threshold for each region that was chosen on the other regions, and what it gives there.

A threshold chosen where it is measured flatters. Here each region gets the confidence at which F1 is highest
on all *other* regions together, so that nothing of the region itself decides; that is what a model's card reports
beside the figures at its operating point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from geoslave.detections import breakdown
from geoslave.detections.assess import weights
from geoslave.detections.bootstrap import N_REPLICATES, last_of_ties
from geoslave.detections.evaluate import Comparison, rates

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Names = NDArray[np.object_]
_OF_THE_GROUND = ("n_sites", "counted_area_km2", "n_blocks")
"""Figures that are there without a threshold."""


def thresholds_elsewhere(
    confidence: Floats, hit: Bools, region: Names, n_sites: Mapping[str, int]
) -> dict[str, float | None]:
    """For each region the threshold with the highest F1 on all others.

    Args:
        confidence, hit, region: [n] of detections, in any order.
        n_sites: of each region; one that is not named here has no threshold, nor a say in others'.

    Returns:
        a confidence of the others' detections ("this or more"); None where none of theirs is a hit.
    """
    known = np.isin(region, list(n_sites))
    chosen = {}
    for name in n_sites:
        others = known & (region != name)
        chosen[name] = best_f1_threshold(confidence[others], hit[others], sum(n_sites.values()) - n_sites[name])
    return chosen


def best_f1_threshold(confidence: Floats, hit: Bools, n_sites: int) -> float | None:
    """The confidence [n] at which F1 = 2 hits / (detections + sites) is highest; of equals the highest.

    None where no detection is a hit.
    """
    if not hit.any():
        return None
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    steps = last_of_ties(falling)
    f1 = 2 * np.cumsum(hit[order])[steps] / (steps + 1 + n_sites)
    return float(falling[steps[int(np.argmax(f1))]])


def assess_elsewhere(
    comparison: Comparison, groups: gpd.GeoDataFrame, n_replicates: int = N_REPLICATES, seed: int = 0
) -> dict[str, Any]:
    """Precision, recall, F1 and false alarms, each region at the threshold chosen on the others.

    Args:
        groups: one row a scene with its footprint and the column `group`, its region.

    Returns:
        the figures of all regions together with their intervals (None unless every region has a threshold), and
        `by`: those of each region, with its `threshold`.
    """
    c = comparison
    _, of_found, of_sites = breakdown.group_of(c, groups)
    n_sites = {str(name): int((c.site_counted & (of_sites == name)).sum()) for name in dict.fromkeys(groups["group"])}
    keep = c.counted
    threshold = thresholds_elsewhere(c.confidence[keep], c.hit[keep], of_found[keep], n_sites)
    least = np.array([_or_infinity(threshold[name]) for name in of_found])
    cut = _cut(c, c.confidence >= least)
    by = {
        name: {"threshold": threshold[name], **_at_threshold(facts, threshold[name] is not None)}
        for name, facts in breakdown.by_group(cut, groups, n_replicates, seed).items()
    }
    tally = cut.tally()
    hits, shown = (int(n.sum()) for n in tally.found(cut.min_confidence))
    facts = {
        **rates(tally, cut.min_confidence, weights(cut, n_replicates, seed)),
        "n_sites": len(tally.site_block),
        "n_detections": shown,
        "n_hits": hits,
        "n_false_alarms": shown - hits,
        "n_missed": len(tally.site_block) - hits,
    }
    return {**_at_threshold(facts, None not in threshold.values()), "by": by}


def _cut(c: Comparison, shown: Bools) -> Comparison:
    """The same comparison with two confidences alone, 1 for what is shown and 0: only rates mean something."""
    return replace(c, detections=c.detections.assign(confidence=shown.astype(float)), min_confidence=0.5)


def _at_threshold(facts: Mapping[str, Any], defined: bool) -> dict[str, Any]:
    """Without average precision, which knows no threshold; nothing but what is there without one."""
    told = {name: value for name, value in facts.items() if not name.startswith("average_precision")}
    if defined:
        return told
    return {name: value if name in _OF_THE_GROUND else None for name, value in told.items()}


def _or_infinity(threshold: float | None) -> float:
    return np.inf if threshold is None else threshold
