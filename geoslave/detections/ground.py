"""Where is evaluated: the ground that was searched, without its margin, cut into blocks and tiles.

Areas are taken in Lambert's azimuthal equal-area projection about each part's centre, in which a
length of 50 m is right to a fraction of a percent within 500 km.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Geod, Proj

from geoslave.detections.match import Floats, Geometries, Index, close_boxes, lonlat, to_metres

EDGE_M = 50.0
"""Sites and detections this close to a scene's edge are ignored."""
TILE_M = 500.0
"""About the side of a tile."""
_BLOCKS = 25  # as many as a single scene is cut into: enough for a percentile, few enough to stay apart
_BLOCK_KM = (1.0, 10.0)  # kilns lie 1 km apart in the median: smaller blocks would not be independent
_SEAM_DEG = 1e-5  # about 1 m: tiles that abut up to rounding have no edge between them


@dataclass(frozen=True, slots=True)
class Ground:
    """Where is evaluated: the merged footprints and the blocks they are cut into."""

    footprint: Geometries
    """Separate parts in longitude/latitude."""
    edges: Geometries
    """Their boundaries, as short lines."""
    blocks: Geometries
    """The parts, or cells of them, without the margin."""
    block_km2: Floats
    area_km2: float
    """With the margin, geodesic."""
    edge_m: float

    @property
    def counted_km2(self) -> float:
        """Without the margin."""
        return float(self.block_km2.sum())


def survey(footprints: gpd.GeoDataFrame | gpd.GeoSeries, edge_m: float = EDGE_M) -> Ground:
    """Merge footprints and cut what lies inside the margin into blocks.

    A block is a merged footprint where there are ten or more of them, else a cell that cuts the
    footprints into about 25.

    Args:
        footprints: one polygon a scene, any CRS. What was not looked at must not be in it.

    Raises:
        GeoslaveError: if they have no CRS.
    """
    scenes = _scenes(footprints)
    merged = shapely.union_all(shapely.buffer(scenes, _SEAM_DEG, join_style="mitre"))
    merged = shapely.buffer(merged, -_SEAM_DEG, join_style="mitre")
    parts = shapely.get_parts(np.array([merged], dtype=object))
    parts = parts[~shapely.is_empty(parts)]
    geod = Geod(ellps="WGS84")
    area = sum(abs(geod.geometry_area_perimeter(shapely.segmentize(p, 0.01))[0]) for p in parts) / 1e6
    side = _block_side(area) if len(parts) < 10 else _BLOCK_KM[1] * 1e3
    blocks, km2 = _cut(parts, edge_m, side)
    return Ground(parts, _short_lines(parts), blocks, km2, float(area), edge_m)


def tiles(ground: Ground, side_m: float = TILE_M) -> tuple[Geometries, Floats]:
    """Counted ground in tiles of about a size: outlines in longitude/latitude, areas in km2."""
    return _cut(ground.footprint, ground.edge_m, side_m)


def counts(outlines: Geometries, ground: Ground) -> NDArray[np.bool_]:
    """True for outlines inside the footprints, farther than the margin from their edges."""
    there = np.zeros(len(outlines), bool)
    if not len(ground.footprint):
        return there
    inside, _ = shapely.STRtree(ground.footprint).query(outlines, predicate="intersects")
    there[inside] = True
    i, j = close_boxes(outlines, ground.edges, ground.edge_m)
    origin = shapely.get_coordinates(shapely.point_on_surface(outlines[i]))
    distance = shapely.distance(to_metres(outlines[i], origin), to_metres(ground.edges[j], origin))
    there[i[distance <= ground.edge_m]] = False
    return there


def nearest_cell(outlines: Geometries, cells: Geometries) -> Index:
    """The cell of each outline's point: the one that holds it, else the nearest; 0 without cells."""
    cell = np.zeros(len(outlines), np.intp)
    if len(cells) and len(outlines):
        rows, nearest = shapely.STRtree(cells).query_nearest(shapely.point_on_surface(outlines), all_matches=False)
        cell[rows] = nearest
    return cell


def _scenes(footprints: gpd.GeoDataFrame | gpd.GeoSeries) -> Geometries:
    """Footprints in longitude/latitude, their long straight edges kept where they are in their own CRS.

    Between its ends a straight 100 km edge of a UTM scene leaves the straight line in
    longitude/latitude by 200 m.
    """
    outlines = footprints.geometry
    if outlines.crs is not None and outlines.crs.is_projected:
        outlines = outlines.segmentize(1_000 / outlines.crs.axis_info[0].unit_conversion_factor)
    return lonlat(outlines, "footprints")


def _block_side(area_km2: float) -> float:
    """Side in metres of blocks that cut the area into about `_BLOCKS`."""
    return 1e3 * min(max(sqrt(area_km2 / _BLOCKS), _BLOCK_KM[0]), _BLOCK_KM[1])


def _cut(parts: Geometries, edge_m: float, side_m: float) -> tuple[Geometries, Floats]:
    """Every part without its margin, in cells of about `side_m`."""
    cut = [_cells(part, edge_m, side_m) for part in parts]
    if not cut:
        return np.zeros(0, object), np.zeros(0)
    return np.concatenate([c for c, _ in cut]), np.concatenate([a for _, a in cut])


def _cells(part: shapely.Geometry, edge_m: float, side_m: float) -> tuple[Geometries, Floats]:
    """Cells of one part without its margin, in longitude/latitude, with their areas in km2."""
    lon, lat = shapely.get_coordinates(shapely.centroid(part))[0]
    # Proj rather than a Transformer, which takes long to set up: there may be thousands of parts
    plane = Proj(proj="laea", lat_0=lat, lon_0=lon, ellps="WGS84")
    smooth = shapely.segmentize(part, 0.01)
    local = shapely.transform(smooth, lambda xy: np.column_stack(plane(xy[:, 0], xy[:, 1])))
    inner = shapely.buffer(local, -edge_m, join_style="mitre")
    if inner.is_empty:
        return np.zeros(0, object), np.zeros(0)
    west, south, east, north = inner.bounds
    columns, rows = (max(1, round((high - low) / side_m)) for low, high in ((west, east), (south, north)))
    x, y = np.linspace(west, east, columns + 1), np.linspace(south, north, rows + 1)
    left, lower = np.meshgrid(x[:-1], y[:-1])
    right, upper = np.meshgrid(x[1:], y[1:])
    boxes = shapely.box(left.ravel(), lower.ravel(), right.ravel(), upper.ravel())
    shapely.prepare(inner)
    at_edge = ~shapely.contains_properly(inner, boxes)
    boxes[at_edge] = shapely.intersection(inner, boxes[at_edge])
    area = shapely.area(boxes)
    cells = boxes[area > 0]
    outlines = shapely.transform(cells, lambda xy: np.column_stack(plane(xy[:, 0], xy[:, 1], inverse=True)))
    return np.asarray(outlines, object), area[area > 0] / 1e6


def _short_lines(parts: Geometries) -> Geometries:
    """The boundaries of polygons as lines of at most about 1 km, so that a tree can tell near from far."""
    rings = shapely.get_parts(shapely.boundary(parts))
    coordinates, ring = shapely.get_coordinates(shapely.segmentize(rings, 0.01), return_index=True)
    same = ring[1:] == ring[:-1]
    ends = np.stack([coordinates[:-1][same], coordinates[1:][same]], axis=1)
    return np.asarray(shapely.linestrings(ends)) if len(ends) else np.zeros(0, object)
