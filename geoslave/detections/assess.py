"""Everything there is to say about how detections agree with labels, as one report; and each object's outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from geoslave.detections import bootstrap, breakdown
from geoslave.detections.bootstrap import N_REPLICATES, Weights
from geoslave.detections.evaluate import Comparison, measure
from geoslave.detections.match import sites_area
from geoslave.detections.reliability import Reliability, reliability
from geoslave.errors import LabelError

HIT, MISS, FALSE_ALARM, IGNORED = "hit", "miss", "false alarm", "ignored"
_BAND_RECALL = np.linspace(0, 1, 51)


def weights(comparison: Comparison, n_replicates: int = N_REPLICATES, seed: int = 0) -> Weights:
    """The bootstrap draws of blocks that every figure of a comparison shares."""
    return bootstrap.draw_blocks(len(comparison.ground.blocks), n_replicates, seed)


def assess(
    comparison: Comparison,
    by: Sequence[str] = (),
    groups: gpd.GeoDataFrame | None = None,
    n_replicates: int = N_REPLICATES,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of a comparison, ready for JSON.

    Returns:
        the keys of `Evaluation` at the top, and below them `average_precision_by` (`distance_m`,
        `iou`), `count`, `tile`, `reliability`, `by` (`class_name`, `size`, each column of `by`, and
        `scene_group`), `precision_band` (see `geoslave.detections.breakdown` for the definitions).

    Args:
        by: columns of the labels, e.g. region.
        groups: one row a scene with its footprint and the column `group`.

    Raises:
        LabelError: if the labels lack a column of `by`.
    """
    c = comparison
    weight = weights(c, n_replicates, seed)
    parts = {"class_name": breakdown.by_class(c, n_replicates, seed), "size": breakdown.by_size(c, n_replicates, seed)}
    for column in by:
        if column != "class_name":
            name = column if column not in (*parts, "scene_group") else f"{column} (labels)"
            parts[name] = breakdown.by_place(c, column, n_replicates, seed)
    if groups is not None:
        parts["scene_group"] = breakdown.by_group(c, groups, n_replicates, seed)
    return {
        **measure(c, n_replicates, seed).to_dict(),
        "average_precision_by": breakdown.by_criterion(c, weight),
        "count": breakdown.count_error(c, weight),
        "tile": breakdown.by_tile(c, weight),
        "reliability": reliability_of(c).to_dict(),
        "by": parts,
        "precision_band": _band(c, weight),
    }


def reliability_of(comparison: Comparison) -> Reliability:
    """How well the confidence of counted detections agrees with the share of hits; blocks are resampled."""
    c = comparison
    keep = c.counted
    return reliability(c.confidence[keep], c.hit[keep], groups=c.block[keep])


def refuse_elsewhere(comparison: Comparison) -> None:
    """Make sure that labels and searched ground have something in common.

    Raises:
        LabelError: if no label lies in the ground, and says where both are.
    """
    c = comparison
    if not len(c.sites):
        raise LabelError("there is no label: give at least one labelled site")
    refuse_far(gpd.GeoSeries(c.labelled, crs=4326), gpd.GeoSeries(c.ground.footprint, crs=4326))
    if not c.site_counted.any():
        raise LabelError(
            f"every label there lies within {c.ground.edge_m:g} m of the searched ground's edge, where nothing is "
            "counted: give larger scenes, or scenes with labels away from their edges"
        )


def refuse_far(labels: gpd.GeoDataFrame | gpd.GeoSeries, ground: gpd.GeoSeries) -> None:
    """Make sure that a label lies in the ground.

    Raises:
        LabelError: if none does, and says where both are.
    """
    labelled, inside = labels.geometry.to_crs(4326), ground.to_crs(4326)
    if not len(inside) or not len(inside.sindex.query(labelled, predicate="intersects")[0]):
        raise LabelError(
            f"none of the {len(labelled)} labels lies where was searched: the labels cover {_box(labelled)}, "
            f"the searched ground {_box(inside) if len(inside) else 'nothing'}; "
            "check that both are of the same place, and the labels' CRS"
        )


def outcomes(comparison: Comparison) -> gpd.GeoDataFrame:
    """Every object once, with what became of it, in longitude/latitude.

    A hit or a false alarm is a detection that reaches the operating point, with its outline; a miss is
    a labelled site that no such detection claimed. `ignored` lies in the margin, or outside. Columns:

    * `outcome`
    * `confidence`: of the detection; for a miss, of the weaker detection that claimed it, or nothing
    * `distance_m`, `iou`: between a detection and the site it claimed
    * `area_m2`: of the outline
    * `site`: position of the site among merged labels, from 0; nothing for a false alarm
    * `detection_id`, `scene_id`: of the detection, where it has them
    * and the label's own columns
    """
    c = comparison
    site_of = c.matching.site_of
    shown = np.flatnonzero(c.shown)
    missed = np.flatnonzero(~c.site_found)
    gap, overlap = np.full((2, len(c.detections)), np.nan)
    gap[c.matching.detection], overlap[c.matching.detection] = c.matching.distance_m, c.matching.iou
    outcome = np.where(c.hit[shown], HIT, FALSE_ALARM).astype(object)
    outcome[~c.counted[shown]] = IGNORED
    missed_outcome = np.where(c.site_counted[missed], MISS, IGNORED).astype(object)
    weaker = c.site_confidence[missed]
    weaker[np.isneginf(weaker)] = np.nan
    geometry = np.concatenate([c.found[shown], c.labelled[missed]])
    site = np.concatenate([site_of[shown], missed])
    nothing = np.full(len(missed), np.nan)
    table = pd.DataFrame(
        {
            "outcome": np.concatenate([outcome, missed_outcome]),
            "confidence": np.concatenate([c.confidence[shown], weaker]),
            "distance_m": np.concatenate([gap[shown], nothing]).round(1),
            "iou": np.concatenate([overlap[shown], nothing]).round(3),
            "area_m2": sites_area(geometry).round(0),
            "site": pd.array([None if k < 0 else int(k) for k in site], dtype="Int64"),
        }
    )
    for column in ("detection_id", "scene_id"):
        if column in c.detections:
            values = c.detections[column].to_numpy(object)[shown]
            table[column] = np.concatenate([values, np.full(len(missed), None, object)])
    labels = c.sites.drop(columns=[c.sites.active_geometry_name]).reset_index(drop=True)
    for column in labels:
        name = column if column not in table else f"label_{column}"
        table[name] = [labels[column].iloc[k] if k >= 0 else None for k in site]
    return gpd.GeoDataFrame(table, geometry=geometry, crs=4326)


def _band(c: Comparison, weight: Weights) -> dict[str, list[float]] | None:
    """Interval of the highest precision at each recall or beyond; None with fewer than two blocks."""
    tally = c.tally()
    if len(weight) == 0 or not len(tally.hit) or not len(tally.site_block):
        return None
    low, high = bootstrap.precision_band(tally.confidence, tally.hit, tally.block, weight, tally.sites, _BAND_RECALL)
    return {"recall": _BAND_RECALL.round(2).tolist(), "precision_low": low.tolist(), "precision_high": high.tolist()}


def _box(layer: gpd.GeoSeries) -> str:
    west, south, east, north = layer.total_bounds
    return f"{west:.2f}..{east:.2f} E, {south:.2f}..{north:.2f} N"
