"""Agreement of detections with sites, taken apart: by place, class and size, by criterion, by count and by tile.

Every figure is None where it is not defined, and carries `_low` and `_high` (95 %, bootstrap over
spatial blocks, `geoslave.detections.bootstrap`); parts of the whole rest on few sites, so look at
their intervals before comparing them.

Places
    A false alarm and a piece of ground have no label, hence no region of their own: they belong to
    the region of the nearest labelled site. That only makes sense for a column that follows the map.
    Whether it does is measured by Cohen's kappa (1960) between each site's value and that of its
    nearest other site: 1 for districts, 0 for what is scattered. Below 0.8 only recall is given.
Tiles
    Counted ground is cut into tiles of about 500 m. A tile is positive if it holds a labelled site's
    representative point; its score is the highest confidence of the detections in it, 0 without any.
    A hit stands in its site's tile, so that an outline a few metres off is no error twice. AUC is the
    area under the receiver operating characteristic, ties counted half (Hanley and McNeil 1982).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoslave.detections import bootstrap
from geoslave.detections.bootstrap import Figure, Weights
from geoslave.detections.evaluate import Comparison, Tally, rates, rematch, tally_ap
from geoslave.detections.ground import TILE_M, nearest_cell, tiles
from geoslave.detections.match import Floats, Geometries, Index, sites_area
from geoslave.errors import LabelError

DISTANCES_M = (25.0, 50.0, 100.0)
IOUS = (0.1, 0.3, 0.5)
MOST_GROUPS = 50
"""A column of more values names single sites, not groups."""
_FOLLOWS_MAP = 0.8
_FEWEST_IN_SIZE = 4  # sites in a size class
_SLIVER = 0.25  # a tile smaller than this share of the usual one is left out: hardly anything fits in

Bools = NDArray[np.bool_]
Facts = dict[str, Any]


def by_criterion(comparison: Comparison, weight: Weights) -> Facts:
    """Average precision where a hit is a centre this close, and where it is this much overlap.

    Each detection is matched anew by one criterion alone: the distance in metres from its
    representative point to the site's outline, or the IoU.
    """
    return {
        "distance_m": {f"{d:g}": _ap(rematch(comparison, d, np.inf), weight) for d in DISTANCES_M},
        "iou": {f"{iou:g}": _ap(rematch(comparison, -1.0, iou), weight) for iou in IOUS},
    }


def count_error(comparison: Comparison, weight: Weights) -> Facts:
    """How far the number of detections at the operating point is from the number of sites.

    `relative_error` is (detections - sites) / sites: what counting detections would be wrong by. Its
    interval says how much of that is chance. `mean_absolute_error_per_block` does not let misses here
    and false alarms there cancel.
    """
    tally = comparison.tally()
    sites, (_, found) = tally.sites, tally.found(comparison.min_confidence)
    ratio = bootstrap.ratio(found, sites, weight)
    minus_one = Figure(*(None if v is None else v - 1 for v in (ratio.value, ratio.low, ratio.high)))
    n_blocks = len(comparison.ground.blocks)
    return {
        "n_sites": int(sites.sum()),
        "n_detections": int(found.sum()),
        "error": int(found.sum() - sites.sum()),
        **minus_one.named("relative_error"),
        "mean_absolute_error_per_block": float(np.abs(found - sites).sum() / n_blocks) if n_blocks else None,
        "n_blocks": n_blocks,
    }


def by_place(comparison: Comparison, column: str, n_replicates: int, seed: int) -> dict[str, Facts]:
    """Agreement in each region that a column of the labels names (see the module).

    Raises:
        LabelError: if the labels have no such column, or it has hardly two sites alike.
    """
    c = comparison
    value = column_of(c.sites, column)
    if not len(value):
        return {}
    if not follows_map(c.labelled, value):
        return {name: _recall(c, value == name, n_replicates, seed) for name in _names(value)}
    # ground goes to the nearest site piece by piece, so that a block may lie in two regions
    pieces, _ = tiles(c.ground)
    of_ground, of_found = value[_nearest_site(pieces, c)], value[_nearest_site(c.found, c)]
    return _parts(c, _names(value), of_ground, of_found, value, n_replicates, seed)


def by_group(comparison: Comparison, groups: gpd.GeoDataFrame, n_replicates: int, seed: int) -> dict[str, Facts]:
    """Agreement in each group of scenes.

    Args:
        groups: one row a scene, with its footprint and the column `group`; where scenes of two groups
            overlap, the place belongs to the first.
    """
    c = comparison
    of_ground, of_found, of_sites = group_of(c, groups)
    names = list(dict.fromkeys(str(name) for name in groups["group"]))
    return _parts(c, names, of_ground, of_found, of_sites, n_replicates, seed)


def group_of(
    comparison: Comparison, groups: gpd.GeoDataFrame
) -> tuple[NDArray[np.object_], NDArray[np.object_], NDArray[np.object_]]:
    """The group of scenes that each tile of ground, each detection and each site belongs to (see `by_group`)."""
    c = comparison
    names = np.array([str(name) for name in groups["group"]], dtype=object)
    outlines = np.asarray(groups.geometry.to_crs(4326).array, dtype=object)
    pieces, _ = tiles(c.ground)
    of_ground, of_found, of_sites = (
        names[_first_holding(shapes, outlines)] for shapes in (pieces, c.found, c.labelled)
    )
    of_found[c.matching.detection] = of_sites[c.matching.site]
    return of_ground, of_found, of_sites


def by_class(comparison: Comparison, n_replicates: int, seed: int) -> dict[str, Facts]:
    """Recall for each class of the labels; where detections name the same classes, all rates.

    A model of one class finds what the labels call by several names (kinds of kiln): a detection
    then has no class to be wrong about, and a false alarm belongs to none of them.
    """
    c = comparison
    if "class_name" not in c.sites or not 0 < c.sites["class_name"].nunique() <= MOST_GROUPS:
        return {}
    value = column_of(c.sites, "class_name")
    found = c.detections["class_name"].to_numpy(object) if "class_name" in c.detections else None
    facts = {}
    for name in _names(value):
        same = value == name
        if found is None or (found != name).all() or len(_names(value)) == 1:
            facts[name] = _recall(c, same, n_replicates, seed)
            continue
        right = np.ones(len(c.detections), bool)
        right[c.matching.detection] = value[c.matching.site] == found[c.matching.detection]
        facts[name] = _classed(c, found == name, same, right, n_replicates, seed)
    return facts


def by_size(comparison: Comparison, n_replicates: int, seed: int) -> dict[str, Facts]:
    """Recall among sites of a size and precision among detections of it.

    Sizes are areas of outlines in m2, cut so that each of up to three classes holds about as many
    counted sites. A site and its detection may fall into different classes: outlines differ.
    """
    c = comparison
    sites, found = sites_area(c.labelled), sites_area(c.found)
    facts = {}
    for low, high in _size_classes(sites[c.site_counted]):
        of_site = (sites >= low) & (sites < high)
        of_found = (found >= low) & (found < high)
        facts[_size_name(low, high)] = {
            "low_m2": low,
            "high_m2": None if np.isinf(high) else high,
            **_recall(c, of_site, n_replicates, seed),
            **_precision(c, of_found, n_replicates, seed),
        }
    return facts


def by_tile(comparison: Comparison, weight: Weights, side_m: float = TILE_M) -> Facts:
    """Sensitivity, specificity and AUC of "is there a site in this tile" (see the module)."""
    c = comparison
    outlines, km2 = tiles(c.ground, side_m)
    whole = km2 >= _SLIVER * (np.median(km2) if len(km2) else 0)
    outlines, km2 = outlines[whole], km2[whole]
    block = nearest_cell(outlines, c.ground.blocks)
    n_blocks, n_tiles = len(c.ground.blocks), len(outlines)
    tile_of_site, tile_of = nearest_cell(c.labelled, outlines), nearest_cell(c.found, outlines)
    tile_of[c.matching.detection] = tile_of_site[c.matching.site]
    positive = np.zeros(n_tiles, bool)
    score = np.zeros(n_tiles)
    if n_tiles:
        positive[tile_of_site[c.site_counted]] = True
        np.maximum.at(score, tile_of[c.counted], c.confidence[c.counted])
    called = (score >= c.min_confidence) & (score > 0)

    def count(which: Bools) -> Floats:
        return bootstrap.per_block(block[which], n_blocks)

    return {
        "side_m": side_m,
        "n_tiles": n_tiles,
        "n_with_site": int(positive.sum()),
        **bootstrap.share(count(called & positive), count(positive), weight).named("sensitivity"),
        **bootstrap.share(count(~called & ~positive), count(~positive), weight).named("specificity"),
        **_auc(score, positive, block, n_blocks, weight).named("auc"),
    }


def column_of(sites: gpd.GeoDataFrame, column: str) -> NDArray[np.object_]:
    """A column of the labels as text; "(none)" where it is empty.

    Raises:
        LabelError: that names the columns there are.
    """
    there = [str(name) for name in sites.columns if name != sites.active_geometry_name]
    if column not in there:
        raise LabelError(f"the labels have no column '{column}': choose one of {', '.join(there)} for --by")
    values = sites[column].astype(object).where(sites[column].notna(), "(none)")
    text = np.array([str(value) for value in values], dtype=object)
    if len(set(text)) > MOST_GROUPS:
        raise LabelError(
            f"the labels' column '{column}' has {len(set(text))} values: "
            f"give --by a column of at most {MOST_GROUPS}, such as a region"
        )
    return text


def follows_map(outlines: Geometries, value: NDArray[np.object_]) -> bool:
    """True if near sites share their value: kappa between each site and its nearest other is 0.8 or more."""
    names, number = np.unique(value.astype(str), return_inverse=True)
    if len(names) < 2:
        return True
    points = np.asarray(shapely.point_on_surface(outlines))
    near, other = shapely.STRtree(points).query_nearest(points, exclusive=True, all_matches=False)
    observed = float((number[near] == number[other]).mean())
    first, second = (np.bincount(number[k], minlength=len(names)) / len(near) for k in (near, other))
    chance = float(first @ second)
    return chance < 1 and (observed - chance) / (1 - chance) >= _FOLLOWS_MAP


def _ap(comparison: Comparison, weight: Weights) -> dict[str, float | None]:
    return tally_ap(comparison.tally(), weight).named("average_precision")


def _names(value: NDArray[np.object_]) -> list[str]:
    """Values by falling number of sites, then by name."""
    counted = pd.Series(value).value_counts()
    return sorted(counted.index, key=lambda name: (-counted[name], name))


def _nearest_site(outlines: Geometries, comparison: Comparison) -> Index:
    """The site nearest to each outline, by position."""
    return nearest_cell(outlines, comparison.labelled)


def _first_holding(outlines: Geometries, scenes: Geometries) -> Index:
    """The first scene that holds each outline's point; the nearest where none does."""
    points = np.asarray(shapely.point_on_surface(outlines), object)
    first = nearest_cell(points, scenes)
    point, scene = shapely.STRtree(scenes).query(points, predicate="within")
    order = np.argsort(-scene, kind="stable")  # the last written wins: the smallest number
    first[point[order]] = scene[order]
    return first


def _parts(
    c: Comparison,
    names: list[str],
    of_ground: NDArray[np.object_],
    of_found: NDArray[np.object_],
    of_sites: NDArray[np.object_],
    n_replicates: int,
    seed: int,
) -> dict[str, Facts]:
    """Every rate of each part, from the part's name of each piece of ground, detection and site; a detection that
    found a site belongs to the site's part."""
    pieces, km2 = tiles(c.ground)
    block, n = nearest_cell(pieces, c.ground.blocks), len(c.ground.blocks)
    of_found[c.matching.detection] = of_sites[c.matching.site]
    parts = {}
    for name in names:
        own = of_ground == name
        ground = bootstrap.per_block(block[own], n, km2[own])
        parts[name] = _part(c, of_found == name, of_sites == name, ground, n_replicates, seed)
    return parts


def _part(c: Comparison, found: Bools, sites: Bools, km2: Floats, n_replicates: int, seed: int) -> Facts:
    """Every rate of a part of the ground; only its own blocks are resampled."""
    tally = c.tally(found, sites, km2)
    own = (km2 > 0) | (tally.sites > 0)
    own[tally.block] = True
    number = np.cumsum(own) - 1
    mine = Tally(tally.confidence, tally.hit, number[tally.block], number[tally.site_block], km2[own])
    weight = bootstrap.draw_blocks(int(own.sum()), n_replicates, seed)
    hits, shown = (int(n.sum()) for n in mine.found(c.min_confidence))
    return {
        **rates(mine, c.min_confidence, weight),
        "n_sites": len(mine.site_block),
        "n_detections": shown,
        "n_hits": hits,
        "n_false_alarms": shown - hits,
        "n_missed": len(mine.site_block) - hits,
        "counted_area_km2": float(km2.sum()),
        "n_blocks": mine.n_blocks,
    }


def _recall(c: Comparison, sites: Bools, n_replicates: int, seed: int) -> Facts:
    """Recall among some of the sites."""
    mine = sites & c.site_counted
    found = mine & c.site_found
    n = len(c.ground.blocks)
    weight = bootstrap.draw_blocks(n, n_replicates, seed)
    part, whole = (bootstrap.per_block(c.site_block[which], n) for which in (found, mine))
    figure = bootstrap.share(part, whole, weight)
    return {**figure.named("recall"), "n_sites": int(mine.sum()), "n_hits": int(found.sum())}


def _precision(c: Comparison, detections: Bools, n_replicates: int, seed: int) -> Facts:
    """Precision among some of the detections."""
    mine = detections & c.counted & c.shown
    n = len(c.ground.blocks)
    weight = bootstrap.draw_blocks(n, n_replicates, seed)
    part, whole = (bootstrap.per_block(c.block[which], n) for which in (mine & c.hit, mine))
    return {**bootstrap.share(part, whole, weight).named("precision"), "n_detections": int(mine.sum())}


def _classed(c: Comparison, found: Bools, sites: Bools, right: Bools, n_replicates: int, seed: int) -> Facts:
    """Rates of one class: a detection that claimed a site of another class is a false alarm."""
    tally = c.tally(found, sites)
    order = np.flatnonzero(c.counted & found)
    order = order[np.argsort(-c.confidence[order], kind="stable")]
    mine = Tally(tally.confidence, (c.hit & right)[order], tally.block, tally.site_block, tally.block_km2)
    weight = bootstrap.draw_blocks(mine.n_blocks, n_replicates, seed)
    hits, shown = (int(n.sum()) for n in mine.found(c.min_confidence))
    return {
        **rates(mine, c.min_confidence, weight),
        "n_sites": len(mine.site_block),
        "n_detections": shown,
        "n_hits": hits,
        "n_false_alarms": shown - hits,
        "n_missed": len(mine.site_block) - hits,
    }


def _size_classes(area: Floats) -> list[tuple[float, float]]:
    """Borders in m2, to two digits; fewer classes where sites are few or alike."""
    n = int(min(3, len(area) // _FEWEST_IN_SIZE))
    if n < 2:
        return [(0.0, np.inf)] if len(area) else []
    cuts = np.unique([float(f"{q:.2g}") for q in np.quantile(area, np.arange(1, n) / n)])
    cuts = cuts[(cuts > area.min()) & (cuts <= area.max())]
    edges = [0.0, *cuts.tolist(), np.inf]
    return list(pairwise(edges))


def _size_name(low: float, high: float) -> str:
    if np.isinf(high):
        return f"{low:g} m2 and more" if low else "all sizes"
    return f"{low:g} to {high:g} m2" if low else f"below {high:g} m2"


def _auc(score: Floats, positive: Bools, block: Index, n_blocks: int, weight: Weights) -> Figure:
    steps, step = np.unique(score, return_inverse=True)
    if not len(steps):
        return bootstrap.UNDEFINED
    with_site, without = np.zeros((2, max(n_blocks, 1), len(steps)))
    np.add.at(with_site, (block[positive], step[positive]), 1)
    np.add.at(without, (block[~positive], step[~positive]), 1)
    value = bootstrap.auc(with_site.sum(axis=0)[None], without.sum(axis=0)[None])[0]
    replicates = bootstrap.replicated_auc(with_site, without, weight)
    # the variance of an AUC is at most that of a share of the rarer kind (Birnbaum and Klose 1957)
    rarer = float(min(positive.sum(), (~positive).sum()))
    return bootstrap.statistic(None if np.isnan(value) else float(value), replicates, n_blocks, rarer)
