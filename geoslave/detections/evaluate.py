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

Intervals are 95 % bootstrap intervals over spatial blocks (`geoslave.detections.bootstrap`, with
their coverage). A block is a merged footprint where there are ten or more of them, else a cell that
cuts the footprints into about 25. With fewer than two blocks there is no interval.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geoslave.detections import bootstrap
from geoslave.detections.bootstrap import LEVEL, N_REPLICATES, Figure, Weights
from geoslave.detections.ground import EDGE_M, Ground, counts, nearest_cell, survey
from geoslave.detections.match import (
    DUPLICATE_M,
    MAX_DISTANCE_M,
    MIN_IOU,
    Floats,
    Geometries,
    Index,
    Matching,
    assign,
    find_hits,
    lonlat,
    merge_duplicates,
    near_points,
)

_CURVE_POINTS = 201

Bools = NDArray[np.bool_]


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
class Comparison:
    """Detections of merged scenes beside merged sites: which is which, what counts, and in which block it lies."""

    detections: gpd.GeoDataFrame
    """Of all confidences, each place once."""
    sites: gpd.GeoDataFrame
    """Each site once."""
    found: Geometries
    """The detections' outlines in longitude/latitude."""
    labelled: Geometries
    """The sites' outlines in longitude/latitude."""
    ground: Ground
    matching: Matching
    """Who claimed whom, of all detections and sites."""
    counted: Bools
    """Per detection: it is not ignored."""
    site_counted: Bools
    block: Index
    """Per detection, by position in `ground.blocks`. A hit lies in its site's block, so that no
    replicate of a bootstrap finds more sites than it has."""
    site_block: Index
    min_confidence: float
    n_duplicate_labels: int

    @property
    def confidence(self) -> Floats:
        """Per detection."""
        confidence: Floats = self.detections["confidence"].to_numpy(float)
        return confidence

    @property
    def hit(self) -> Bools:
        """Per detection: it claimed a site."""
        return self.matching.site_of >= 0

    @property
    def shown(self) -> Bools:
        """Per detection: it reaches the operating point."""
        return self.confidence >= self.min_confidence

    @property
    def site_confidence(self) -> Floats:
        """Per site the confidence of the detection that claimed it, -inf where none did."""
        best = np.full(len(self.sites), -np.inf)
        best[self.matching.site] = self.confidence[self.matching.detection]
        return best

    @property
    def site_found(self) -> Bools:
        """Per site: claimed at the operating point."""
        return self.site_confidence >= self.min_confidence

    def tally(self, detections: Bools | None = None, sites: Bools | None = None, km2: Floats | None = None) -> Tally:
        """What is counted, or the part of it that masks leave: per detection, per site; areas per block."""
        keep = self.counted if detections is None else self.counted & detections
        keep_sites = self.site_counted if sites is None else self.site_counted & sites
        order = np.flatnonzero(keep)[np.argsort(-self.confidence[keep], kind="stable")]
        return Tally(
            self.confidence[order],
            self.hit[order],
            self.block[order],
            self.site_block[keep_sites],
            self.ground.block_km2 if km2 is None else km2,
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """Counted detections, by falling confidence, and counted sites, with their blocks."""

    confidence: Floats
    hit: Bools
    block: Index
    site_block: Index
    block_km2: Floats

    @property
    def n_blocks(self) -> int:
        return len(self.block_km2)

    @property
    def sites(self) -> Floats:
        """Sites in each block."""
        return bootstrap.per_block(self.site_block, self.n_blocks)

    def found(self, min_confidence: float) -> tuple[Floats, Floats]:
        """(hits, detections) in each block at an operating point."""
        shown = self.confidence >= min_confidence
        return (
            bootstrap.per_block(self.block[shown & self.hit], self.n_blocks),
            bootstrap.per_block(self.block[shown], self.n_blocks),
        )


def compare(
    detections: gpd.GeoDataFrame,
    sites: gpd.GeoDataFrame,
    footprints: gpd.GeoDataFrame | gpd.GeoSeries,
    min_confidence: float = 0.5,
    *,
    max_distance_m: float = MAX_DISTANCE_M,
    min_iou: float = MIN_IOU,
    edge_m: float = EDGE_M,
    duplicate_m: float = DUPLICATE_M,
) -> Comparison:
    """Lay detections beside labelled sites (rules 1 to 3).

    Args:
        detections: of all scenes, one below the other, with `confidence` and, where scenes overlap,
            `scene_id`; low-score ones too. Any CRS.
        sites: labels, any CRS.
        footprints: one polygon a scene, any CRS. What was not looked at must not be in it.
        min_confidence: the operating point; detections at or above it are what a user sees.

    Raises:
        GeoslaveError: if a layer has no CRS.
        ValueError: if detections carry no `confidence`.
    """
    if "confidence" not in detections:
        raise ValueError("detections have no column 'confidence': average precision needs one")
    ground = survey(footprints, edge_m)
    detections = merge_scenes(detections, duplicate_m, min_iou)
    once = merge_duplicates(sites, duplicate_m)
    found, labelled = lonlat(detections, "detections"), lonlat(once, "sites")
    confidence = detections["confidence"].to_numpy(float)
    matching = assign(find_hits(found, labelled, max_distance_m, min_iou), confidence, len(once))
    return _laid(detections, once, found, labelled, ground, matching, min_confidence, len(sites) - len(once))


def rematch(comparison: Comparison, max_distance_m: float, min_iou: float) -> Comparison:
    """The same detections and sites, matched by another criterion (a negative distance: overlap alone)."""
    c = comparison
    hits = find_hits(c.found, c.labelled, max_distance_m, min_iou)
    matching = assign(hits, c.confidence, len(c.sites))
    return _laid(c.detections, c.sites, c.found, c.labelled, c.ground, matching, c.min_confidence, c.n_duplicate_labels)


def evaluate(
    detections: gpd.GeoDataFrame,
    sites: gpd.GeoDataFrame,
    footprints: gpd.GeoDataFrame | gpd.GeoSeries,
    min_confidence: float = 0.5,
    *,
    n_replicates: int = N_REPLICATES,
    seed: int = 0,
    **rules: float,
) -> Evaluation:
    """Compare detections with labelled sites.

    Args:
        detections, sites, footprints, min_confidence, rules: as of `compare`.
        n_replicates, seed: of the bootstrap.

    Raises:
        GeoslaveError: if a layer has no CRS.
        ValueError: if detections carry no `confidence`.
    """
    return measure(compare(detections, sites, footprints, min_confidence, **rules), n_replicates, seed)


def measure(comparison: Comparison, n_replicates: int = N_REPLICATES, seed: int = 0) -> Evaluation:
    """Every rate of a comparison with its interval, and the curve."""
    c = comparison
    tally = c.tally()
    weight = bootstrap.draw_blocks(len(c.ground.blocks), n_replicates, seed)
    hits, found = (int(n.sum()) for n in tally.found(c.min_confidence))
    return Evaluation(
        **rates(tally, c.min_confidence, weight),
        n_sites=len(tally.site_block),
        n_detections=found,
        n_hits=hits,
        n_false_alarms=found - hits,
        n_missed=len(tally.site_block) - hits,
        n_sites_ignored=int((~c.site_counted).sum()),
        n_detections_ignored=int((~c.counted & c.shown).sum()),
        n_duplicate_labels=c.n_duplicate_labels,
        area_km2=c.ground.area_km2,
        counted_area_km2=c.ground.counted_km2,
        min_confidence=float(c.min_confidence),
        level=LEVEL,
        n_blocks=len(c.ground.blocks),
        curve=_curve(tally),
    )


def rates(tally: Tally, min_confidence: float, weight: Weights) -> dict[str, float | None]:
    """precision, recall, f1, false alarms and average precision, each with `_low` and `_high`."""
    hits, found = tally.found(min_confidence)
    sites = tally.sites
    km2 = tally.block_km2 if tally.n_blocks else np.zeros(1)
    figures = {
        "precision": bootstrap.share(hits, found, weight),
        "recall": bootstrap.share(hits, sites, weight),
        "f1": bootstrap.share(2 * hits, found + sites, weight),
        "false_alarms_per_100km2": bootstrap.rate(found - hits, km2, weight),
        "average_precision": tally_ap(tally, weight),
    }
    return {key: value for name, figure in figures.items() for key, value in figure.named(name).items()}


def tally_ap(tally: Tally, weight: Weights) -> Figure:
    """Average precision with its interval."""
    sites = tally.sites
    one = np.ones((1, len(tally.hit)))
    value = _number(bootstrap.weighted_ap(tally.confidence, tally.hit, one, sites.sum()[None])[0])
    replicates = bootstrap.replicated_ap(tally.confidence, tally.hit, tally.block, weight, sites)
    return bootstrap.statistic(value, replicates, int((sites > 0).sum()), n=float(sites.sum()))


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


def average_precision(confidence: Floats, hit: Bools, n_sites: int) -> float | None:
    """Area under the precision envelope, all-point interpolation; None without sites."""
    order = np.argsort(-confidence, kind="stable")
    one = np.ones((1, len(order)))
    return _number(bootstrap.weighted_ap(confidence[order], hit[order], one, np.array([float(n_sites)]))[0])


def _laid(
    detections: gpd.GeoDataFrame,
    sites: gpd.GeoDataFrame,
    found: Geometries,
    labelled: Geometries,
    ground: Ground,
    matching: Matching,
    min_confidence: float,
    n_duplicate_labels: int,
) -> Comparison:
    """Say what counts and in which block it lies."""
    site_counted, counted = counts(labelled, ground), counts(found, ground)
    site_block, block = nearest_cell(labelled, ground.blocks), nearest_cell(found, ground.blocks)
    counted[matching.detection] = site_counted[matching.site]
    block[matching.detection] = site_block[matching.site]
    return Comparison(
        detections,
        sites,
        found,
        labelled,
        ground,
        matching,
        counted,
        site_counted,
        block,
        site_block,
        min_confidence,
        n_duplicate_labels,
    )


def _curve(tally: Tally) -> tuple[CurvePoint, ...]:
    """Precision and recall at each distinct confidence, falling, thinned; empty without sites."""
    n_sites = len(tally.site_block)
    if not len(tally.confidence) or not n_sites:
        return ()
    steps = bootstrap.last_of_ties(tally.confidence)
    if len(steps) > _CURVE_POINTS:
        steps = steps[np.linspace(0, len(steps) - 1, _CURVE_POINTS).round().astype(int)]
    hits = np.cumsum(tally.hit)
    return tuple(
        CurvePoint(float(tally.confidence[k]), float(hits[k] / (k + 1)), float(hits[k] / n_sites), int(k + 1))
        for k in steps
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
