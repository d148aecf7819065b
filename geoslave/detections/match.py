"""Matching two sets of sites, one to one, in metres, anywhere on earth.

No single projection is right for a layer that spans UTM zones, so none is used. Candidates are
found with a tree over longitude and latitude; each candidate *pair* is then measured in its own
plane, tangent where the pair lies: x = N(lat) cos(lat) dlon and y = M(lat) dlat, with N and M the
radii of curvature of the WGS 84 ellipsoid (Snyder 1987, Map Projections: A Working Manual, eq.
4-18 to 4-20). Within 1 km of its origin the plane is right to a few centimetres at latitudes where
people make bricks; the distances that decide are 35 and 50 m.
"""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from geoslave.errors import GeoslaveError

MAX_DISTANCE_M = 50.0
"""A detection whose representative point is this close to a labelled site is a hit."""
MIN_IOU = 0.1
"""So is one that overlaps it by this intersection over union."""
DUPLICATE_M = 35.0
"""Two labels whose centres are this close are one site (shared/data/README: 3 to 30 m apart)."""

_SEMI_MAJOR_M = 6_378_137.0
_ECCENTRICITY2 = 6.694379990141e-3
_PAIRS_AT_ONCE = 50_000  # bounds the memory that local copies of large outlines take

Geometries = NDArray[np.object_]
Index = NDArray[np.intp]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Matching:
    """Which detection is which site. Positions count rows of the tables that were matched, from 0."""

    detection: Index
    """Position of each matched detection, ascending."""
    site: Index
    """Position of its site; no site and no detection occurs twice."""
    distance_m: Floats
    """From the detection's representative point to the site's outline; 0 inside."""
    iou: Floats
    """Intersection over union of the two outlines."""
    n_detections: int
    n_sites: int

    def __len__(self) -> int:
        return len(self.detection)

    @property
    def site_of(self) -> Index:
        """Per detection the position of its site, -1 where it has none."""
        sites = np.full(self.n_detections, -1, np.intp)
        sites[self.detection] = self.site
        return sites

    @property
    def detection_of(self) -> Index:
        """Per site the position of its detection, -1 where it has none."""
        detections = np.full(self.n_sites, -1, np.intp)
        detections[self.site] = self.detection
        return detections


@dataclass(frozen=True, slots=True)
class Hits:
    """Every pair of a detection and a site that could be the same place: many to many."""

    detection: Index
    site: Index
    distance_m: Floats
    iou: Floats


def match_sites(
    detections: gpd.GeoDataFrame,
    sites: gpd.GeoDataFrame,
    max_distance_m: float = MAX_DISTANCE_M,
    min_iou: float = MIN_IOU,
) -> Matching:
    """Match detections with sites, one to one.

    A detection hits a site when its representative point lies within `max_distance_m` of the site's
    outline, or when the two overlap by at least `min_iou`. Detections choose in order of
    `confidence` (all alike where the column is missing); each takes, of the sites it hits that are
    still free, the one it overlaps most, then the nearest. So the matching of the detections above
    a threshold is the same whether or not those below it are given. Ties go to the detection with
    the better site, then to the earlier row.

    Args:
        detections, sites: any CRS, any geometry type; they need not share the CRS.

    Raises:
        GeoslaveError: if a layer has no CRS.
    """
    pairs = find_hits(lonlat(detections, "detections"), lonlat(sites, "sites"), max_distance_m, min_iou)
    confidence = detections["confidence"].to_numpy(float) if "confidence" in detections else np.zeros(len(detections))
    return assign(pairs, confidence, len(sites))


def find_hits(
    detections: Geometries, sites: Geometries, max_distance_m: float = MAX_DISTANCE_M, min_iou: float = MIN_IOU
) -> Hits:
    """Every detection with every site it hits. Geometries in longitude/latitude (see `lonlat`)."""
    points = shapely.point_on_surface(detections)
    i, j = close_boxes(detections, sites, max_distance_m)
    distance, iou = np.empty(len(i)), np.empty(len(i))
    for part in _parts(len(i)):
        a, b = i[part], j[part]
        origin = shapely.get_coordinates(points[a])
        outline = to_metres(sites[b], origin)
        distance[part] = shapely.distance(to_metres(points[a], origin), outline)
        iou[part] = _iou(to_metres(detections[a], origin), outline)
    hit = (distance <= max_distance_m) | (iou >= min_iou)
    return Hits(i[hit], j[hit], distance[hit], iou[hit])


def assign(pairs: Hits, confidence: Floats, n_sites: int) -> Matching:
    """Hand out sites to detections in order of confidence, each site once (see `match_sites`)."""
    n_detections = len(confidence)
    best_iou, nearest = np.zeros(n_detections), np.full(n_detections, np.inf)
    np.maximum.at(best_iou, pairs.detection, pairs.iou)
    np.minimum.at(nearest, pairs.detection, pairs.distance_m)
    d = pairs.detection
    order = np.lexsort((pairs.site, pairs.distance_m, -pairs.iou, d, nearest[d], -best_iou[d], -confidence[d]))
    detection_free, site_free = np.ones(n_detections, bool), np.ones(n_sites, bool)
    taken = []
    for k in order:
        if detection_free[d[k]] and site_free[pairs.site[k]]:
            detection_free[d[k]] = site_free[pairs.site[k]] = False
            taken.append(k)
    chosen = np.array(sorted(taken, key=lambda k: d[k]), np.intp)
    return Matching(d[chosen], pairs.site[chosen], pairs.distance_m[chosen], pairs.iou[chosen], n_detections, n_sites)


def merge_duplicates(sites: gpd.GeoDataFrame, within_m: float = DUPLICATE_M) -> gpd.GeoDataFrame:
    """Sites labelled more than once, once.

    Labels whose centres (centroids) lie within `within_m` of each other, directly or through
    others, are one site (single linkage). Of each group the largest outline is kept, with its
    attributes: a site cut by one chip's edge is whole in the next. An outline that was drawn is
    kept rather than a union, so that merging twice changes nothing. The order of rows stays.
    """
    geometry = lonlat(sites, "sites")
    group = _linked(shapely.centroid(geometry), within_m)
    area = sites_area(geometry)
    order = np.lexsort((np.arange(len(sites)), -area, group))
    first = np.r_[True, group[order][1:] != group[order][:-1]] if len(order) else np.zeros(0, bool)
    return sites.iloc[np.sort(order[first])]


def lonlat(layer: gpd.GeoDataFrame | gpd.GeoSeries, name: str = "layer") -> Geometries:
    """The outlines of a layer in longitude/latitude (WGS 84), repaired where they are invalid.

    Raises:
        GeoslaveError: if the layer has no CRS.
    """
    if layer.crs is None:
        raise GeoslaveError(f"the {name} have no CRS: say where they are with  layer.set_crs('EPSG:4326')")
    geometry = np.asarray(layer.geometry.to_crs(4326).array, dtype=object)
    broken = ~shapely.is_valid(geometry) & ~shapely.is_missing(geometry)
    if broken.any():
        geometry = geometry.copy()
        geometry[broken] = shapely.make_valid(geometry[broken])
    return geometry


def close_boxes(a: Geometries, b: Geometries, metres: float) -> tuple[Index, Index]:
    """Pairs (position in a, position in b) whose bounding boxes come within `metres`; sorted.

    Geometries in longitude/latitude; pairs across the antimeridian are found.
    """
    if not len(a) or not len(b):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    west, south, east, north = shapely.bounds(a).T
    per_lon, per_lat = metres_per_degree(np.maximum(np.abs(south), np.abs(north)))
    # 1 % more: a box that is too large costs a comparison, one too small a match
    dx, dy = 1.01 * metres / per_lon, 1.01 * metres / per_lat
    tree = shapely.STRtree(b)
    found = []
    for shift in (0.0, -360.0, 360.0):
        rows = np.flatnonzero((west - dx + shift <= 180) & (east + dx + shift >= -180))
        boxes = shapely.box(
            (west - dx + shift)[rows], (south - dy)[rows], (east + dx + shift)[rows], (north + dy)[rows]
        )
        i, j = tree.query(boxes)
        found.append(np.stack([rows[i], j]))
    i, j = np.unique(np.concatenate(found, axis=1), axis=1)
    return i.astype(np.intp), j.astype(np.intp)


def to_metres(geometry: Geometries, origin: Floats) -> Geometries:
    """Each geometry in metres on the plane that touches the earth at its own origin.

    Args:
        geometry: n geometries in longitude/latitude.
        origin: [n, 2], longitude and latitude in degrees.
    """
    coordinates, row = shapely.get_coordinates(geometry, return_index=True)
    per_lon, per_lat = metres_per_degree(origin[:, 1])
    dlon = (coordinates[:, 0] - origin[row, 0] + 180) % 360 - 180
    local = np.stack([dlon * per_lon[row], (coordinates[:, 1] - origin[row, 1]) * per_lat[row]], axis=1)
    return np.asarray(shapely.set_coordinates(geometry.copy(), local))


def metres_per_degree(latitude: Floats) -> tuple[Floats, Floats]:
    """Length in metres of a degree of longitude and one of latitude on WGS 84 (Snyder 1987, eq. 4-18, 4-20)."""
    # at the pole a degree of longitude has no length; 89.99 keeps divisions finite
    phi = np.radians(np.clip(latitude, -89.99, 89.99))
    w2 = 1 - _ECCENTRICITY2 * np.sin(phi) ** 2
    per_lon = np.radians(1) * _SEMI_MAJOR_M * np.cos(phi) / np.sqrt(w2)
    per_lat = np.radians(1) * _SEMI_MAJOR_M * (1 - _ECCENTRICITY2) / w2**1.5
    return per_lon, per_lat


def sites_area(geometry: Geometries) -> Floats:
    """Areas in m2 of outlines in longitude/latitude, each on its own plane: for sites, not for countries."""
    return np.asarray(shapely.area(to_metres(geometry, _xy(shapely.centroid(geometry)))))


def near_points(points: Geometries, within_m: float) -> tuple[Index, Index]:
    """Pairs (i, j), both ways and each point with itself, of points in longitude/latitude within a distance."""
    i, j = close_boxes(points, points, within_m)
    origin = _xy(points)[i]
    near = shapely.distance(to_metres(points[i], origin), to_metres(points[j], origin)) <= within_m
    return i[near], j[near]


def _linked(points: Geometries, within_m: float) -> Index:
    """A group number per point; points within the distance, directly or through others, share one."""
    n = len(points)
    if not n:
        return np.zeros(0, np.intp)
    i, j = near_points(points, within_m)
    graph = coo_matrix((np.ones(len(i)), (i, j)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.intp)


def _iou(a: Geometries, b: Geometries) -> Floats:
    """Intersection over union of pairs; 0 for points and lines."""
    iou = np.zeros(len(a))
    meet = np.flatnonzero(shapely.intersects(a, b))
    common = shapely.area(shapely.intersection(a[meet], b[meet]))
    union = shapely.area(a[meet]) + shapely.area(b[meet]) - common
    np.divide(common, union, out=common, where=union > 0)
    iou[meet] = common
    return iou


def _xy(points: Geometries) -> Floats:
    """[n, 2] coordinates of points; NaN where a point is empty or missing."""
    return np.stack([shapely.get_x(points), shapely.get_y(points)], axis=1)


def _parts(n: int) -> list[slice]:
    return [slice(start, min(start + _PAIRS_AT_ONCE, n)) for start in range(0, n, _PAIRS_AT_ONCE)]
