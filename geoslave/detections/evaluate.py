"""How well detections agree with labelled sites, counted by object.

The rules, in the order in which they are applied:

1. Scenes that overlap or touch are merged into one footprint. A place detected in several scenes
   counts once, with its highest confidence; a site labelled twice within 35 m counts once.
2. What lies within 50 m of the merged footprint's edge, or outside, is ignored: a site cut by the
   edge is often not labelled, so that neither a hit nor a false alarm there says anything.
   Sites and detections count as "there" by their outlines. A detection that claims an ignored
   site is ignored too; one that claims a counted site counts, wherever it lies.
3. Detections claim sites one to one, in order of confidence (`geoslave.detections.match`).
4. precision, recall, f1 and false alarms are taken at the operating point `min_confidence`; average
   precision and the curve over all detections given. So give the low-score detections too.

A rate whose denominator is zero is None, not 0: precision without detections, recall and average
precision without sites, f1 without either, false alarms without area.

Average precision is the area under the precision envelope with all-point interpolation (Pascal VOC
2010 and later): the sum over steps of recall of the highest precision at that recall or beyond.
Detections of equal confidence are one step, so that their order cannot matter.

Intervals are 95 % percentile bootstrap intervals over spatial blocks (neighbouring sites look alike
and share their scene, so that sites are no independent sample). A block is a merged footprint
where there are ten or more of them, else a cell that cuts the footprints into about 25. With fewer
than two blocks there is no interval. Where nothing varies between blocks (every site found, no
false alarm), the bootstrap would claim certainty: Wilson's interval (1927) on the counts is given
for shares, the exact Poisson interval (Garwood 1936) for false alarms.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Geod, Proj
from scipy.stats import chi2

from geoslave.detections.match import (
    DUPLICATE_M,
    MAX_DISTANCE_M,
    MIN_IOU,
    Floats,
    Geometries,
    Index,
    assign,
    close_boxes,
    find_hits,
    lonlat,
    merge_duplicates,
    near_points,
    to_metres,
)

EDGE_M = 50.0
"""Sites and detections this close to a scene's edge are ignored."""
LEVEL = 0.95
_BLOCKS = 25  # as many as a single scene is cut into: enough for a percentile, few enough to stay apart
_BLOCK_KM = (1.0, 10.0)  # kilns lie 1 km apart in the median: smaller blocks would not be independent
_CURVE_POINTS = 201
_SEAM_DEG = 1e-5  # about 1 m: tiles that abut up to rounding have no edge between them
_CELLS_AT_ONCE = 4_000_000  # replicates x detections held at a time

Interval = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What one would get with this threshold."""

    confidence: float
    precision: float
    recall: float
    n_detections: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Agreement of detections with sites (rules and definitions: see the module)."""

    precision: float | None
    precision_low: float | None
    precision_high: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    f1: float | None
    f1_low: float | None
    f1_high: float | None
    average_precision: float | None
    average_precision_low: float | None
    average_precision_high: float | None
    false_alarms_per_100km2: float | None
    false_alarms_per_100km2_low: float | None
    false_alarms_per_100km2_high: float | None
    n_sites: int
    """Counted sites: merged, away from the edges."""
    n_detections: int
    """Counted detections at the operating point."""
    n_hits: int
    n_false_alarms: int
    n_missed: int
    n_sites_ignored: int
    n_detections_ignored: int
    n_duplicate_labels: int
    area_km2: float
    """Merged footprints, geodesic."""
    counted_area_km2: float
    """The same without the margin along the edges; false alarms are per 100 km2 of this."""
    min_confidence: float
    level: float
    n_blocks: int
    """Spatial blocks that were resampled; intervals from fewer than about ten are too narrow."""
    curve: tuple[CurvePoint, ...]
    """By falling threshold, thinned to about 200 points."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, every figure at the top level."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Ground:
    """Where is evaluated: the merged footprints and the blocks they are cut into."""

    footprint: Geometries
    """Separate parts in longitude/latitude."""
    edges: Geometries
    """Their boundaries, as short lines."""
    blocks: Geometries
    """The parts, or cells of them, without the margin."""
    block_km2: Floats
    area_km2: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was counted. `hit` and `confidence` are per counted detection."""

    confidence: Floats
    hit: NDArray[np.bool_]
    detection_block: Index
    """A hit lies in its site's block, so that no replicate finds more sites than it has."""
    site_block: Index
    site_hit: Floats
    """Confidence of the detection that claimed the site, -inf where none did."""


def evaluate(
    detections: gpd.GeoDataFrame,
    sites: gpd.GeoDataFrame,
    footprints: gpd.GeoDataFrame | gpd.GeoSeries,
    min_confidence: float = 0.5,
    *,
    max_distance_m: float = MAX_DISTANCE_M,
    min_iou: float = MIN_IOU,
    edge_m: float = EDGE_M,
    duplicate_m: float = DUPLICATE_M,
    n_replicates: int = 2_000,
    seed: int = 0,
) -> Evaluation:
    """Compare detections with labelled sites.

    Args:
        detections: of all scenes, one below the other, with `confidence` and, where scenes overlap,
            `scene_id`; low-score ones too. Any CRS.
        sites: labels, any CRS.
        footprints: one polygon a scene, any CRS. What was not looked at must not be in it.
        min_confidence: the operating point; detections at or above it are what a user sees.
        n_replicates, seed: of the bootstrap.

    Raises:
        GeoslaveError: if a layer has no CRS.
        ValueError: if detections carry no `confidence`.
    """
    if "confidence" not in detections:
        raise ValueError("detections have no column 'confidence': average precision needs one")
    ground = _ground(_scenes(footprints), edge_m)
    detections = merge_scenes(detections, duplicate_m, min_iou)
    once = merge_duplicates(sites, duplicate_m)
    found, labelled = lonlat(detections, "detections"), lonlat(once, "sites")
    confidence = detections["confidence"].to_numpy(float)

    site_counts = _counts(labelled, ground, edge_m)
    site_of = assign(find_hits(found, labelled, max_distance_m, min_iou), confidence, len(once)).site_of
    claims = site_of >= 0
    counts = _counts(found, ground, edge_m)
    counts[claims] = site_counts[site_of[claims]]
    outcome = _outcome(found, labelled, confidence, site_of, counts, site_counts, ground)
    shown = outcome.confidence >= min_confidence
    rates, curve = _rates(outcome, ground, min_confidence, n_replicates, seed)
    hits = int((shown & outcome.hit).sum())
    return Evaluation(
        **rates,
        n_sites=len(outcome.site_block),
        n_detections=int(shown.sum()),
        n_hits=hits,
        n_false_alarms=int(shown.sum()) - hits,
        n_missed=len(outcome.site_block) - hits,
        n_sites_ignored=int((~site_counts).sum()),
        n_detections_ignored=int((~counts & (confidence >= min_confidence)).sum()),
        n_duplicate_labels=len(sites) - len(once),
        area_km2=ground.area_km2,
        counted_area_km2=float(ground.block_km2.sum()),
        min_confidence=float(min_confidence),
        level=LEVEL,
        n_blocks=len(ground.blocks),
        curve=curve,
    )


def best_threshold(evaluation: Evaluation) -> float | None:
    """The confidence with the highest f1 on the curve; None where there is no curve."""
    points = [p for p in evaluation.curve if p.precision + p.recall > 0]
    if not points:
        return None
    return max(points, key=lambda p: (2 * p.precision * p.recall / (p.precision + p.recall), p.confidence)).confidence


def merge_scenes(
    detections: gpd.GeoDataFrame, within_m: float = DUPLICATE_M, min_iou: float = MIN_IOU
) -> gpd.GeoDataFrame:
    """Detections of one place in overlapping scenes, once: the most confident is kept.

    Two detections are of one place when they come from different scenes (`scene_id`) and overlap by
    `min_iou` or have their centres within `within_m`. Detections of one scene never touch and stay
    apart: kilns can be neighbours. Without the column `scene_id` only overlap counts.
    """
    outlines = lonlat(detections, "detections")
    overlapping = find_hits(outlines, outlines, -1.0, min_iou)
    a, b = overlapping.detection, overlapping.site
    scene = np.arange(len(detections)).astype(str)
    if "scene_id" in detections:
        i, j = near_points(shapely.centroid(outlines), within_m)
        a, b = np.r_[a, i], np.r_[b, j]
        scene = detections["scene_id"].astype(str).to_numpy()
    neighbours: dict[int, list[int]] = {}
    for k in np.flatnonzero(scene[a] != scene[b]).tolist():
        neighbours.setdefault(int(a[k]), []).append(int(b[k]))
    keep = np.ones(len(detections), bool)
    for i in np.argsort(-detections["confidence"].to_numpy(float), kind="stable").tolist():
        if keep[i]:
            keep[neighbours.get(i, [])] = False
            keep[i] = True
    return detections[keep]


def average_precision(confidence: Floats, hit: NDArray[np.bool_], n_sites: int) -> float | None:
    """Area under the precision envelope, all-point interpolation; None without sites."""
    order = np.argsort(-confidence, kind="stable")
    ap = _weighted_ap(confidence[order], hit[order], np.ones((1, len(order))), np.array([float(n_sites)]))[0]
    return None if np.isnan(ap) else float(ap)


def _scenes(footprints: gpd.GeoDataFrame | gpd.GeoSeries) -> Geometries:
    """Footprints in longitude/latitude, their long straight edges kept where they are in their own CRS.

    Between its ends a straight 100 km edge of a UTM scene leaves the straight line in
    longitude/latitude by 200 m.
    """
    outlines = footprints.geometry
    if outlines.crs is not None and outlines.crs.is_projected:
        outlines = outlines.segmentize(1_000 / outlines.crs.axis_info[0].unit_conversion_factor)
    return lonlat(outlines, "footprints")


def _ground(scenes: Geometries, edge_m: float) -> _Ground:
    """Merge footprints and cut what lies inside the margin into blocks."""
    merged = shapely.union_all(shapely.buffer(scenes, _SEAM_DEG, join_style="mitre"))
    merged = shapely.buffer(merged, -_SEAM_DEG, join_style="mitre")
    parts = shapely.get_parts(np.array([merged], dtype=object))
    parts = parts[~shapely.is_empty(parts)]
    geod = Geod(ellps="WGS84")
    area = sum(abs(geod.geometry_area_perimeter(shapely.segmentize(p, 0.01))[0]) for p in parts) / 1e6
    cuts = [_blocks(part, edge_m, _block_side(area) if len(parts) < 10 else _BLOCK_KM[1] * 1e3) for part in parts]
    blocks = np.array([b for cut, _ in cuts for b in cut], dtype=object)
    km2 = np.array([a for _, areas in cuts for a in areas])
    return _Ground(parts, _short_lines(parts), blocks, km2, area)


def _block_side(area_km2: float) -> float:
    """Side in metres of blocks that cut the area into about `_BLOCKS`."""
    return 1e3 * min(max(sqrt(area_km2 / _BLOCKS), _BLOCK_KM[0]), _BLOCK_KM[1])


def _blocks(part: shapely.Geometry, edge_m: float, side_m: float) -> tuple[list[shapely.Geometry], list[float]]:
    """Cells of one footprint without its margin, in longitude/latitude, with their areas in km2.

    Areas are taken in Lambert's azimuthal equal-area projection about the part's centre, in which
    a length of 50 m is right to a fraction of a percent within 500 km.
    """
    lon, lat = shapely.get_coordinates(shapely.centroid(part))[0]
    # Proj rather than a Transformer, which takes long to set up: there may be thousands of parts
    plane = Proj(proj="laea", lat_0=lat, lon_0=lon, ellps="WGS84")
    smooth = shapely.segmentize(part, 0.01)
    local = shapely.transform(smooth, lambda xy: np.column_stack(plane(xy[:, 0], xy[:, 1])))
    inner = shapely.buffer(local, -edge_m, join_style="mitre")
    if inner.is_empty:
        return [], []
    west, south, east, north = inner.bounds
    columns, rows = (max(1, round((high - low) / side_m)) for low, high in ((west, east), (south, north)))
    x, y = np.linspace(west, east, columns + 1), np.linspace(south, north, rows + 1)
    cells = [
        shapely.intersection(inner, shapely.box(x[c], y[r], x[c + 1], y[r + 1]))
        for r in range(rows)
        for c in range(columns)
    ]
    cells = [c for c in cells if c.area > 0]
    outlines = [
        shapely.transform(c, lambda xy: np.column_stack(plane(xy[:, 0], xy[:, 1], inverse=True))) for c in cells
    ]
    return outlines, [c.area / 1e6 for c in cells]


def _short_lines(parts: Geometries) -> Geometries:
    """The boundaries of polygons as lines of at most about 1 km, so that a tree can tell near from far."""
    rings = shapely.get_parts(shapely.boundary(parts))
    coordinates, ring = shapely.get_coordinates(shapely.segmentize(rings, 0.01), return_index=True)
    same = ring[1:] == ring[:-1]
    ends = np.stack([coordinates[:-1][same], coordinates[1:][same]], axis=1)
    return np.asarray(shapely.linestrings(ends)) if len(ends) else np.zeros(0, object)


def _counts(outlines: Geometries, ground: _Ground, edge_m: float) -> NDArray[np.bool_]:
    """True for outlines inside the footprints, farther than the margin from their edges."""
    counts = np.zeros(len(outlines), bool)
    if not len(ground.footprint):
        return counts
    inside, _ = shapely.STRtree(ground.footprint).query(outlines, predicate="intersects")
    counts[inside] = True
    i, j = close_boxes(outlines, ground.edges, edge_m)
    origin = shapely.get_coordinates(shapely.point_on_surface(outlines[i]))
    distance = shapely.distance(to_metres(outlines[i], origin), to_metres(ground.edges[j], origin))
    counts[i[distance <= edge_m]] = False
    return counts


def _outcome(
    found: Geometries,
    labelled: Geometries,
    confidence: Floats,
    site_of: Index,
    counts: NDArray[np.bool_],
    site_counts: NDArray[np.bool_],
    ground: _Ground,
) -> _Outcome:
    """Keep what counts and say in which block it lies."""
    site_block = _nearest_block(labelled, ground)
    block = _nearest_block(found, ground)
    claims = site_of >= 0
    block[claims] = site_block[site_of[claims]]
    site_hit = np.full(len(labelled), -np.inf)
    site_hit[site_of[claims]] = confidence[claims]
    return _Outcome(confidence[counts], claims[counts], block[counts], site_block[site_counts], site_hit[site_counts])


def _nearest_block(outlines: Geometries, ground: _Ground) -> Index:
    """The block of each outline's point: the one that holds it, else the nearest; 0 without blocks."""
    block = np.zeros(len(outlines), np.intp)
    if len(ground.blocks) and len(outlines):
        rows, nearest = shapely.STRtree(ground.blocks).query_nearest(
            shapely.point_on_surface(outlines), all_matches=False
        )
        block[rows] = nearest
    return block


def _rates(
    outcome: _Outcome, ground: _Ground, min_confidence: float, n_replicates: int, seed: int
) -> tuple[dict[str, float | None], tuple[CurvePoint, ...]]:
    """Every rate with its interval, and the curve."""
    shown = outcome.confidence >= min_confidence
    n_blocks = max(len(ground.blocks), 1)

    def per_block(block: Index) -> Floats:
        return np.bincount(block, minlength=n_blocks).astype(float)

    area = ground.block_km2 if len(ground.blocks) else np.zeros(1)
    table = np.stack(
        [
            per_block(outcome.detection_block[shown & outcome.hit]),
            per_block(outcome.detection_block[shown]),
            per_block(outcome.site_block),
            area,
        ]
    )
    order = np.argsort(-outcome.confidence, kind="stable")
    confidence, hit = outcome.confidence[order], outcome.hit[order]
    block = outcome.detection_block[order]

    point = _ratios(table.sum(axis=1)[:, None])
    point["average_precision"] = _weighted_ap(confidence, hit, np.ones((1, len(hit))), table[2].sum()[None])
    rates: dict[str, float | None] = {name: _number(value[0]) for name, value in point.items()}

    replicates: dict[str, Floats] = {name: np.zeros(0) for name in point}
    if len(ground.blocks) >= 2:
        # how often each block is drawn; a rate of a replicate is a ratio of weighted counts
        weight = np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), n_replicates)
        replicates = _ratios(table @ weight.T)
        replicates["average_precision"] = _replicated_ap(confidence, hit, block, weight, table[2])
    for name in point:
        low, high = _interval(name, rates, replicates[name], table.sum(axis=1))
        rates[f"{name}_low"], rates[f"{name}_high"] = low, high
    return rates, _curve(confidence, hit, len(outcome.site_block))


def _ratios(sums: Floats) -> dict[str, Floats]:
    """The rates from [hits, detections, sites, area km2] x replicates; NaN where undefined."""
    hits, found, sites, area = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": np.where(found > 0, hits / found, np.nan),
            "recall": np.where(sites > 0, hits / sites, np.nan),
            "f1": np.where(found + sites > 0, 2 * hits / (found + sites), np.nan),
            "false_alarms_per_100km2": np.where(area > 0, 100 * (found - hits) / area, np.nan),
        }


def _weighted_ap(
    confidence: Floats, hit: NDArray[np.bool_], weight: NDArray[np.floating[Any]], n_sites: Floats
) -> Floats:
    """Average precision for each row of weights.

    Args:
        confidence: [n] falling.
        hit: [n].
        weight: [replicate, n] how often each detection counts.
        n_sites: [replicate].
    """
    if not len(confidence):
        return np.where(n_sites > 0, 0.0, np.nan)
    last_of_tie = np.flatnonzero(np.r_[confidence[1:] != confidence[:-1], True])
    # replicates come in single precision, in which whole numbers below 2^24 are exact
    found = np.cumsum(weight, axis=1)[:, last_of_tie]
    hits = np.cumsum(weight * hit, axis=1)[:, last_of_tie]
    precision = hits / np.maximum(found, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    steps = np.diff(hits, axis=1, prepend=weight.dtype.type(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n_sites > 0, np.einsum("rk,rk->r", envelope, steps, dtype=np.float64) / n_sites, np.nan)


def _replicated_ap(
    confidence: Floats, hit: NDArray[np.bool_], block: Index, weight: NDArray[np.int64], sites: Floats
) -> Floats:
    """Average precision of each replicate, a few replicates at a time."""
    step = max(1, _CELLS_AT_ONCE // max(len(hit), 1))
    parts = [
        _weighted_ap(confidence, hit, part[:, block].astype(np.float32), part @ sites)
        for part in (weight[i : i + step] for i in range(0, len(weight), step))
    ]
    return np.concatenate(parts)


def _interval(name: str, rates: dict[str, float | None], replicates: Floats, totals: Floats) -> Interval:
    """95 % interval of a rate; (None, None) where the rate or the interval is undefined."""
    value = rates[name]
    usable = replicates[~np.isnan(replicates)]
    if value is None or not len(usable):
        return None, None
    if usable.min() < usable.max():
        low, high = np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)
    hits, found, sites, area = totals
    match name:
        case "precision":
            return _wilson(hits, found)
        case "false_alarms_per_100km2":
            return _poisson(found - hits, area)
        case "f1":
            return _wilson(2 * hits, found + sites)
        case _:
            return _wilson(round(value * sites), sites)


def _wilson(successes: float, n: float) -> Interval:
    """Score interval of a share (Wilson 1927); holds where the normal interval has no width."""
    z = 1.959963984540054
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def _poisson(count: float, area_km2: float) -> Interval:
    """Exact interval of a rate per 100 km2 from a count (Garwood 1936)."""
    low = chi2.ppf((1 - LEVEL) / 2, 2 * count) / 2 if count else 0.0
    high = chi2.ppf((1 + LEVEL) / 2, 2 * count + 2) / 2
    return float(100 * low / area_km2), float(100 * high / area_km2)


def _curve(confidence: Floats, hit: NDArray[np.bool_], n_sites: int) -> tuple[CurvePoint, ...]:
    """Precision and recall at each distinct confidence, falling, thinned; empty without sites."""
    if not len(confidence) or not n_sites:
        return ()
    last_of_tie = np.flatnonzero(np.r_[confidence[1:] != confidence[:-1], True])
    if len(last_of_tie) > _CURVE_POINTS:
        last_of_tie = last_of_tie[np.linspace(0, len(last_of_tie) - 1, _CURVE_POINTS).round().astype(int)]
    hits = np.cumsum(hit)
    return tuple(
        CurvePoint(float(confidence[k]), float(hits[k] / (k + 1)), float(hits[k] / n_sites), int(k + 1))
        for k in last_of_tie
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
